"""What a run will do, epoch by epoch, before anything is trained: rates, copies, cells."""

import functools
import hashlib
import math
import pkgutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from swa_bench.config import schema as configs
from swa_bench.config.schema import MethodConfig, TrainConfig
from swa_bench.errors import ConfigError
from swa_bench.results.record import cell_path, read_cell, read_predictions

# Raised when a change of the code changes what a configuration computes.
ENGINE_FORMAT = 2


def collects(method: MethodConfig, epoch: int) -> bool:
    """Whether a copy of the weights is taken after `epoch` (from 0; S: train.py, M: fge.py)."""
    if method.first_copy is None or method.cycle_epochs is None:
        return False
    since_first = epoch + 1 - method.first_copy
    return since_first >= 0 and since_first % method.cycle_epochs == 0


@dataclass(frozen=True)
class Plan:
    """The pure part of a run.

    Attributes:
        config: resolved and checked, with precision and device decided.
        steps_per_epoch: optimiser steps, the smaller last batch included.
        schedule: (epoch, step, steps_per_epoch) -> learning rate.
        cells: the configurations of the cells that it records, shortest first.
        with_predictions: whether a cell is missing if its predictions are.
        branches: numbers of epochs done after which another method of the seed leaves this walk.
    """

    config: TrainConfig
    steps_per_epoch: int
    schedule: Callable[[int, int, int], float]
    cells: list[TrainConfig]
    with_predictions: bool = False
    branches: frozenset[int] = field(default_factory=frozenset)

    def rates(self, epoch: int) -> list[float]:
        """The learning rate of every step of an epoch (from 0)."""
        steps = self.steps_per_epoch
        return [self.schedule(epoch, step, steps) for step in range(steps)]

    def cells_at(self, epochs: int) -> list[TrainConfig]:
        """The cells that end after so many epochs."""
        return [cell for cell in self.cells if cell.epochs == epochs]

    def missing(self) -> list[TrainConfig]:
        """The cells that have no sound record with this plan's rates and copies on disk."""
        return [cell for cell in self.cells if not self._is_recorded(cell)]

    def _is_recorded(self, cell: TrainConfig) -> bool:
        record = read_cell(cell_path(cell))
        if record is None or record["path_sha256"] != self.path_sha256(cell.epochs):
            return False
        return not self.with_predictions or read_predictions(cell_path(cell)) is not None

    def path_sha256(self, epochs: int) -> str:
        """Digest of all rates and copies up to a number of epochs.

        A user's own schedule is code, which the configuration cannot identify; its rates do.
        """
        running = hashlib.sha256()
        for epoch in range(epochs):
            running.update(self._epoch_bytes(epoch))
        return running.hexdigest()

    def _epoch_bytes(self, epoch: int) -> bytes:
        rates = self.rates(epoch)
        return struct.pack(f"<{len(rates)}d?", *rates, self.collects(epoch))

    def collects(self, epoch: int) -> bool:
        """Whether a copy of the weights is taken after this epoch (from 0)."""
        return collects(self.config.method, epoch)


def make_plan(cfg: DictConfig, config: TrainConfig) -> Plan:
    """Plan a run.

    Args:
        cfg: Hydra's configuration, from which the cells of other budgets are resolved.
        config: the same, resolved, checked, its device and precision decided.
    """
    steps = -(-config.dataset.train_images // config.optimizer.batch_size)
    return Plan(config, steps, load_schedule(config), find_cells(cfg, config))


def load_schedule(config: TrainConfig) -> Callable[[int, int, int], float]:
    """Bind the schedule function that YAML names to its values, and try it in every epoch.

    Raises:
        ConfigError: no such function, it does not take these values, or a rate is not a number.
    """
    values = dict(config.schedule)
    target = values.pop("_target_", None)
    try:
        function = functools.partial(pkgutil.resolve_name(str(target)), **values)
        rates = [function(epoch, 0, 1) for epoch in range(config.epochs)]
    except Exception as error:  # whatever a user's own function raises is a fault of the setting
        null = [name for name, value in values.items() if value is None]
        reason = f"{', '.join(null)} is null with method={config.method.name}" if null else error
        raise ConfigError("schedule", target, f"cannot be used: {reason}") from error
    for epoch, rate in enumerate(rates, start=1):
        if not isinstance(rate, int | float) or not 0 <= rate < math.inf:
            raise ConfigError("schedule", target, f"gave the rate {rate!r} in epoch {epoch}")
    return function


def find_cells(cfg: DictConfig, config: TrainConfig) -> list[TrainConfig]:
    """The cells that this run records, shortest first.

    A smaller budget is a cell of this run if the run of that budget alone would walk the same path,
    which its identity tells: so for SWA, whose schedule does not depend on the length, and not for
    SGD, whose schedule does.
    """
    cells = []
    for budget in sorted({*config.record_budgets, config.budget}):
        if budget > config.budget:
            continue
        try:
            cell = configs.at_budget(cfg, budget)
        except ConfigError:  # such as a budget that ends before the first copy
            continue
        cell.precision, cell.device = config.precision, config.device
        if configs.identity(cell) == configs.identity(config):
            cells.append(cell)
    return cells


def divergence(one: Plan, other: Plan) -> int | None:
    """The first epoch (from 0) where rates or copies of two plans differ; None if one only ends."""
    for epoch in range(min(one.config.epochs, other.config.epochs)):
        if one.collects(epoch) != other.collects(epoch) or one.rates(epoch) != other.rates(epoch):
            return epoch
    return None


def state_keys(plan: Plan, fingerprint: str, initial: str) -> list[str]:
    """Keys of the states after 0, 1, 2, ... epochs: digests of all that shaped each of them.

    Runs that agree in recipe, data, seed, arithmetic, and in the rates and copies so far, whatever
    their methods are called and however long they will be, have the same key.

    Args:
        fingerprint: SHA-256 of the data set.
        initial: SHA-256 of the weights before epoch 1, which tells networks of one name apart.
    """
    values = configs.plain(plan.config)
    recipe, data = values["model"], values["dataset"]
    shaping: dict[str, Any] = {
        "format": ENGINE_FORMAT,
        "model": [recipe["_target_"], recipe["arguments"], recipe["normalisation"], initial],
        "data": [fingerprint, data["image_size"], data["augmentation"]],
    }
    arithmetic = ("precision", "channels_last", "compile", "deterministic", "device")
    for name in ("optimizer", "seed", *arithmetic):
        shaping[name] = values[name]
    running = hashlib.sha256(configs.digest(shaping).encode())
    keys = [running.hexdigest()[:16]]
    for epoch in range(plan.config.epochs):
        running.update(plan._epoch_bytes(epoch))
        keys.append(running.hexdigest()[:16])
    return keys
