"""epochs.csv: one row per epoch of a run, empty where nothing was measured."""

import csv
import functools
import io
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from swa_bench.files import append, write_atomically
from swa_bench.results.foreign import LARGEST_INTEGER, if_sound, read_file, set_aside
from swa_bench.text import check_printable

# A method's own predictor adds <name>_test_loss and <name>_test_error_pct.
EPOCH_COLUMNS = [
    "epoch",
    "learning_rate",
    "train_loss",
    "train_error_pct",
    "test_loss",
    "test_error_pct",
    "swa_test_loss",
    "swa_test_error_pct",
    "ensemble_test_loss",
    "ensemble_test_error_pct",
    "n_averaged",
    "seconds",
]
BEFORE_ENSEMBLES = [name for name in EPOCH_COLUMNS if not name.startswith("ensemble_")]
TESTED = "_test_error_pct"  # ends the columns that hold a predictor's test error
Row = dict[str, Any]

_Count = Annotated[int, Field(ge=0, lt=LARGEST_INTEGER)]
_NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)] | None  # the others may be empty
_Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None
_KINDS: dict[str, Any] = {
    "epoch": _Count,
    "learning_rate": _NonNegative,
    "n_averaged": _Count | None,
    "seconds": _NonNegative | None,
}


def epoch_columns(predictors: Iterable[str]) -> list[str]:
    """The columns for a method with predictors of its own."""
    own = [f"{name}_test_{what}" for name in predictors for what in ("loss", "error_pct")]
    place = EPOCH_COLUMNS.index("n_averaged")
    return [*EPOCH_COLUMNS[:place], *own, *EPOCH_COLUMNS[place:]]


def tested_columns(columns: Iterable[object]) -> list[str]:
    """The test errors of the predictors: swa_test_error_pct and so on."""
    return [name for name in map(str, columns) if name.endswith(TESTED)]


def write_epochs(
    folder: Path,
    rows: list[Row],
    predictors: Iterable[str] = (),
    before: int = -1,
    sync: bool = True,
) -> int:
    """Write epochs.csv, or add the last row to it if the others are there already.

    Rows of later epochs that the file already holds stay: a shorter run, or one that is trained
    again, removes nothing from a longer one. A damaged file is moved aside.

    Args:
        before: what this function returned for the rows without the last one.
        sync: whether a row that is added is flushed to the disk. One that is not survives the end
            of the process, but not a power cut.

    Returns:
        The size of the file in bytes, if the last of these rows ends it, else -1.
    """
    path, columns = folder / "epochs.csv", epoch_columns(predictors)
    if path.exists() and path.stat().st_size == before:
        content = _lines(columns, rows[-1:])
        append(path, content, sync)
        return before + len(content)
    later: list[Row] = []
    try:
        later = parse_epochs(path)[len(rows) :]
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        set_aside(path, error)
    header = dict(zip(columns, columns, strict=True))
    content = _lines(columns, [header, *rows, *later])
    write_atomically(path, content)
    return -1 if later else len(content)


def _lines(columns: list[str], rows: list[Row]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, columns, "", "ignore", lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def read_epochs(path: Path) -> list[Row]:
    """The rows of epochs 1, 2, 3 and so on; none where there is no sound file, as the log says."""
    return if_sound(parse_epochs, path) or []


def shared_with(folder: Path, row: Row) -> str:
    """Which run computed an epoch from which another starts: ", shared with sgd", "" for itself."""

    def has_it(run: Path) -> bool:
        same = read_epochs(run / "epochs.csv")[row["epoch"] - 1 : row["epoch"]]
        return bool(same) and all(same[0][n] == row[n] for n in ("train_loss", "seconds"))

    if has_it(folder):
        return ""
    seed = folder.name.split("-seed")[-1].split("-")[0]
    others = filter(has_it, sorted(folder.parent.glob(f"*-seed{seed}-*")))
    method = next((run.name.split("-seed")[0] for run in others), "a run that is gone")
    return f", shared with {method}"


def parse_epochs(path: Path) -> list[Row]:
    """The whole rows of an epochs.csv; ValueError if it is damaged, OSError if it is not there."""
    whole, newline, begun = read_file(path).decode().rpartition("\n")
    text = io.StringIO(whole + newline, newline="")
    try:
        lines = [[value or None for value in line] for line in csv.reader(text, strict=True)]
    except csv.Error as error:
        raise ValueError(str(error)) from error
    header = [name or "" for name in lines.pop(0)] if lines else []
    own = [name for name in tested_columns(header) if name not in EPOCH_COLUMNS]
    columns = epoch_columns(name.removesuffix(TESTED) for name in own)
    check_printable(header, "its header")
    if header not in (columns, BEFORE_ENSEMBLES) or len(set(header)) < len(header):
        raise ValueError("its columns are not those of epochs.csv")
    try:
        found = _schema(tuple(header)).validate_python(lines)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        row, *column = map(int, fault["loc"])
        where = "".join(f", {header[index]}" for index in column if index < len(header))
        raise ValueError(f"row {row + 1}{where}: {fault['msg']}") from None
    if [line[0] for line in found] != list(range(1, len(found) + 1)):
        raise ValueError("its epochs are not 1, 2, 3 and so on")
    following = f"{len(found) + 1},"  # the row that is being written, or was when the power failed
    if begun[: len(following)] != following[: len(begun)]:
        raise ValueError("it ends with what is no row's beginning")
    empty = dict.fromkeys(columns)
    return [empty | dict(zip(header, line, strict=True)) for line in found]


@functools.lru_cache(16)
def _schema(header: tuple[str, ...]) -> TypeAdapter[Any]:
    """The type and bounds of each column, for all rows; a row has as many fields as columns."""
    kinds = [_KINDS.get(n, _Percent if n.endswith("_error_pct") else _Finite) for n in header]
    row: Any = types.GenericAlias(tuple, tuple(kinds))
    return TypeAdapter(list[row])
