"""The records of each row of the tables, and the walks that left them.

Nothing here imports torch.
"""

from pathlib import Path

import pandas as pd

from swa_bench.errors import SwaBenchError
from swa_bench.labels import LABELS, PAPER_DATASETS, PAPER_MODELS, by_options, in_order
from swa_bench.results.record import EPOCH_COLUMNS, Record
from swa_bench.results.statistics import variant_text


def groups(records: list[Record]) -> list[list[Record]]:
    """The records of each data set, model and variant, in the order of the tables."""
    found: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        key = (record["dataset"], record["model"], variant_text(record["variant"]))
        found.setdefault(key, []).append(record)
    datasets = in_order((key[0] for key in found), PAPER_DATASETS)
    models = in_order((key[1] for key in found), PAPER_MODELS)

    def place(key: tuple[str, str, str]) -> tuple[int, int, tuple[int, str]]:
        return datasets.index(key[0]), models.index(key[1]), by_options(key[2])

    return [found[key] for key in sorted(found, key=place)]


def title(records: list[Record]) -> str:
    """The row that records of one data set, model and variant belong to."""
    model, dataset = (LABELS.get(records[0][key], records[0][key]) for key in ("model", "dataset"))
    return f"{model} on {dataset}"


def recipe(records: list[Record]) -> str:
    """The options in which a row's recipe differs from the published one, if any."""
    return variant_text(records[0]["variant"]) or "the published recipe"


def devices(records: list[Record]) -> str:
    """The devices that a row's records name."""
    return "; ".join(sorted({str(record["device"]) for record in records}))


def longest_cells(records: list[Record]) -> list[Record]:
    """The longest cell of each walk, whose epochs.csv and timing hold those of its shorter ones.

    A walk that is recorded twice counts once, as in `summary.cells_frame`: the later path wins.
    Ensembles of several runs have no walk of their own.
    """
    longest: dict[tuple[str, ...], Record] = {}
    for record in filter(is_trained, records):
        key = tuple(str(record[k]) for k in ("dataset", "model", "method", "identity", "seed"))
        if key not in longest or record["budget"] >= longest[key]["budget"]:
            longest[key] = record
    return list(longest.values())


def is_trained(record: Record) -> bool:
    """Whether a record is of a run of its own, and not put together from other runs'."""
    return "runs" not in record


def has_epochs(record: Record) -> bool:
    """Whether a record is of a walk whose epochs.csv lies beside it."""
    path: Path = record["path"].parent / "epochs.csv"
    return is_trained(record) and path.exists()


def read_epochs(path: Path) -> pd.DataFrame:
    """The rows of an epochs.csv, as numbers; those of before ensembles lack their two columns.

    Raises:
        SwaBenchError: it is damaged.
    """
    try:
        frame = pd.read_csv(path)
        before = [name for name in EPOCH_COLUMNS if not name.startswith("ensemble_")]
        if list(frame) not in (EPOCH_COLUMNS, before):
            raise ValueError("its columns are not those of epochs.csv")
        return frame.reindex(columns=EPOCH_COLUMNS).astype(float)
    except ValueError as error:  # pandas' own errors too
        raise SwaBenchError(f"{path} is damaged: {error}. Delete it or train again.") from error
