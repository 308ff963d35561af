"""The typed schema of the configuration, and the checks between its fields.

Values stand in conf/*.yaml only; this file holds types. Nothing here imports torch
before GPUs are to be counted.
"""

import dataclasses
import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from swa_bench.errors import ConfigError, SwaBenchError


class Source(Enum):
    auto = "auto"
    official = "official"
    npm = "npm"
    local = "local"
    folder = "folder"


class Memory(Enum):
    device = "device"
    host = "host"


class PaddingMode(Enum):
    zeros = "zeros"
    reflect = "reflect"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(Enum):
    auto = "auto"
    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"


class Combine(Enum):
    """What is made of the collected copies of the weights, and is the method's result."""

    none = "none"  # nothing: the last weights are the result
    weights = "weights"  # their running average
    predictions = "predictions"  # the mean of their softmax outputs


class Keep(Enum):
    """Which states stay on disk when a run is done: its end, its cells too, its copies too."""

    ends = "ends"
    cells = "cells"
    copies = "copies"


class Logger(Enum):
    csv = "csv"
    tensorboard = "tensorboard"
    wandb = "wandb"


@dataclass
class NormalisationConfig:
    mean: list[float] = MISSING
    std: list[float] = MISSING


@dataclass
class ModelConfig:
    name: str = MISSING
    _target_: str = MISSING
    arguments: dict[str, Any] = MISSING
    budget_epochs: int = MISSING
    learning_rate: float = MISSING
    weight_decay: float = MISSING
    swa_start: int = MISSING
    swa_learning_rate: dict[str, float] = MISSING
    normalisation: NormalisationConfig = field(default_factory=NormalisationConfig)


@dataclass
class AugmentationConfig:
    flip: bool = MISSING
    padding: int = MISSING
    padding_mode: PaddingMode = MISSING


@dataclass
class DatasetConfig:
    name: str = MISSING
    classes: int = MISSING
    train_images: int = MISSING
    test_images: int = MISSING
    recipe: str = MISSING
    root: str = MISSING
    source: Source = MISSING
    content: str | None = MISSING
    resize: int = MISSING
    image_size: int = MISSING
    memory: Memory = MISSING
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass
class MethodConfig:
    name: str = MISSING
    combine: Combine = MISSING
    decay_epochs: int = MISSING
    final_ratio: float = MISSING
    first_copy: int | None = MISSING
    swa_learning_rate: float | None = MISSING
    cycle_epochs: int | None = MISSING
    runs_of: str | None = MISSING
    table_budget: float = MISSING


@dataclass
class OptimizerConfig:
    momentum: float = MISSING
    weight_decay: float = MISSING
    batch_size: int = MISSING


@dataclass
class EvaluationConfig:
    batch_size: int = MISSING
    every: int = MISSING
    average_every: int = MISSING


@dataclass
class CheckpointsConfig:
    keep: Keep = MISSING
    every_s: float = MISSING
    max_gb: float = MISSING


@dataclass
class TrainConfig:
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    schedule: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    init: str = MISSING
    seed: int = MISSING
    budget: float = MISSING
    epochs: int = MISSING
    record_budgets: list[float] = MISSING
    precision: Precision = MISSING
    channels_last: bool = MISSING
    compile: bool = MISSING
    deterministic: bool = MISSING
    cuda_graphs: bool = MISSING
    seeds_together: int = MISSING
    device: Device = MISSING
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    results_dir: str = MISSING
    logger: Logger = MISSING
    then: list[str] = MISSING
    share_with: list[str] = MISSING
    dry_run: bool = MISSING
    force: bool = MISSING


# What says where and how a run is done, not what it computes. The seed names the run beside its
# identity, and the length is a property of a cell, not of the walk that passes it.
NOT_SHAPING = [
    "seed",
    "budget",
    "epochs",
    "record_budgets",
    "cuda_graphs",
    "seeds_together",
    "device",
    "evaluation",
    "checkpoints",
    "results_dir",
    "logger",
    "then",
    "share_with",
    "dry_run",
    "force",
]
NOT_SHAPING_IN_GROUPS = (
    ("dataset", "root"),
    ("dataset", "source"),
    ("dataset", "memory"),
    ("method", "table_budget"),
)


def whole_epochs(budget: float, budget_epochs: int) -> int:
    """Epochs in a budget, rounded down: 1.25 x 150 = 187.5 gives 187 (0 if not finite)."""
    if not math.isfinite(budget):
        return 0
    return int(Decimal(str(budget)) * budget_epochs)


def ratio(part: float, whole: float) -> float:
    """Part over whole, nan where that is not defined, so that the check of `whole` can say so."""
    return part / whole if whole else math.nan


def split(epochs: int, cycles: int) -> int:
    """Epochs of each of so many equal cycles."""
    if cycles < 1 or epochs % cycles:
        raise ConfigError(
            "method.cycle_epochs", f"{epochs} / {cycles}", "a cycle must be of whole epochs"
        )
    return epochs // cycles


