"""Signals to end: a checkpoint after the epoch, exit codes, and who else may handle them."""

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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_the_epoch_is_finished_and_stored(
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
    assert outcome.code == {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129}[name]
    said = f"{name}: ends after this epoch, with a checkpoint; a second signal ends at once"
    assert said in outcome.err
    assert "swa-train: ended as asked; start it again to go on" in outcome.err
    assert signal.getsignal(number) == before
    assert len(steps) == 6
    assert checkpoint_of(tmp_path, 2).exists()
    assert "Going on after epoch 2" in swa_train(*SELDOM, "method=sgd").err


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """In the step after the first; seconds apart is made any time apart here."""
    program = "from swa_bench.results import locks\nlocks.TWICE_S = -1\n" + SIGNALLED
    command = [sys.executable, "-c", program, str(int(signal.SIGINT)), "4", *SELDOM]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert "SIGINT: ends after this epoch" in done.stderr
    assert not list(tmp_path.rglob("*.pt"))


def test_other_handlers_keep_their_signals() -> None:
    """A launcher's own, and what nohup has set; what Python does is put back afterwards."""
    seen = []
    usual = [signal.getsignal(number) for number in locks.SIGNALS]
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(Terminated), locks.signals_noted() as request:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            request.check()
            assert seen == [signal.SIGTERM]
            os.kill(os.getpid(), signal.SIGINT)
        assert request.number == signal.SIGINT
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in zip(locks.SIGNALS, usual, strict=True):
            signal.signal(number, handler)


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
