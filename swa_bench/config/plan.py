"""What a run will do, epoch by epoch, before anything is trained: rates, collections, reports."""

import functools
import hashlib
import json
import math
import pkgutil
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from swa_bench.config import identity
from swa_bench.config.identity import DataIdentity
from swa_bench.config.schema import MethodConfig, TrainConfig
from swa_bench.config.spec import RunSpec
from swa_bench.errors import ConfigError


def collects(method: MethodConfig, epoch: int) -> bool:
    """Whether weights are collected after `epoch` (from 0; S: train.py, M: fge.py)."""
    if method.collect_from is None or method.cycle_epochs is None:
        return False
    since_first = epoch + 1 - method.collect_from
    return since_first >= 0 and since_first % method.cycle_epochs == 0


@dataclass(frozen=True)
class Plan:
    """The pure part of a run.

    Attributes:
        config: resolved and checked, with precision and device decided.
        steps_per_epoch: optimiser steps, the smaller last batch included.
        table: the learning rate of every step of all epochs.
        reports: the configuration of each budget that it reports, shortest first.
        with_predictions: whether a report whose predictions are lost is missing.
        data: the images that are there; a report of others is missing. None: any will do.
    """

    config: TrainConfig
    steps_per_epoch: int
    table: "array[float]"
    reports: list[TrainConfig]
    with_predictions: bool = False
    data: DataIdentity | None = None

    def rates(self, epoch: int) -> list[float]:
        """The learning rate of every step of an epoch (from 0)."""
        first = epoch * self.steps_per_epoch
        return self.table[first : first + self.steps_per_epoch].tolist()

    def collects(self, epoch: int) -> bool:
        """Whether weights are collected after this epoch (from 0)."""
        return collects(self.config.method, epoch)

    def reports_at(self, epochs: int) -> list[TrainConfig]:
        """What is reported after a number of epochs."""
        return [report for report in self.reports if report.epochs == epochs]

    def schedule_sha256(self, epochs: int) -> str:
        """Digest of all rates and collections up to a number of epochs.

        A user's own schedule is code, which the configuration cannot identify; its rates do.
        """
        return hashlib.sha256(b"".join(self._epoch_bytes(epochs))).hexdigest()

    def state_keys(self, fingerprint: str, initial: str) -> list[str]:
        """Keys of the states after 0, 1, 2, ... epochs: see identity.state_keys."""
        epochs = self._epoch_bytes(self.config.epochs)
        return identity.state_keys(self.config, epochs, fingerprint, initial)

    def _epoch_bytes(self, epochs: int) -> Iterator[bytes]:
        for epoch in range(epochs):
            rates = self.rates(epoch)
            yield struct.pack(f"<{len(rates)}d?", *rates, self.collects(epoch))


def make_plan(spec: RunSpec) -> Plan:
    """Plan a run; ConfigError if its schedule cannot be used."""
    config = spec.config
    return Plan(config, steps_per_epoch(config), load_schedule(config), _find_reports(spec))


def load_schedule(config: TrainConfig) -> "array[float]":
    """The learning rate of every step, by the function that YAML names; ConfigError if it fails."""
    values = dict(config.schedule)
    target = values.pop("_target_", None)
    try:
        function = pkgutil.resolve_name(str(target))
        steps = steps_per_epoch(config)
        table, wrong = _rates(function, json.dumps(values), steps, config.epochs)
    except Exception as error:  # whatever a user's own function raises is a fault of the setting
        null = [name for name, value in values.items() if value is None]
        reason = f"{', '.join(null)} is null with method={config.method.name}" if null else error
        raise ConfigError("schedule", target, f"cannot be used: {reason}") from error
    if wrong:
        raise ConfigError("schedule", target, wrong)
    return table


@functools.lru_cache(maxsize=8)  # seeds have one in common
def _rates(
    function: Callable[..., float], values: str, steps: int, epochs: int
) -> "tuple[array[float], str]":
    """The rate of every step up to the first that is none, and what is wrong with that."""
    schedule, table = functools.partial(function, **json.loads(values)), array("d")
    for epoch in range(epochs):
        for step in range(steps):
            rate = schedule(epoch, step, steps)
            if not isinstance(rate, int | float) or not 0 <= rate < math.inf:
                return table, f"gave the rate {rate!r} in epoch {epoch + 1}"
            table.append(rate)
    return table, ""


def steps_per_epoch(config: TrainConfig) -> int:
    """Optimiser steps in an epoch, that on the smaller last batch included."""
    return -(-config.dataset.train_images // config.batch_size)


def _find_reports(spec: RunSpec) -> list[TrainConfig]:
    """The budgets that this run reports, shortest first, each as the run of that budget alone.

    A smaller budget is reported by this run if the run of that budget alone would be the same,
    which its recipe hash says: so for SWA, whose schedule does not depend on the length, and not
    for SGD, whose schedule does.
    """
    config, found = spec.config, []
    own = identity.recipe_hash(config)
    for budget in sorted({*config.report_budgets, config.budget}):
        if budget > config.budget:
            continue
        try:
            report = config if budget == config.budget else spec.replace(budget=budget).config
        except ConfigError:  # such as a budget that ends before weights are collected
            continue
        if identity.recipe_hash(report) == own:
            found.append(report)
    return found


def describe(plans: Sequence[Plan], device: str) -> str:
    """Two lines on what runs of one recipe are; the device's name may be unknown ("")."""
    config = plans[0].config
    seeds = ", ".join(str(plan.config.seed) for plan in plans)
    steps = config.epochs * plans[0].steps_per_epoch
    return (
        f"{config.model.name} on {config.dataset.name}, {config.method.name}, seed {seeds}: "
        f"{config.epochs} epochs, {steps:,} steps\n"
        f"on {config.device}{device and f' ({device})'}, precision {config.precision}"
    )


def divergence(one: Plan, other: Plan) -> int | None:
    """The first epoch (from 0) whose rates or collections differ; None if one plan only ends."""
    for epoch in range(min(one.config.epochs, other.config.epochs)):
        if one.collects(epoch) != other.collects(epoch) or one.rates(epoch) != other.rates(epoch):
            return epoch
    return None


def fork_epochs(spec: RunSpec, plan: Plan) -> Iterator[tuple[int, Plan]]:
    """After how many epochs each method of checkpoints.keep_for leaves this run, and its plan.

    A checkpoint is kept there while that plan is unfinished, so that its run starts from it,
    whichever is trained first.
    """
    predictors = spec.config.method.predictors
    for method in spec.config.checkpoints.keep_for:
        for budget in {1.0, spec.config.budget}:
            try:
                other = spec.with_method(method).replace(budget=budget)
                other_plan = make_plan(other)
            except ConfigError:  # such as a budget that ends before weights are collected
                continue
            if other.is_ensemble_of_runs or other.config.method.predictors != predictors:
                continue  # it starts from no state of this run
            if leaves := divergence(plan, other_plan):  # not at epoch 0 and not never
                yield leaves, other_plan