def mid_cycle(start: int, cycle_epochs: int) -> int:
    """Epochs done in the middle of the first cycle that begins after `start` epochs."""
    if cycle_epochs < 2 or cycle_epochs % 2:
        expected = "must be even: a member is taken in the middle of a cycle, after a whole epoch"
        raise ConfigError("method.cycle_epochs", cycle_epochs, expected)
    return start + cycle_epochs // 2


def gpu_count() -> int:
    """GPUs that this process may use: see conf/hydra/launcher/local_gpus.yaml."""
    import torch

    count: int = torch.cuda.device_count()
    if not count:  # or every job would wait for one for ever
        raise ConfigError("hydra.launcher.ray.init.num_gpus", 0, "no GPU was found on this machine")
    return count


def of_folder(what: str, root: str) -> Any:
    """A fact about a folder of images: see conf/dataset/image_folder.yaml."""
    from swa_bench.data.folder import scan

    return getattr(scan(root), what)


def register() -> None:
    """Make the schema and the resolvers of conf/*.yaml known, and the user's own modules found."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    ConfigStore.instance().store(name="schema", node=TrainConfig)
    OmegaConf.register_new_resolver("whole_epochs", whole_epochs, replace=True)
    OmegaConf.register_new_resolver("ratio", ratio, replace=True)
    OmegaConf.register_new_resolver("split", split, replace=True)
    OmegaConf.register_new_resolver("mid_cycle", mid_cycle, replace=True)
    OmegaConf.register_new_resolver("gpu_count", gpu_count, replace=True)
    OmegaConf.register_new_resolver("of_folder", of_folder, replace=True)


def to_config(cfg: DictConfig) -> TrainConfig:
    """Resolve interpolations and check; raise ConfigError at the first bad field."""
    try:
        config = OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        raise ConfigError(str(error.full_key), "???", "has no default: give it a value") from error
    except OmegaConfBaseException as error:
        context = error.__context__
        while context:  # a resolver of ours may have said what is wrong
            if isinstance(context, SwaBenchError):
                raise context from None
            context = context.__context__
        message = (error.msg or str(error)).splitlines()[0]
        raise ConfigError(error.full_key or "config", "(unresolved)", message) from error
    assert isinstance(config, TrainConfig)
    check(config)
    return config


def seed_block(seed: int, size: int) -> range:
    """The block of so many seeds that holds a seed: 0, 1 and 2 for each of these if it is of 3."""
    first = seed // size * size
    return range(first, first + size)


def at_budget(cfg: DictConfig, budget: float) -> TrainConfig:
    """The same configuration with another budget, and all that follows from it."""
    other = cfg.copy()
    other.budget = budget
    return to_config(other)


def check(config: TrainConfig) -> None:
    """Raise ConfigError where fields are out of range or contradict each other."""
    model, optimizer, method = config.model, config.optimizer, config.method
    _require(
        "model.budget_epochs", model.budget_epochs, model.budget_epochs > 0, "must be 1 or more"
    )
    for name, budget in [("budget", config.budget)] + [
        ("record_budgets", budget) for budget in config.record_budgets
    ]:
        positive = math.isfinite(budget) and budget > 0
        multiple = f"a multiple of model.budget_epochs={model.budget_epochs}, such as 1 or 1.5"
        _require(name, budget, positive, f"must be a positive number ({multiple})")
    epochs = whole_epochs(config.budget, model.budget_epochs)
    of = f"{model.budget_epochs} epochs"
    _require("budget", config.budget, epochs >= 1, f"less than one epoch of a budget of {of}")
    _require("budget", config.budget, epochs < 10_000, f"10,000 epochs or more, at {of} a budget")
    _require(
        "epochs", config.epochs, config.epochs == epochs, "follows from budget: change that instead"
    )
    _require("seed", config.seed, config.seed >= 0, "must be 0 or more")
    for name, rate in (
        ("model.learning_rate", model.learning_rate),
        ("method.swa_learning_rate", method.swa_learning_rate),
        ("method.final_ratio", method.final_ratio),
    ):
        good = rate is None or (math.isfinite(rate) and rate > 0)
        _require(name, rate, good, "must be a positive number")
    _require("optimizer.momentum", optimizer.momentum, 0 <= optimizer.momentum < 1, "not in [0, 1)")
    _require(
        "optimizer.weight_decay",
        optimizer.weight_decay,
        math.isfinite(optimizer.weight_decay) and optimizer.weight_decay >= 0,
        "must be 0 or more",
    )
    for name, count in (
        ("optimizer.batch_size", optimizer.batch_size),
        ("method.decay_epochs", method.decay_epochs),
        ("seeds_together", config.seeds_together),
        ("evaluation.batch_size", config.evaluation.batch_size),
        ("evaluation.every", config.evaluation.every),
        ("evaluation.average_every", config.evaluation.average_every),
        ("dataset.classes", config.dataset.classes),
        ("dataset.train_images", config.dataset.train_images),
        ("dataset.test_images", config.dataset.test_images),
    ):
        _require(name, count, count >= 1, "must be 1 or more")
    _check_names_and_files(config)
    size, resize = config.dataset.image_size, config.dataset.resize
    _require("dataset.image_size", size, size >= 1, "must be 1 or more pixels")
    _require(
        "dataset.resize", resize, resize >= size, f"must be at least dataset.image_size={size}"
    )
    padding = config.dataset.augmentation.padding
    fits = 0 <= padding < size
    _require("dataset.augmentation.padding", padding, fits, f"must be from 0 to {size - 1} pixels")
    for name, values in (
        ("mean", model.normalisation.mean),
        ("std", model.normalisation.std),
    ):
        good = len(values) == 3 and all(value > 0 for value in values)
        _require(f"model.normalisation.{name}", values, good, "must be three positive numbers")
    every_s = config.checkpoints.every_s
    _require("checkpoints.every_s", every_s, every_s >= 0, "must be 0 or more seconds")
    max_gb = config.checkpoints.max_gb
    _require("checkpoints.max_gb", max_gb, max_gb > 0, "must be a positive number of 1e9 bytes")
    if method.runs_of is not None:
        whole = config.budget == int(config.budget)
        expected = f"{method.name} counts whole runs of one budget each: choose 1, 2, 3, ..."
        _require("budget", config.budget, whole, expected)
    if method.combine is not Combine.none and method.runs_of in (None, method.name):
        _check_copies(config)


def _check_names_and_files(config: TrainConfig) -> None:
    for group, name in (("model", config.model.name), ("dataset", config.dataset.name)):
        good = re.fullmatch(r"\w[\w.-]*", name) is not None
        _require(f"{group}.name", name, good, "names a folder: letters, digits, _ . - only")
    known = config.init in ("random", "pretrained")
    if not known:
        expected = "choose random, pretrained or the path of a .safetensors file"
        _require("init", config.init, config.init.endswith(".safetensors"), expected)
        _require("init", config.init, Path(config.init).is_file(), "no such file")


def _check_copies(config: TrainConfig) -> None:
    method = config.method
    for name, value in (
        ("method.first_copy", method.first_copy),
        ("method.cycle_epochs", method.cycle_epochs),
    ):
        _require(name, value, value is not None and value >= 1, "must be 1 or more to take copies")
    assert method.first_copy is not None
    _require(
        "method.first_copy",
        method.first_copy,
        method.first_copy <= config.epochs,
        f"the run ends after epoch {config.epochs} (budget={config.budget:g} of "
        f"{config.model.budget_epochs} epochs): choose an earlier first copy (model.swa_start "
        "for SWA), or a larger budget",
    )


def _require(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(name, value, expected)


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as nested dicts of plain values, for records and hashes."""
    values: dict[str, Any] = _names_for_enums(dataclasses.asdict(config))
    return values


