"""Checkpoints in the middle of an epoch: what is kept, what is gone on from, what is recorded."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_helpers import DROPOUT, TINY, SwaTrain, records_of

from swa_bench.errors import SwaBenchError
from swa_bench.training import job, step  # job before it is patched: a rehearsal is not counted

# Four epochs of three steps, and no checkpoint but where one is asked for.
SGD = [*TINY, "method=sgd", "checkpoints.every_s=1000", "checkpoints.keep_for=[]"]
InStep = Callable[[int, Callable[[], Any]], None]


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> InStep:
    """Let something happen before a step, counted from 1 over all runs that follow."""
    take_step, happens, taken = step.take_step, {}, []

    def take(*arguments: Any) -> Any:
        taken.append(1)
        happens.get(len(taken), lambda: None)()
        return take_step(*arguments)

    monkeypatch.setattr(step, "take_step", take)
    return happens.__setitem__


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def states(results: Path) -> list[str]:
    """How the names of all checkpoints begin."""
    return sorted(path.name.split("-", 1)[1][:-37] for path in results.rglob("*.pt"))


def test_the_newest_state_and_the_last_of_whole_epochs_are_kept(
    swa_train: SwaTrain, tmp_path: Path, in_step: InStep
) -> None:
    """Ended in epochs 2 and 3. The newest state is damaged; at the run's end only that is left."""
    every = [*SGD, "checkpoints.every_s=0"]
    in_step(5, terminate)
    assert swa_train(*every).code == 143
    assert states(tmp_path) == ["epoch0001", "epoch0001-step000002"]
    in_step(8, terminate)
    assert swa_train(*every).code == 143
    assert states(tmp_path) == ["epoch0002", "epoch0002-step000002"]
    (newest,) = tmp_path.rglob("*-step*.pt")
    newest.write_bytes(newest.read_bytes()[:-1])
    again = swa_train(*every)
    assert f"{newest.name} is damaged" in again.err and "Going on after epoch 2" in again.err
    assert states(tmp_path) == ["epoch0004"]
    assert swa_train(*every, "results_dir=alone").code == 0
    assert records_of(tmp_path / "results") == records_of(tmp_path / "alone")


def test_a_dry_run_counts_the_steps_that_are_there(swa_train: SwaTrain, in_step: InStep) -> None:
    """Of epoch 1, and of epoch 2; the other method does not have the rates of its epoch 3."""
    plan = [*SGD, "dry_run=true"]
    in_step(1, terminate)
    assert swa_train(*SGD).code == 143
    assert "on disk: 1 step of epoch 1\nto train: 4 epochs" in swa_train(*plan).out
    in_step(5, terminate)
    assert swa_train(*SGD).code == 143
    assert "on disk: epochs 1 to 1 and 2 steps of epoch 2\n" in swa_train(*plan).out
    shared = swa_train(*plan, "method=swa").out
    assert "on disk: epochs 1 to 1 and 2 steps of epoch 2, of another run\n" in shared
    in_step(8, terminate)
    assert swa_train(*SGD).code == 143
    assert "on disk" not in swa_train(*plan, "method=swa").out


def test_what_a_user_can_mend_costs_no_step(
    swa_train: SwaTrain, tmp_path: Path, in_step: InStep
) -> None:
    """In its fifth step seed 1 meets a file that cannot be read; seed 0 has taken that step."""

    def fail() -> None:
        raise SwaBenchError("cat.jpg: cannot be read")

    together = [*DROPOUT, "method=sgd", "budget=2", "seeds_together=2", *SGD[-2:]]
    in_step(10, fail)
    outcome = swa_train(*together)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == "swa-train: cat.jpg: cannot be read"
    assert states(tmp_path) == ["epoch0001-step000001", "epoch0001-step000002"]
    again = swa_train(*together)
    assert again.code == 0
    assert "Going on after step 2 of epoch 2: sgd seed 0" in again.err
    assert "Going on after step 1 of epoch 2: sgd seed 1" in again.err
    assert swa_train(*together, "results_dir=alone").code == 0
    assert records_of(tmp_path / "results") == records_of(tmp_path / "alone")


def test_a_loss_that_is_not_finite_leaves_no_state_of_its_epoch(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate explodes in epoch 3. What is stored in the middle of it would fail again."""
    (tmp_path / "bursting.py").write_text(
        "def rate(epoch, step, steps):\n    return 1e20 if epoch == 2 else 0.1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ["schedule=constant", "~schedule.learning_rate", "schedule._target_=bursting.rate"]
    outcome = swa_train(*SGD, *own, "checkpoints.every_s=0")
    assert "training loss of epoch 3 is" in outcome.err
    assert "Earlier checkpoints stay in" in outcome.err
    assert states(tmp_path) == ["epoch0002"]


def test_an_epoch_of_two_versions_says_so_and_its_seconds_add_up(
    swa_train: SwaTrain, tmp_path: Path, in_step: InStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves 10 s a step: three steps an epoch, 288 images. Ended in the fifth."""
    seconds, versions = [0.0], job.hardware.versions()
    monkeypatch.setattr(job.time, "perf_counter", lambda: seconds[0])
    for number in range(1, 13):
        in_step(number, lambda: seconds.append(seconds.pop() + 10))

    def end() -> None:
        seconds.append(seconds.pop() + 10)
        terminate()

    in_step(5, end)
    assert swa_train(*SGD).code == 143
    monkeypatch.setattr(job.hardware, "versions", lambda: versions | {"torch": "99.0"})
    assert swa_train(*SGD).code == 0
    (path,) = tmp_path.rglob("cell-1.json")
    record = json.loads(path.read_text())
    first, second = record["segments"]
    assert first["from_epoch"] == 1 and "from_step" not in first
    assert (second["from_epoch"], second["from_step"]) == (2, 3)
    assert second["versions"]["torch"] == "99.0"
    assert record["timing"] == {"seconds": 120.0, "images_per_s": 9.6}
