"""Files that are not sound are named and left out: nothing else is stopped by them."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from record_helpers import write_record, write_run
from training_helpers import TINY, SwaTrain

from swa_bench.commands import width
from swa_bench.commands.records import swa_figures, swa_report, swa_tables
from swa_bench.commands.status import swa_status
from swa_bench.errors import SwaBenchError
from swa_bench.results.epochs import EPOCH_COLUMNS, read_epochs, write_epochs
from swa_bench.results.finished import read_predictions
from swa_bench.results.frames import cells_frame
from swa_bench.results.record import read_record, read_records
from swa_bench.results.widths import read_width

ROOT = Path(__file__).parent.parent
WIDTHS = sorted((ROOT / "results" / "shipped").rglob("width/*.json"), reverse=True)
Change = Callable[[bytes], bytes]


def fields(**changes: Any) -> Change:
    """A JSON file with some fields replaced; those of a group are replaced in it."""

    def change(content: bytes) -> bytes:
        values = json.loads(content)
        for name, value in changes.items():
            group = isinstance(values.get(name), dict) and isinstance(value, dict)
            values[name] = {**values[name], **value} if group else value
        return json.dumps(values).encode()

    return change


def text(old: str, new: str) -> Change:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode("utf-8", "surrogateescape"), 1)

    return change


ANY_JSON: dict[str, Change] = {
    "empty": lambda content: b"",
    "list": lambda content: b"[]",
    "truncated": lambda content: content[:-20],
    "deep": lambda content: b"[" * 100_000 + b"]" * 100_000,
    "deep inside": lambda content: content[:-1] + b',"x":' + b"[" * 60 + b"]" * 60 + b"}",
    "not UTF-8": text("vgg16", "vgg\udcff"),
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "NUL": text("vgg16", "vgg\\u0000"),
    "surrogate": fields(device="\ud800"),
    "escape": fields(device="\x1b[31m"),
    "direction": fields(device="\u202egnp"),
    "new line": fields(recipe_diff={"a": "1\n\\input{x}"}),
    "new line in a key": fields(versions={"a\u2028": "1"}),
    "a key twice": lambda content: content[:-1] + b', "model": "vgg16"}',
    "path": fields(dataset="../../x"),
    "path in model": fields(model="a/b"),
    "name with a new line": fields(model="vgg16\n"),
    "no recipe": fields(recipe_diff=None),
    "format as text": fields(format="2"),
    "format true": fields(format=True),
}
RECORDS = ANY_JSON | {
    "error NaN": text("6.5", "NaN"),
    "error 1e400": text("6.5", "1e400"),
    "error true": fields(result={"test_error_pct": True}),
    "another budget": fields(config={"budget": 1.25}),
    "another model": fields(config={"model": {"name": "preresnet20"}}),
    "another seed": fields(config={"seed": 1}),
    "error as text": fields(result={"test_error_pct": "6.5"}),
    "error -1": fields(result={"test_error_pct": -1}),
    "error 101": fields(result={"test_error_pct": 101}),
    "loss true": fields(result={"test_loss": True}),
    "loss of last weights true": fields(result={"last_weights": {"test_loss": True}}),
    "collected -1": fields(result={"n_averaged": -1}),
    "budget true": fields(budget=True),
    "budget 0": fields(budget=0),
    "seed as text": fields(seed="0"),
    "seed huge": fields(seed=10**30),
    "seed huger": text('"seed": ', '"seed": ' + "9" * 5000),
    "epochs huge": fields(epochs=10**300),
    "seconds as text": fields(timing={"seconds": "1"}),
    "seconds -1": fields(timing={"seconds": -1}),
    "config is a list": fields(config=[1]),
    "method is text": fields(config={"method": "x"}),
    "result is a list": fields(config={"method": {"result": ["x"]}}),
    "versions is a list": fields(versions=[]),
    "runs is a list": fields(runs=[]),
    "no timing": fields(timing=None),
    "method is a path": fields(method="../x"),
    "digest is a number": fields(schedule_sha256=3),
    "source is text": fields(source_sha256="a" * 64),
    "source is a number": fields(source_sha256={"model._target_": 3}),
    "source is no digest": fields(source_sha256={"model._target_": "a" * 63}),
    "format 1 of nonsense": fields(format=1, variant=[], config={"a": 1, "a.b": 2}),
}
EPOCHS: dict[str, Change] = {
    "empty": lambda content: b"",
    "NUL": lambda content: content + b"\0",
    "not UTF-8": lambda content: content + b"\xff",
    "quote": lambda content: content + b'"',
    "too few fields": lambda content: content + b"5,0.1\n",
    "an epoch twice": lambda content: content + content.splitlines(True)[-1],
    "too many fields": text("\n1,", "\n1,1,1,1,"),
    "other columns": text("train_loss", "loss"),
    "a column twice": text("train_loss", "test_loss"),
    "text": text("0.5", "abc"),
    "NaN": text("0.5", "NaN"),
    "infinity": text("0.5", "inf"),
    "1e400": text("0.5", "1e400"),
    "true": text("0.5", "True"),
    "a huge field": text("0.5", "1" * 200_000),
    "from epoch 2": text("\n1,", "\n2,"),
    "epoch 1e300": text("\n1,", "\n1e300,"),
    "epoch -1": text("\n1,", "\n-1,"),
    "epoch 1.5": text("\n1,", "\n1.5,"),
    "error 101": text("100.0", "101"),
    "error -1": text("100.0", "-1"),
    "rate -1": text("\n1,0.05", "\n1,-1"),
    "a new line in a name": text("epoch", '"epo\nch"'),
}


def made(folder: Path, seed: int = 0) -> Path:
    """The record of a run of four epochs."""
    write_run(folder, {1.0: 6.5}, [0.05, 0.05, 0.02, 0.01], seed=seed)
    return next(folder.rglob(f"*-seed{seed}-*/cell-1.json"))


@pytest.mark.parametrize("name", RECORDS)
def test_a_malformed_record_is_named_and_left_out(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = made(tmp_path)
    assert read_record(path) is not None
    path.write_bytes(RECORDS[name](path.read_bytes()))
    assert read_records([tmp_path]) == []
    assert f"{path} is damaged (" in caplog.text and "left out" in caplog.text


@pytest.mark.parametrize("name", EPOCHS)
def test_a_malformed_epochs_csv_is_named_and_left_out(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = made(tmp_path).with_name("epochs.csv")
    assert [row["epoch"] for row in read_epochs(path)] == [1, 2, 3, 4]
    path.write_bytes(EPOCHS[name](path.read_bytes()))
    assert read_epochs(path) == []
    assert f"{path} is damaged (" in caplog.text and "left out" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        *(ANY_JSON[name] for name in ("empty", "list", "deep", "escape", "path", "format true")),
        fields(networks=[]),
        fields(networks=[{"label": "SGD", "seed": "../../x"}]),
        fields(images=True),
        fields(line={"t": [0, 1], "distance": 1}),
        fields(rays={"distances": [0, 1]}),
        fields(weight_decay=-1),
    ],
)
def test_a_malformed_width_is_one_line(change: Change, tmp_path: Path) -> None:
    path = tmp_path / "width.json"
    known = WIDTHS[0].read_bytes().replace(b"preresnet20", b"vgg16")
    path.write_bytes(change(known))
    with pytest.raises(SystemExit, match=f"{path} is no record of swa-width") as stop:
        width.swa_width(["--redraw", str(path), "--out", str(tmp_path / "out")])
    assert "\n" not in str(stop.value) and list(tmp_path.iterdir()) == [path]


def test_a_width_of_one_error_everywhere_is_drawn(tmp_path: Path) -> None:
    values = json.loads(WIDTHS[0].read_bytes())
    plane = values["plane"]
    plane["test_error_pct"] = [[50.0 for _ in row] for row in plane["test_error_pct"]]
    plane["train_loss"] = [[None for _ in row] for row in plane["train_loss"]]
    path = tmp_path / "width.json"
    path.write_text(json.dumps(values | {"rays": None, "line": None}))
    width.swa_width(["--redraw", str(path), "--out", str(tmp_path / "out")])
    assert list((tmp_path / "out").rglob("plane.png"))


def test_no_command_stops_at_bad_files(
    tmp_path: Path, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Two sound runs beside one of each kind of bad file, and things that are no files."""
    folder, bad = tmp_path / "in", []
    for seed, change in enumerate([None, None, *RECORDS.values()]):
        path = made(folder, seed)
        if change:
            path.write_bytes(change(path.read_bytes()))
            bad.append(path)
    for path in (made(folder, 100), made(folder, 101).with_name("epochs.csv")):
        path.unlink()
        path.mkdir()
        bad.append(path)
    made(folder, 102).with_name("epochs.csv").write_text("epoch\n")
    made(folder, 103).parent.rename(folder / "cifar10" / "vgg16" / "sgd-seedx-1")
    for command in (swa_tables, swa_figures, swa_report):
        command(["--records", str(folder), "--out", str(tmp_path / "out")])
    swa_status(["--results", str(folder)])
    printed = capsys.readouterr().out
    assert "6.50 ± 0.00 (n=4)" in printed
    assert all(f"{path} is damaged" in caplog.text for path in bad)
    assert "sgd-seedx-1/cell-1.json is not in the folder of its run" in caplog.text