def _names_for_enums(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _names_for_enums(value) for key, value in values.items()}
    return values.name if isinstance(values, Enum) else values


def from_plain(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that a record holds, but for `init`: its weights are not needed again.

    Raises:
        ConfigError: it is of another version of the code, or has been changed.
    """
    try:
        with_init = {**values, "init": "random"}
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), with_init)
        assert isinstance(merged, DictConfig)
        return to_config(merged)
    except OmegaConfBaseException as error:
        message = (error.msg or str(error)).splitlines()[0]
        raise ConfigError(error.full_key or "config", "(of a record)", message) from error


def shaping(values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a plain configuration that shapes a walk, but for its seed and its length."""
    kept = {name: value for name, value in values.items() if name not in NOT_SHAPING}
    for group, name in NOT_SHAPING_IN_GROUPS:
        kept[group] = {key: value for key, value in kept[group].items() if key != name}
    return kept


def identity(config: TrainConfig) -> str:
    """Name of a walk: 12 hex digits over all that shapes it but its seed and its length.

    Two configurations with one identity and one seed walk the same path; one may go further.
    """
    return digest(shaping(plain(config)))[:12]


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, independent of their order."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(values: Any, reference: Any, prefix: str = "") -> dict[str, Any]:
    """Flat {dotted name: value} of where nested plain values differ from a reference.

    What only the reference has is left out: only another schedule lacks values, and it is named.
    """
    if isinstance(values, Mapping) and isinstance(reference, Mapping):
        found: dict[str, Any] = {}
        for key, value in values.items():
            found |= differences(value, reference.get(key), f"{prefix}{key}.")
        return found
    return {} if values == reference else {prefix.rstrip("."): values}
