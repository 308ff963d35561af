"""What tells in a run's folder what it is, from its first second."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_helpers import DROPOUT, TINY, SwaTrain

from swa_bench.results import run_files
from swa_bench.training import job
from swa_bench.training.run import Run

RUN = [*TINY, "device=cpu"]


def log_of(folder: Path) -> list[str]:
    """The lines of log.txt without their times."""
    lines = (folder / "log.txt").read_text().splitlines()
    return [line.split(maxsplit=2)[-1] if line[:2] == "20" else line for line in lines]


def test_options_are_there_before_the_first_epoch(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, str]] = []
    train_runs = job.train_runs

    def look(runs: list[Run], *arguments: Any) -> None:
        (folder,) = tmp_path.glob("results/runs/*/*/swa-*")
        names = (run_files.CONFIG, run_files.OVERRIDES, run_files.LOG)
        found.append({name: (folder / name).read_text() for name in names})
        train_runs(runs, *arguments)

    monkeypatch.setattr(job, "train_runs", look)
    (tmp_path / "my" / "model").mkdir(parents=True)
    assert swa_train("--config-dir=my", *RUN, "model.learning_rate=0.02").code == 0
    (files,) = found
    (record,) = (json.loads(path.read_text()) for path in tmp_path.rglob("cell-1.json"))
    assert yaml.safe_load(files["config.yaml"]) == record["config"]
    assert "model.learning_rate=0.02" in files["config.yaml"].splitlines()[0]
    digest = record["source_sha256"]["model._target_"]
    assert f"training_helpers.py, SHA-256 {digest}\n" in files["config.yaml"]
    typed = [f"--config-dir={tmp_path / 'my'}", *RUN, "model.learning_rate=0.02"]
    assert files["overrides.txt"].splitlines() == typed
    # They are the same run again.
    assert "Finished already" in swa_train(*typed).err
    assert f"swa-train {' '.join(typed)}" in files["log.txt"]


def test_the_log_goes_on(swa_train: SwaTrain, tmp_path: Path) -> None:
    """Each run of a job has its own; a finished run that is started again writes none."""
    assert swa_train(*RUN, "also_train=[sgd]").code == 0
    assert swa_train(*RUN).code == 0
    folders = {path.name[:3]: path for path in tmp_path.glob("results/runs/*/*/s*")}
    logs = {name: log_of(folder) for name, folder in folders.items()}
    epochs = {
        name: [part.split("/")[0] for line in log for part in line.split("epoch ")[1:]]
        for name, log in logs.items()
    }
    assert [one for one in epochs["swa"] if one.isdigit()] == ["1", "2", "3", "4"]
    assert not any(" sgd " in line for line in logs["swa"][1:])
    assert any("Going on after epoch" in line for line in logs["sgd"])
    before = len(logs["swa"])
    assert swa_train(*RUN, "budget=1.25").code == 0
    added = log_of(folders["swa"])[before:]
    assert added[0] == f"INFO swa-train {' '.join(RUN)} budget=1.25"
    assert "Going on after epoch 4" in "\n".join(added)
    assert run_files.read_options(folders["swa"]) == run_files.Options(
        5, (folders["swa"] / "config.yaml").read_text().splitlines()[0].partition("in: ")[2]
    )


def test_seeds_that_train_together_each_have_a_log(swa_train: SwaTrain, tmp_path: Path) -> None:
    assert swa_train(*DROPOUT, "device=cpu", "method=sgd", "seeds_together=2").code == 0
    for seed in (0, 1):
        (folder,) = tmp_path.glob(f"results/runs/*/*/sgd-seed{seed}-*")
        assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == seed
        assert sum(f"sgd seed {seed} " in line for line in log_of(folder)) == 2


def test_a_failure_is_in_the_log(swa_train: SwaTrain, tmp_path: Path) -> None:
    assert swa_train(*RUN, "method=sgd", "model.learning_rate=1e20").code == 1
    (folder,) = tmp_path.glob("results/runs/*/*/sgd-*")
    assert log_of(folder)[-1].startswith("ERROR The training loss of epoch 1 is ")


def test_a_log_that_cannot_be_written_stops_no_run(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert swa_train(*RUN, "method=sgd").code == 0
    (log,) = tmp_path.rglob("log.txt")
    log.unlink()
    log.mkdir()
    outcome = swa_train(*RUN, "method=sgd", "force=true")
    assert outcome.code == 0 and f"{log.relative_to(tmp_path)} cannot be written" in outcome.err
    if sys.platform == "linux":  # a disk that is full
        log.rmdir()
        log.symlink_to("/dev/full")
        outcome = swa_train(*RUN, "method=sgd", "force=true")
        assert outcome.code == 0 and "Traceback" not in outcome.err


@pytest.mark.parametrize("content", [b"", b"\xff", b"epochs: 5\n", b"[" * 10_000])
def test_options_that_cannot_be_read_are_not_there(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    assert run_files.read_options(tmp_path) is None