def test_a_copied_run_does_not_win(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = made(tmp_path / "in")
    for copy in (f"{path.parent.name}-backup", "zzz", path.parent.name.replace("seed0", "seed7")):
        other = path.parent.with_name(copy) / path.name
        shutil.copytree(path.parent, other.parent)
        other.write_bytes(text("6.5", "1.5")(other.read_bytes()))
    shutil.copy(path, path.with_name("cell-1-old.json"))
    (found,) = read_records([tmp_path / "in"])
    assert found.result.test_error_pct == 6.5
    assert caplog.text.count("is not in the folder of its run (it is of cifar10/vgg16/sgd-") == 4


def test_a_run_is_found_from_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made(tmp_path).parent)
    for folder in (".", "..", "../../.."):
        assert len(read_records([Path(folder)])) == 1


def test_two_records_of_a_cell_that_differ_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [write_record(tmp_path / name) for name in ("a", "b")]
    cells_frame(read_records([tmp_path]))
    assert not caplog.records
    paths[1].write_bytes(text("6.75", "7.0")(paths[1].read_bytes()))
    cells = cells_frame(read_records([tmp_path]))
    assert list(cells["error"]) == [7.0]
    assert f"{paths[0]} and {paths[1]} are of one run and differ: the second" in caplog.text


