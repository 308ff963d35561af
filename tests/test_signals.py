"""Signals to end: a checkpoint after the step, exit codes, and who else may handle them."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_helpers import SIGNALLED, TINY, SwaTrain, checkpoint_of, records_of, untimed

from swa_bench.errors import Terminated
from swa_bench.results import finished, locks
from swa_bench.training import job, step

# Without a signal no state is stored before the end.
SELDOM = [*TINY, "checkpoints.every_s=1000", "checkpoints.keep_for=[]"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR2"])
def test_the_step_is_finished_and_stored(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Two signals within a second, as timeout(1) sends them, in the second of three steps."""
    number, take_step, steps = signal.Signals[name], step.take_step, []

    def take_after_signal(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
        return take_step(*arguments)

    monkeypatch.setattr(step, "take_step", take_after_signal)
    before = signal.getsignal(number)
    outcome = swa_train(*SELDOM, "method=sgd")
    assert outcome.code == 128 + number
    said = f"{name}: ends after this step, with a checkpoint"
    assert f"{said}; a second signal ends at once" * (name != "SIGUSR2") in outcome.err
    assert said in outcome.err
    assert "swa-train: ended as asked; start it again to go on" in outcome.err
    assert signal.getsignal(number) == before
    assert len(steps) == 5
    assert [path.name[:27] for path in tmp_path.rglob("*.pt")] == ["seed0-epoch0001-step000002-"]
    assert "Going on after step 2 of epoch 2" in swa_train(*SELDOM, "method=sgd").err
    assert checkpoint_of(tmp_path, 4).exists()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """In the same step; seconds apart is made any time apart here."""
    twice = SIGNALLED.replace("os.kill(", "os.kill(os.getpid(), sent); os.kill(")
    program = "from swa_bench.results import locks\nlocks.TWICE_S = -1\n" + twice
    command = [sys.executable, "-c", program, str(int(signal.SIGINT)), "4", *SELDOM]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert "SIGINT: ends after this step" in done.stderr
    assert not list(tmp_path.rglob("*.pt"))


def test_other_handlers_keep_their_signals() -> None:
    """A launcher's own, and what nohup has set; what Python does is put back afterwards."""
    seen, stored = [], []
    usual = [signal.getsignal(number) for number in locks.SIGNALS]
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with (
            pytest.raises(Terminated) as ended,
            locks.signals_noted(lambda: stored.append(list(seen))),
        ):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            locks.end_if_asked()
            assert seen == [signal.SIGTERM] and not stored
            os.kill(os.getpid(), signal.SIGINT)
        assert ended.value.number == signal.SIGINT and stored
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in zip(locks.SIGNALS, usual, strict=True):
            signal.signal(number, handler)


def test_a_launcher_that_requeues_does_so_once_and_after_the_checkpoint() -> None:
    """As submitit does. It is asked again before, meanwhile and afterwards."""
    order: list[str] = []

    def requeue(number: int, frame: object) -> None:
        order.append("requeued")
        os.kill(os.getpid(), number)
        raise ValueError("refused")

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with (
            pytest.raises(ValueError, match="refused"),
            locks.signals_noted(lambda: order.append("stored")),
        ):
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGUSR2)
            assert order == []
            try:
                locks.end_if_asked()
            except Exception:  # as job.py has it, so that other seeds go on
                order.append("caught")
        os.kill(os.getpid(), signal.SIGUSR2)
        assert order == ["stored", "requeued"]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_ctrl_c_outside_training(swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_images(dataset: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "load_images", load_images)
    outcome = swa_train(*TINY)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1].startswith("swa-train: interrupted; start it again")


def test_the_last_state_is_stored_before_it_is_recorded(
    swa_train: SwaTrain, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is ended where it would write the record of its last epoch."""
    write, options = finished.write_record, [*TINY, "budget=1.5"]

    def ended(config: Any, *arguments: Any) -> Path:
        if config.budget == 1.5:
            raise KeyboardInterrupt
        return write(config, *arguments)

    monkeypatch.setattr(finished, "write_record", ended)
    assert swa_train(*options).code == 130
    assert checkpoint_of(tmp_path, 6).exists()
    assert not list(tmp_path.rglob("cell-1.5.json"))
    monkeypatch.setattr(finished, "write_record", write)
    again = swa_train(*options)
    assert "Going on after epoch 6" in again.err
    assert records_of(tmp_path / "results") == records_of(undisturbed)
    assert untimed(next(tmp_path.rglob("cell-1.5.json")))["epochs"] == 6
