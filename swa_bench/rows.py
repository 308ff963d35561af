"""The records of each row of the tables, and the walks that left them.

Nothing here imports torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from . import tables
from .errors import SwaBenchError
from .records import EPOCH_COLUMNS, Record
from .summary import variant_text


def groups(records: list[Record]) -> list[list[Record]]:
    """The records of each data set, model and variant, in the order of the tables."""
    found: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        key = (record["dataset"], record["model"], variant_text(record["variant"]))
        found.setdefault(key, []).append(record)

    def place(key: tuple[str, str, str]) -> tuple[int, int, tuple[str, str, str]]:
        return _place(key[0], tables.PAPER_DATASETS), _place(key[1], tables.PAPER_MODELS), key

    return [found[key] for key in sorted(found, key=place)]


def _place(name: str, known: Sequence[str]) -> int:
    return known.index(name) if name in known else len(known)


def title(records: list[Record]) -> str:
    """The row that records of one data set, model and variant belong to."""
    model, dataset = (
        tables.LABELS.get(records[0][key], records[0][key]) for key in ("model", "dataset")
    )
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
    """
    longest: dict[tuple[str, ...], Record] = {}
    for record in records:
        key = tuple(str(record[k]) for k in ("dataset", "model", "method", "identity", "seed"))
        if key not in longest or record["budget"] >= longest[key]["budget"]:
            longest[key] = record
    return list(longest.values())


def has_epochs(record: Record) -> bool:
    """Whether epochs.csv lies beside a record."""
    path: Path = record["path"].parent / "epochs.csv"
    return path.exists()


def read_epochs(path: Path) -> pd.DataFrame:
    """The rows of an epochs.csv, as numbers.

    Raises:
        SwaBenchError: it is damaged.
    """
    try:
        frame = pd.read_csv(path)
        if list(frame) != EPOCH_COLUMNS:
            raise ValueError("its columns are not those of epochs.csv")
        return frame.astype(float)
    except ValueError as error:  # pandas' own errors too
        raise SwaBenchError(f"{path} is damaged: {error}. Delete it or train again.") from error


def value(record: Record, *names: str) -> Any:
    """What a record says under nested names, or None: not all that is printed is needed."""
    found: Any = record
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found
