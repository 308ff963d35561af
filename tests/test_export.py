"""Exported networks: the same error as their record, from one file alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import mini_images
from record_helpers import write_record
from training_helpers import TINY, SwaTrain

from swa_bench.analysis.export import load_model, read_exported
from swa_bench.commands import export


def cell(method: str) -> Path:
    (path,) = Path("results").rglob(f"{method}-seed0-*/cell-1.json")
    return path


@pytest.mark.parametrize("method", ["sgd", "swa"])
def test_an_exported_network_has_the_error_of_its_record(
    swa_train: SwaTrain, tmp_path: Path, capfd: Any, method: str
) -> None:
    assert swa_train(*TINY, f"method={method}").code == 0
    export.swa_export([str(cell(method)), "net.safetensors", "--trust"])
    (tmp_path / "results").rename("gone")
    capfd.readouterr()
    export.swa_evaluate(["net.safetensors", "--trust"])
    ours, recorded = capfd.readouterr().out.splitlines()
    assert recorded.startswith(f"its record: {ours.removeprefix('test error ')}")
    # The three lines of docs/results.md, by hand on the images themselves.
    model = load_model("net.safetensors", trust=True)
    mini = mini_images()
    record = read_exported(tmp_path / "net.safetensors").record
    normalisation = record.option("model", "normalisation")
    mean, std = (torch.tensor(normalisation[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    pixels = torch.tensor(mini.test_images[:100]).permute(0, 3, 1, 2)
    with torch.no_grad():
        guesses = model((pixels / 255 - mean) / std).argmax(1).numpy()
    error_pct = 100 * (guesses != mini.test_labels[:100]).mean()
    assert error_pct == pytest.approx(record.result.test_error_pct)


def test_members_and_cells_come_from_states_that_are_kept(swa_train: SwaTrain, capfd: Any) -> None:
    """A budget of 1.5 passes that of 1 after epoch 4; it collects after epochs 3 to 6."""
    assert swa_train(*TINY, "budget=1.5", "checkpoints.keep=collected").code == 0
    export.swa_export([str(cell("swa")), "one.safetensors", "--trust"])
    capfd.readouterr()
    export.swa_evaluate(["one.safetensors", "--trust"])
    ours, recorded = capfd.readouterr().out.splitlines()
    assert recorded.startswith(f"its record: {ours.removeprefix('test error ')}")
    export.swa_export([str(cell("swa")), "third.safetensors", "--epoch", "3", "--trust"])
    capfd.readouterr()
    export.swa_evaluate(["third.safetensors", "--trust"])
    (ours,) = capfd.readouterr().out.splitlines()
    rows = cell("swa").with_name("epochs.csv").read_text().splitlines()
    error_pct = float(rows[3].split(",")[5])
    assert ours.startswith(f"test error {error_pct:.2f} %")


def test_what_cannot_be_exported_says_why(swa_train: SwaTrain, tmp_path: Path) -> None:
    assert swa_train(*TINY, "method=sgd").code == 0
    path = cell("sgd")
    with pytest.raises(
        SystemExit, match=r"swa-export: .*epoch 1 .*checkpoints.keep=cells \(or =collected"
    ):
        export.swa_export([str(path), "net.safetensors", "--epoch", "1", "--trust"])
    with pytest.raises(SystemExit, match=r"swa-export: nowhere.json: no such file"):
        export.swa_export(["nowhere.json", "net.safetensors"])
    record = json.loads(path.read_text())
    ensemble = {"result": "ensemble", "collect_from": 4, "cycle_epochs": 1}
    record["config"]["method"] |= ensemble
    path.write_text(json.dumps(record))
    with pytest.raises(SystemExit, match="of an ensemble, which has no weights of its own"):
        export.swa_export([str(path), "net.safetensors", "--trust"])
    del record["config"]["batch_size"]
    path.write_text(json.dumps(record))
    with pytest.raises(SystemExit, match=r"swa-export: batch_size=.*has no value"):
        export.swa_export([str(path), "net.safetensors", "--trust"])
    assert not (tmp_path / "net.safetensors").exists()
    (tmp_path / "net.safetensors").write_bytes(b"12345678")
    with pytest.raises(SystemExit, match=r"net.safetensors was not written by swa-export"):
        export.swa_evaluate(["net.safetensors"])


def test_of_several_records_one_is_meant_or_all_are_listed(
    swa_train: SwaTrain, tmp_path: Path, capfd: Any
) -> None:
    """As a shell expands a pattern that two recipes fit; and a run's folder, which is one."""
    assert swa_train(*TINY, "method=sgd").code == 0
    export.swa_export([str(cell("sgd").parent), "net.safetensors", "--trust"])
    assert "net.safetensors: tiny sgd 1 on cifar10_mini, seed 0" in capfd.readouterr().out
    first = write_record(tmp_path, config={"precision": "fp32"})
    diff = {"precision": "bf16"}
    second = write_record(tmp_path, recipe_hash="0123456789ff", recipe_diff=diff)
    with pytest.raises(SystemExit) as stop:
        export.swa_export([str(first), str(second), "other.safetensors"])
    assert str(stop.value).splitlines() == [
        "swa-export: records of several runs fit: name one",
        f"  {first}  precision=fp32",
        f"  {second}  precision=bf16",
    ]
    with pytest.raises(SystemExit, match=r"swa-export: .*/empty: no sound record is there"):
        (tmp_path / "empty").mkdir()
        export.swa_export([str(tmp_path / "empty"), "other.safetensors"])
    assert not (tmp_path / "other.safetensors").exists()


def test_tied_weights_are_exported_and_tied_again(
    swa_train: SwaTrain, tmp_path: Path, capfd: Any
) -> None:
    """One weight under two names, which safetensors takes as two."""
    tied = ["model._target_=network_helpers.Tied", "precision=fp32"]
    assert swa_train(*TINY, *tied, "method=sgd").code == 0
    export.swa_export([str(cell("sgd")), "net.safetensors", "--trust"])
    model = load_model("net.safetensors", trust=True)
    assert model.second.weight is model.first.weight
    capfd.readouterr()
    export.swa_evaluate(["net.safetensors", "--trust"])
    ours, recorded = capfd.readouterr().out.splitlines()
    assert recorded.startswith(f"its record: {ours.removeprefix('test error ')}")
