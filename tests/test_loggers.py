"""Loggers beside epochs.csv: what they get, and that a dead one stops nothing."""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from training_helpers import TINY, SwaTrain, records_of

from swa_bench.errors import needs_extra


class FakeWriter:
    """The part of TensorBoard's writer that is used; it can be made to fail."""

    written: dict[tuple[str, int], float]
    dies_at = 99

    def __init__(self, log_dir: Path, purge_step: int) -> None:
        type(self).written = {}
        self.log_dir = log_dir

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if step >= self.dies_at:
            raise OSError("no space left for events")
        self.written[name, step] = value

    def flush(self) -> None:
        pass


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> type[FakeWriter]:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: found("json") if name == "tensorboard" else found(name, *rest),
    )
    monkeypatch.setattr(FakeWriter, "dies_at", 99)
    return FakeWriter


def test_every_epoch_is_logged_the_shared_ones_too(
    tmp_path: Path, swa_train: SwaTrain, tensorboard: type[FakeWriter]
) -> None:
    assert swa_train(*TINY, "budget=0.75").code == 0
    assert swa_train(*TINY, "budget=1.5", "logger=tensorboard").code == 0
    steps = {step for name, step in tensorboard.written if name == "test_error_pct"}
    assert steps == {1, 2, 3, 4, 5, 6}
    record = next(
        r for name, r in records_of(tmp_path / "results").items() if name.endswith("-1.5.json")
    )
    last = tensorboard.written["swa_test_error_pct", 6]
    assert last == record["result"]["test_error_pct"]
    assert ("swa_test_error_pct", 1) not in tensorboard.written  # nothing was measured


def test_a_dead_logger_stops_nothing(
    swa_train: SwaTrain, tensorboard: type[FakeWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWriter, "dies_at", 2)
    outcome = swa_train(*TINY, "method=sgd", "logger=tensorboard")
    assert outcome.code == 0
    assert outcome.err.count("logger=tensorboard is given up: no space left for events") == 1

    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("cannot start")

    monkeypatch.setattr(FakeWriter, "__init__", broken)
    outcome = swa_train(*TINY, "method=sgd", "seed=1", "logger=tensorboard")
    assert outcome.code == 0
    assert "logger=tensorboard is given up: cannot start" in outcome.err


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_missing_logger_says_what_to_install(swa_train: SwaTrain) -> None:
    outcome = swa_train(*TINY, "logger=wandb")
    assert outcome.code == 2
    assert f"logger=wandb: {needs_extra('wandb')}" in outcome.err
