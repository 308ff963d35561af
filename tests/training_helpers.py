"""Helpers of the tests that train: a tiny network, its recipe, plans, what runs leave behind."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig
from torch import Tensor, nn

from swa_bench.config import composing
from swa_bench.config.plan import Plan, make_plan
from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import RunSpec, compose_spec
from swa_bench.training import hardware

TESTS = Path(__file__).parent
TARGET = f"{__name__}.TinyNet"

# Three steps an epoch (128 + 128 + 32 images), budgets of 4 epochs, weights collected from epoch 3.
SHORT_RECIPE = [
    "dataset=cifar10_mini",
    "dataset.train_images=288",
    "dataset.test_images=100",
    "model.budget_epochs=4",
    "model.swa_start=3",
    "evaluation.average_every=1",
    "checkpoints.every_s=0",
]
TINY_NET = ["model=own", "model.name=tiny", f"model._target_={TARGET}"]
TINY_NET += ["model.swa_learning_rate.cifar10=0.01"]
TINY = [*TINY_NET, *SHORT_RECIPE, "budget=1"]
# Dropout, whose random numbers seeds that train together must not share.
DROPOUT = [*TINY, "+model.arguments.dropout=0.5", "model.budget_epochs=2", "model.swa_start=1"]
DROPOUT += ["dataset.train_images=64", "dataset.test_images=20", "batch_size=24"]
# A small Shake-Shake network, which draws in every block.
SHAKE = ["model=own", "model._target_=swa_bench.models.shakeshake.ShakeShake", "model.name=shake"]
SHAKE += ["+model.arguments={depth:8,base_width:4}"]


# swa-train that sends itself a signal within an epoch: arguments are its number, the steps before.
SIGNALLED = """
import os, sys
from swa_bench import train
from swa_bench.training import rehearsal, step  # the rehearsal's own steps are not counted

sent, left, take_step = int(sys.argv.pop(1)), int(sys.argv.pop(1)), step.take_step

def take_after_signal(*arguments):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), sent)
    return take_step(*arguments)

step.take_step = take_after_signal
train.main()
"""


class TinyNet(nn.Module):
    """A convolution, batch norm, dropout and a linear layer: an epoch takes some milliseconds."""

    def __init__(
        self, num_classes: int, width: int = 8, dropout: float = 0.0, norm: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 5, stride=4, bias=False)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, S, S) to logits (N, num_classes)."""
        features = nn.functional.relu(self.norm(self.conv(images)))
        pooled = nn.functional.adaptive_avg_pool2d(features, 2).flatten(1)
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits


def signalled(number: signal.Signals, steps: int, *arguments: str) -> list[str]:
    """A command: swa-train that sends itself a signal in the step after so many steps."""
    return [sys.executable, "-c", SIGNALLED, str(int(number)), str(steps), *arguments]


class Outcome:
    """What a command left: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


SwaTrain = Callable[..., Outcome]


def compose(*overrides: str) -> DictConfig:
    """The options that swa-train would have, not resolved."""
    return composing.compose(overrides)


def spec_of(*overrides: str) -> RunSpec:
    """The checked options that swa-train would have on the CPU."""
    return hardware.resolve(compose_spec(*overrides, "device=cpu"))


def plan_of(*overrides: str) -> Plan:
    """The plan that swa-train would have on the CPU."""
    return make_plan(spec_of(*overrides))


def config_of(*overrides: str) -> TrainConfig:
    """The configuration that swa-train would have on the CPU."""
    return spec_of(*overrides).config


def untimed(path: Path) -> dict[str, Any]:
    """A record without what two records of one run may differ in: times, and where it lies."""
    content: dict[str, Any] = json.loads(path.read_text())
    del content["timing"]
    content["config"].pop("results_dir")
    content["config"]["checkpoints"].pop("keep_for")
    return content


def records_of(results: Path) -> dict[str, dict[str, Any]]:
    """{folder and file name: record without its timing} of all records below a folder."""
    found = sorted(results.rglob("cell-*.json"))
    return {f"{path.parent.name}/{path.name}": untimed(path) for path in found}


def epochs_of(results: Path, method: str = "swa", seed: int = 0) -> pd.DataFrame:
    """epochs.csv of the one run of a method and seed."""
    (path,) = results.rglob(f"{method}-seed{seed}-*/epochs.csv")
    return pd.read_csv(path)


def checkpoint_of(results: Path, epoch: int, seed: int = 0) -> Path:
    """The one checkpoint of a seed after an epoch."""
    (path,) = results.rglob(f"checkpoints/seed{seed}-epoch{epoch:04d}-*.pt")
    return path
