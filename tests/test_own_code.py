"""A changed source file of a user's own code is noticed; what changes nothing in it is not."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_same_data import MINE
from training_helpers import SHORT_RECIPE, SwaTrain, config_of

from swa_bench.commands.export import swa_evaluate, swa_export
from swa_bench.config.own_code import changed, digest, own_code
from swa_bench.results.record import read_record

NET = '''
from training_helpers import TinyNet

class Net(TinyNet):
    """A network."""

    scale = 1.0

    def forward(self, images):
        return self.scale * super().forward(images)
'''
OWN = ["model=own", "model.name=mine", "model._target_=changing.Net"]
OWN += ["model.swa_learning_rate.cifar10=0.01", "device=cpu", *SHORT_RECIPE, "budget=1"]
Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write changing.py into the working folder, as a process that starts now finds it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write_module(text: str) -> None:
        (tmp_path / "changing.py").write_text(text)
        sys.modules.pop("changing", None)

    return write_module


def record_of(folder: Path, method: str) -> Path:
    (path,) = folder.rglob(f"{method}-seed0-*/cell-1.json")
    return path


def test_what_counts_as_a_change() -> None:
    source = b'"""Text."""\nx = f(1)  # why\ndef g():\n    """More."""\n    return None\n'
    same = b"x = f( 1 )\n\n\ndef g():\n    return None\n"
    others = [b"x = f(2)\ndef g():\n    return None\n", same.replace(b"None", b"0")]
    assert digest(source) == digest(same)
    assert len({digest(source), *map(digest, others)}) == 3
    # The same in every version of Python.
    assert digest(source) == "563cdf2976abfce178cff8018f0860333ef7ae880acc49bfd6b954b4efd2af2b"
    assert digest(b"\xff no Python") != digest(b"\xfe no Python")


def test_whose_code_counts() -> None:
    assert own_code(config_of("dataset=cifar10_mini")) == {}
    # What a data set and a schedule give is known, whatever their code is.
    target = "test_same_data.mine"
    schedule = ["schedule._target_=test_own_code.rate", "~schedule.learning_rate"]
    schedule += ["~schedule.decay_epochs", "~schedule.final_ratio"]
    predictor = "+method.predictors={late: {_target_: network_helpers.CountingAverage}}"
    augmentation = "augmentation._target_=network_helpers.LosesARow"
    config = config_of(*MINE, f"dataset._target_={target}", *schedule, predictor, augmentation)
    files = {option: source.file.name for option, source in own_code(config).items()}
    assert files == {
        "model._target_": "training_helpers.py",
        "augmentation._target_": "network_helpers.py",
        "method.predictors.late._target_": "network_helpers.py",
    }
    known = {option: source.sha256 for option, source in own_code(config).items()}
    assert changed(known, config) is None and changed({}, config) is None
    name = "augmentation._target_"
    assert changed(known | {name: "0" * 64}, config) == (
        "network_helpers.py (augmentation._target_=network_helpers.LosesARow)"
    )


def rate(epoch: int, step: int, steps_per_epoch: int) -> float:
    return 0.1


def test_a_run_of_changed_code_is_not_finished(
    swa_train: SwaTrain, write: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(NET)
    assert swa_train(*OWN).code == 0
    path = record_of(tmp_path, "swa")
    before = path.read_bytes()
    export = [str(path), "net.safetensors", "--device=cpu", "--trust"]
    swa_export(export)
    write(f"# A comment.\n{NET}")
    assert "Finished already" in swa_train(*OWN).err

    write(NET.replace("1.0", "0.25"))
    for more in ([], ["budget=1.25"], ["budget=1.25", "force=true", "report_budgets=[]"]):
        outcome = swa_train(*OWN, *more)
        assert outcome.code == 1
        assert outcome.err.splitlines()[-1] == (
            f"swa-train: {path.relative_to(tmp_path)}: changing.py (model._target_=changing.Net) "
            "has changed since: choose another results_dir or model.name, or train it again with "
            "force=true budget=1"
        )
    with pytest.raises(SystemExit, match="has changed since: put the file of the run there"):
        swa_export([*export, "--force"])
    swa_evaluate(["net.safetensors", "--device=cpu", "--trust"])
    assert "net.safetensors: changing.py (model._target_=changing.Net)" in capfd.readouterr().err
    assert path.read_bytes() == before

    assert swa_train(*OWN, "force=true").code == 0
    assert "Finished already" in swa_train(*OWN).err
    assert path.read_bytes() != before

    record = json.loads(path.read_text())  # of an earlier version, which did not say
    del record["source_sha256"]
    path.write_text(json.dumps(record))
    write(NET)
    assert "Finished already" in swa_train(*OWN).err


def test_epochs_of_changed_code_are_warned_of(
    swa_train: SwaTrain, write: Write, tmp_path: Path
) -> None:
    """SGD goes on after epoch 1 or 2 of SWA, whichever they share, which other code trained."""
    write(NET)
    assert swa_train(*OWN).code == 0
    first = read_record(record_of(tmp_path, "swa"))
    assert first is not None and not first.warnings
    write(NET.replace("1.0", "0.25"))
    outcome = swa_train(*OWN, "method=sgd")
    assert outcome.code == 0
    record = read_record(record_of(tmp_path, "sgd"))
    assert record is not None
    old, new = record.segments
    assert old["source_sha256"] == first.source_sha256 != record.source_sha256
    assert new["source_sha256"] == record.source_sha256
    shared = new["from_epoch"] - 1
    sentence = (
        f"changing.py (model._target_=changing.Net) has changed since epochs 1 to {shared}, which "
        "are kept: force=true starts again from epoch 1."
    )
    assert record.warnings == [sentence] and sentence in outcome.err