def test_a_damaged_record_is_moved_aside_and_a_newer_one_is_refused(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    run = [*TINY, "method=sgd", "model.budget_epochs=1", "model.swa_start=1"]
    assert swa_train(*run).code == 0
    (path,) = tmp_path.rglob("cell-1.json")
    sound = path.read_bytes()
    for name in ("cell-1.json.damaged", "cell-1.json.damaged-2"):
        path.write_bytes(sound[:50])
        again = swa_train(*run)
        assert again.code == 0 and f"moved to {name}" in again.err
        assert path.with_name(name).read_bytes() == sound[:50]
        assert read_record(path) is not None
    newer = fields(format=3)(sound)
    path.write_bytes(newer)
    for force in ((), ("force=true",)):
        refused = swa_train(*run, *force)
        assert refused.code == 1 and "epoch 1/1" not in refused.out
        (line,) = [said for said in refused.err.splitlines() if "newer version" in said]
        assert "format 3; this version reads those up to 2" in line
        assert path.read_bytes() == newer
    swa_tables(["--records", "results", "--out", "out"])


def test_damaged_epochs_are_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "epochs.csv"
    path.write_text("other,columns\n1,2\n")
    write_epochs(tmp_path, [{"epoch": 1, "learning_rate": 0.1}])
    assert (tmp_path / "epochs.csv.damaged").read_text() == "other,columns\n1,2\n"
    (row,) = read_epochs(path)
    assert row == dict.fromkeys(EPOCH_COLUMNS) | {"epoch": 1, "learning_rate": 0.1}


def test_predictions_that_are_no_array_count_as_lost(tmp_path: Path) -> None:
    import hashlib

    for content in (b"", b"\x93NUMPY", b"PK\x03\x04", b"\x80\x04N."):
        sha256 = hashlib.sha256(content).hexdigest()
        path = write_record(tmp_path, result={"predictions_sha256": sha256})
        path.with_name("predictions-1.npy").write_bytes(content)
        assert read_predictions(path) is None
    path.with_name("predictions-1.npy").unlink()
    os.mkfifo(path.with_name("predictions-1.npy"))  # reading it would never end
    assert read_predictions(path) is None


def test_hostile_text_stays_text_in_every_format(tmp_path: Path) -> None:
    """A recipe that is allowed, since it is one line, but means something to each format."""
    recipe = {"=x|y": "<b>[a](javascript:1)</b> `$x$` 50% & \\input{x} # ~ ^ _ {}"}
    write_record(tmp_path / "in", dataset="cifar10_mini", recipe_diff=recipe)
    swa_tables(["--records", str(tmp_path / "in"), "--out", str(tmp_path)])
    found = {kind: (tmp_path / f"cifar10_mini.{kind}").read_text() for kind in ("md", "csv", "tex")}
    (note,) = [line for line in found["md"].splitlines() if line.startswith("All runs: ")]
    assert r"=x\|y=\<b>[a]\(javascript:1)\</b> \`$x$\`" in note
    assert ",'=x|y=" in found["csv"] or ",\"'=x|y=" in found["csv"]
    uncommented = [line for line in found["tex"].splitlines() if not line.startswith("%")]
    assert not any("input" in line or "javascript" in line for line in uncommented)


@pytest.mark.parametrize(
    "option", ["method.name=../../x", "model.name=..", 'dataset.name="a\n"', 'init="a\x1b"']
)
def test_names_on_the_command_line_stay_in_their_folder(option: str, swa_train: SwaTrain) -> None:
    refused = swa_train(*TINY, option)
    assert refused.code == 2 and len(refused.err.strip().splitlines()) == 1
    assert not Path("results").exists()


def test_shipped_files_are_all_sound(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    shipped = ROOT / "results" / "shipped"
    assert len(read_records([shipped])) == len(list(shipped.rglob("cell-*.json"))) == 165
    assert all(read_epochs(path) for path in shipped.rglob("epochs.csv"))
    assert {read_width(path)["model"] for path in WIDTHS} == {"preresnet20"}
    assert not caplog.records


def test_an_unreadable_record_is_no_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the system cannot read now may be whole: it is left out, and never trained over."""
    from swa_bench.results import finished

    path = made(tmp_path)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert read_records([tmp_path]) == []
    assert "Permission denied" in caplog.text
    with pytest.raises(SwaBenchError, match=r"cell-1.json cannot be read \(Permission denied\)"):
        finished._load_own(path)
