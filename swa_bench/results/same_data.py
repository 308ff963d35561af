"""Whether records are of the images and the code that are there now; no others are overwritten."""

from pathlib import Path
from typing import Any

from swa_bench.config.identity import DataIdentity
from swa_bench.config.own_code import changed
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


def check_code(path: Path, record: Record, config: TrainConfig, fix: str) -> None:
    """Raise SwaBenchError, which names a fix, if the user's own code has changed since a record."""
    if found := changed(record.source_sha256, config):
        raise SwaBenchError(f"{path}: {found} has changed since: {fix}")


def check_run(config: TrainConfig, data: DataIdentity | None, reports: list[TrainConfig]) -> None:
    """Raise SwaBenchError if a record that stays is of other images, classes or code than now.

    Args:
        data: the images that are there; None if they are not known yet.
        reports: what is written, and with config.force overwritten.
    """
    replaced = {record_path(report) for report in reports} if config.force else set()
    others = set(run_folder(config).glob("cell-*.json")) - replaced
    records = filter(None, map(read_record, sorted(others)))
    for record in sorted(records, key=lambda record: -record.budget):  # force replaces the shorter
        check_code(record.path, record, config, fix_of(record, "model.name"))
        if data is not None:
            check_data(record.path, record, config.dataset, data, fix_of(record))


def other_code(segments: list[dict[str, Any]], epoch: int, config: TrainConfig) -> list[str]:
    """A sentence on each segment of the state after `epoch` epochs that other code has trained."""
    found = []
    for segment in reversed(segments):
        if what := changed(segment.get("source_sha256", {}), config):
            found.append(
                f"{what} has changed since epochs {segment['from_epoch']} to {epoch}, which are "
                "kept: force=true starts again from epoch 1."
            )
        epoch = segment["from_epoch"] - ("from_step" not in segment)
    return found


def fix_of(record: Record, name: str = "dataset.name") -> str:
    """What to do about a record of other images or, with a name for it, of another network."""
    again = f"train it again with force=true budget={record.budget:g}"
    return f"choose another results_dir or {name}, or {again}"
