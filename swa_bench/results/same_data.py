"""Whether records are of the images that are there now; others are never mixed or overwritten."""

from pathlib import Path

from swa_bench.config.identity import DataIdentity
from swa_bench.config.schema import DatasetConfig, TrainConfig
from swa_bench.errors import SwaBenchError
from swa_bench.results.record import Record, read_record, record_path, run_folder


def difference(record: Record, dataset: DatasetConfig, data: DataIdentity) -> str | None:
    """In what a record's images differ from those that are there now; None if in nothing."""
    if record.is_of(data):
        return None
    where = f"{dataset.name} in {dataset.root} now has"
    if other_classes(record, data):
        names = ", ".join(record.class_names or [])
        return f"of other classes ({names}; {where} {', '.join(data.class_names)})"
    there = (record.data_sha256 or "")[:12]
    return f"of other images (data_sha256 {there}; {where} {data.sha256[:12]})"


def other_classes(record: Record, data: DataIdentity) -> bool:
    """Whether the labels of a record have other meanings."""
    return record.class_names is not None and tuple(record.class_names) != data.class_names


def check_data(
    path: Path, record: Record, dataset: DatasetConfig, data: DataIdentity, fix: str
) -> None:
    """Raise SwaBenchError, which names a fix, if a record is of other images or classes."""
    if found := difference(record, dataset, data):
        raise SwaBenchError(f"{path} is {found}: {fix}")


def check_run(config: TrainConfig, data: DataIdentity, reports: list[TrainConfig]) -> None:
    """Check all records of a run before it is trained, or trained further.

    Args:
        reports: what is written, and with config.force overwritten.

    Raises:
        SwaBenchError: one of the others is of other images or classes.
    """
    replaced = {record_path(report) for report in reports} if config.force else set()
    for path in sorted(run_folder(config).glob("cell-*.json")):
        if path not in replaced and (record := read_record(path)) is not None:
            check_data(path, record, config.dataset, data, fix_of(record))


def fix_of(record: Record) -> str:
    """What to do about a record of other images."""
    again = f"train it again with force=true budget={record.budget:g}"
    return f"choose another results_dir or dataset.name, or {again}"
