"""What readers do with files that nobody foresaw: a sound value, or left out with a named warning.

Each property is tried on 200 files, and on 2,000 in the slow test.
"""

import json
import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_helpers import write_run

from swa_bench.analysis import export
from swa_bench.errors import SwaBenchError
from swa_bench.reporting.tables import make_tables
from swa_bench.results.epochs import read_epochs
from swa_bench.results.frames import cells_frame, epochs_frame
from swa_bench.results.reach import describe
from swa_bench.results.record import parse_record, read_record
from swa_bench.results.widths import read_width
from swa_bench.text import CONTROL

SHIPPED = Path(__file__).parent.parent / "results" / "shipped"
WIDTH = json.loads(max(SHIPPED.rglob("width/*.json")).read_text())
OLD = Path(__file__).parent / "fixtures" / "records-format-1.json"
FORMAT_1 = json.dumps(next(iter(json.loads(OLD.read_text()).values())))


def _run() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), {1.0: 6.5}, [0.05, 0.05, 0.02, 0.01])
        (path,) = Path(folder).rglob("cell-1.json")
        return path.read_bytes(), path.with_name("epochs.csv").read_bytes()


RECORD, EPOCHS = _run()
RECORDS = [json.loads(RECORD) | {"versions": {"torch": "2"}, "warnings": []}, json.loads(FORMAT_1)]

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 101, 2**63, 10**400, 1e308, math.nan, math.inf, True]),
)
texts = st.one_of(
    st.text(max_size=8),
    st.text(st.characters(), max_size=4),
    st.sampled_from(["../x", "\x1b[0m", "\ud800", "a\n", "\u202e", "1", "${x}", "NaN"]),
)
leaves = st.one_of(st.none(), numbers, texts)
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values inside nested ones; of a list, to its first."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value[:1])):
            found += places(value[name], (*path, name))
    return found


@st.composite
def mutated(draw: st.DrawFn, sound: Any) -> bytes:
    """A sound value with one to three parts deleted or replaced by anything, as JSON."""
    values = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(values)))
        group = values
        for name in way:
            group = group[name]
        if draw(st.booleans()):
            group[last] = draw(anything)
        else:
            del group[last]
        if not values:
            break
    return json.dumps(values).encode()


@st.composite
def flipped(draw: st.DrawFn, sound: bytes) -> bytes:
    """Sound bytes with some replaced, cut off or put in."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.sampled_from([start, start + 1, len(content)]))
        content[start:end] = draw(st.binary(max_size=3))
    return bytes(content)


@st.composite
def mutated_csv(draw: st.DrawFn) -> bytes:
    """A sound epochs.csv with one to three fields replaced, put in or deleted."""
    lines = [line.split(",") for line in EPOCHS.decode().splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        line = draw(st.sampled_from(lines))
        place = draw(st.integers(0, len(line) - 1)) if line else 0
        line[place : place + draw(st.integers(0, 1))] = draw(
            st.lists(st.one_of(numbers.map(str), texts), max_size=1)
        )
    return "".join(f"{','.join(line)}\n" for line in lines).encode("utf-8", "surrogatepass")


def in_range(value: Any, name: str = "") -> bool:
    """Whether all text is printable, and all numbers are finite; those in % also from 0 to 100."""
    if isinstance(value, dict):
        return all(in_range(key) and in_range(inner, key) for key, inner in value.items())
    if isinstance(value, list):
        return all(in_range(inner, name) for inner in value)
    if isinstance(value, str):
        return CONTROL.search(value) is None
    if isinstance(value, int | float):
        known = name in ("test_error_pct", "test_ece_pct", "train_error_pct")
        return math.isfinite(value) and (not known or 0 <= value <= 100)
    return value is None


class Warned(logging.Handler):
    """Notes what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def left_out(path: Path, read: Callable[[Path], Any]) -> Any:
    """What a reader gives; if nothing, it must have named the file."""
    handler, logger = Warned(), logging.getLogger("swa_bench")
    logger.addHandler(handler)
    try:
        found = read(path)
    finally:
        logger.removeHandler(handler)
    assert found or any(str(path) in said for said in handler.said)
    return found


def place_of(folder: Path, content: bytes) -> Path:
    """Where a record would lie, if it says so, so that it is not left out for its place alone."""
    try:
        place = parse_record(json.loads(content)).place
        if not place.is_absolute() and ".." not in place.parts and max(map(len, place.parts)) < 99:
            return folder / place
    except (ValueError, RecursionError, OverflowError):
        pass
    return folder / "cell-1.json"


def check_record(content: bytes) -> None:
    """Sound records also make tables."""
    with tempfile.TemporaryDirectory() as name:
        path = place_of(Path(name), content)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        record = left_out(path, read_record)
        if record:
            assert in_range(record.model_dump(mode="json"))
            assert isinstance(record.option("method", "result"), str | None)
            cells = cells_frame([record])
            for table in make_tables(cells, epochs_frame(cells)):
                assert all((table.text(), table.markdown(), table.latex(), table.csv()))


def check_epochs(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "epochs.csv"
        path.write_bytes(content)
        rows = left_out(path, lambda path: read_epochs(path) or content.count(b"\n") < 2)
        if isinstance(rows, list):
            assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
            assert in_range(rows)


def check_width(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "width.json"
        path.write_bytes(content)
        try:
            found = read_width(path)
        except SwaBenchError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert in_range(found) and describe(found) is not None


def exported(content: Any = RECORDS[0] | {"weights_after_epoch": None}) -> bytes:
    text = json.dumps(content)
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3)}
    metadata = {export.METADATA: text, export.DIGEST: export.content_digest(text, tensors)}
    return safetensors.torch.save(tensors, metadata)


def check_exported(content: bytes) -> None:
    """A record that is changed with its digest is read as any; other changes are noticed."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "net.safetensors"
        path.write_bytes(content)
        try:
            found = export.read_exported(path)
        except SwaBenchError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert in_range(found.record.model_dump(mode="json"))


PROPERTIES: dict[str, tuple[Callable[[bytes], None], st.SearchStrategy[bytes]]] = {
    "any JSON": (check_record, anything.map(lambda values: json.dumps(values).encode())),
    "mutated records": (check_record, st.sampled_from(RECORDS).flatmap(mutated)),
    "flipped records": (check_record, flipped(RECORD)),
    "mutated epochs": (check_epochs, mutated_csv()),
    "flipped epochs": (check_epochs, flipped(EPOCHS)),
    "mutated widths": (check_width, mutated(WIDTH)),
    "flipped widths": (check_width, flipped(json.dumps(WIDTH).encode())),
    "exported records": (
        check_exported,
        mutated(RECORDS[0] | {"weights_after_epoch": None}).map(json.loads).map(exported),
    ),
    "flipped exports": (check_exported, flipped(exported())),
}


def fuzz(name: str, examples: int) -> None:
    check, strategy = PROPERTIES[name]
    options = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    options(given(strategy)(check))()


@pytest.mark.parametrize("name", PROPERTIES)
def test_readers_survive_200_files(name: str) -> None:
    fuzz(name, 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPERTIES)
def test_readers_survive_2000_files(name: str) -> None:
    fuzz(name, 2000)
