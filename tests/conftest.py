"""Shared by all tests: the command in this process, configurations, and a tiny setting."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig

from swa_bench import sweep, train
from swa_bench.config import schema as configs
from swa_bench.config.plan import Plan, make_plan
from swa_bench.training import hardware as device

if os.environ.get("TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is tested is the same on every machine

# Three steps an epoch (128 + 128 + 32 images), budgets of 4 epochs, copies from epoch 3 on.
TINY = [
    "model=preresnet20",
    "dataset=cifar10_mini",
    "dataset.train_images=288",
    "dataset.test_images=100",
    "model.budget_epochs=4",
    "model.swa_start=3",
    "evaluation.average_every=1",
    "checkpoints.every_s=0",
]

configs.register()


def compose(*overrides: str) -> DictConfig:
    with hydra.initialize_config_module("swa_bench.conf", version_base="1.3"):
        return hydra.compose("train", list(overrides))


def plan_of(*overrides: str) -> Plan:
    cfg = compose(*overrides, "device=cpu")
    config = configs.to_config(cfg)
    device.decide(config)
    return make_plan(cfg, config)


class Outcome:
    """What a command left: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


SwaTrain = Callable[..., Outcome]


@pytest.fixture
def swa_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> SwaTrain:
    """Run swa-train's main in this process, in an empty folder, on the CPU."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["swa-train", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")
        monkeypatch.setattr(sweep, "_sweeps", [])
        code: object = 0
        try:
            train.main()
        except SystemExit as stop:
            code = stop.code
        printed = capfd.readouterr()
        return Outcome(code if isinstance(code, int) else 1, printed.out, printed.err)

    return run
