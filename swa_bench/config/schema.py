"""The typed options of a run: name, type, bounds, and whether the option shapes the result.

Values are in conf/*.yaml only. Hydra composes them, and pydantic checks them here.
"""

import dataclasses
import functools
import math
from decimal import Decimal
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PlainValidator,
    Strict,
    StrictBool,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from swa_bench.config.renames import RENAMED, RENAMED_VALUES, flatten, old_names
from swa_bench.config.suggestions import did_you_mean
from swa_bench.errors import ConfigError
from swa_bench.files import expanded
from swa_bench.text import check_printable

# Marks an option that says where and how a run is done, not what it computes. It is no part of a
# run's identity. The seed names the run beside its identity, and the length belongs to a record.
NOT_SHAPING = "not shaping"

# What a method's result can be: the trained weights as they are, or what a predictor makes of the
# weights that a run passes through. Every run keeps the common ones.
LAST = "last"
COMMON_PREDICTORS = ("swa", "ensemble")

Count = Annotated[int, Strict(), Field(ge=1)]
NonNegativeInt = Annotated[int, Strict(), Field(ge=0)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Values = dict[str, Any]  # `_target_` and its keyword arguments, or what else a group leaves open
# Names a folder of the results.
FolderName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
# The path of a file or folder; ~ stands for the user's home folder.
FilePath = Annotated[str, AfterValidator(expanded)]
Precision = Literal["auto", "fp32", "tf32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]


def _auto_or(least: int) -> PlainValidator:
    def checked(value: object) -> object:
        if value == "auto" or (type(value) is int and value >= least):
            return value
        raise ValueError(f"must be auto, or an integer of {least} or more")

    return PlainValidator(checked)


AutoOrCount = Annotated[Literal["auto"] | int, _auto_or(1)]

KNOWN_ONLY = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=KNOWN_ONLY)
class NormalisationConfig:
    mean: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)]


@dataclass(frozen=True, kw_only=True, config=KNOWN_ONLY)
class ModelConfig:
    name: FolderName
    _target_: str
    arguments: Values
    budget_epochs: Count
    learning_rate: Positive
    weight_decay: NonNegative
    swa_start: Count
    swa_learning_rate: dict[str, Positive]
    normalisation: NormalisationConfig


@dataclass(frozen=True, kw_only=True, config=KNOWN_ONLY)
class DatasetConfig:
    name: FolderName
    _target_: str
    classes: Count
    train_images: Count
    test_images: Count
    recipe: str
    content: str | None
    resize: Count
    image_size: Count
    root: Annotated[FilePath, NOT_SHAPING]
    source: Annotated[Literal["auto", "official", "npm", "local"], NOT_SHAPING]
    memory: Annotated[Literal["device", "disk"], NOT_SHAPING]
    # Records that were written before it lack it.
    workers: Annotated[Literal["auto"] | int, _auto_or(0), NOT_SHAPING] = "auto"

    @property
    def is_published(self) -> bool:
        """Whether its images, as many as are used, are known without loading them."""
        return self._target_.startswith("swa_bench.data.cifar.")  # which takes no others

    def __post_init__(self) -> None:
        expected = f"must be at least dataset.image_size={self.image_size}"
        require("dataset.resize", self.resize, self.resize >= self.image_size, expected)
        streams = self.memory == "disk" and self.is_published
        require("dataset.memory", self.memory, not streams, f"{self.name} is no folder of images")


@dataclass(frozen=True, kw_only=True, config=KNOWN_ONLY)
class MethodConfig:
    name: FolderName
    result: str
    predictors: dict[str, Values]
    decay_epochs: NonNegativeInt  # 0 follows from a budget of 0 epochs: the check of that says so
    final_ratio: Positive
    cycle_epochs: Count | None
    collect_from: Count | None
    swa_learning_rate: Positive | None
    ensemble_of: str | None
    table_budget: Annotated[NonNegative, NOT_SHAPING]  # 0: the method trains nothing

    def __post_init__(self) -> None:
        results = [LAST, *COMMON_PREDICTORS, *self.predictors]
        expected = f"must be one of {', '.join(results)}: what method.predictors or every run keeps"
        require("method.result", self.result, self.result in results, expected)


@dataclass(frozen=True, kw_only=True, config=KNOWN_ONLY)
class EvaluationConfig:
    batch_size: Count
    every: Count
    average_every: Count


@dataclass(frozen=True, kw_only=True, config=KNOWN_ONLY)
class CheckpointsConfig:
    keep: Literal["ends", "cells", "collected"]
    keep_for: list[str]
    every_s: NonNegative
    max_gb: Positive


@dataclass(frozen=True, kw_only=True, config=KNOWN_ONLY)
class TrainConfig:
    """All options of one run, resolved; values of the YAML files, nothing added."""

    # What others are computed from comes first, so that the first fault found is the user's own.
    seed: Annotated[NonNegativeInt, Field(lt=2**63), NOT_SHAPING]
    budget: Annotated[NonNegative, NOT_SHAPING]
    model: ModelConfig
    dataset: DatasetConfig
    augmentation: Values
    method: MethodConfig
    schedule: Values
    optimizer: Values
    batch_size: Count
    init: FilePath
    epochs: Annotated[NonNegativeInt, NOT_SHAPING]
    report_budgets: Annotated[list[Positive], NOT_SHAPING]
    precision: Precision
    channels_last: StrictBool
    compile: StrictBool
    deterministic: StrictBool
    cuda_graphs: Annotated[Literal["auto", True, False], NOT_SHAPING]
    seeds_together: Annotated[AutoOrCount, NOT_SHAPING]
    device: Annotated[Device, NOT_SHAPING]
    evaluation: Annotated[EvaluationConfig, NOT_SHAPING]
    checkpoints: Annotated[CheckpointsConfig, NOT_SHAPING]
    results_dir: Annotated[FilePath, NOT_SHAPING]
    logger: Annotated[Literal["csv", "tensorboard", "wandb"], NOT_SHAPING]
    also_train: Annotated[list[str], NOT_SHAPING]
    dry_run: Annotated[Literal[False, True, "csv"], NOT_SHAPING]
    force: Annotated[StrictBool, NOT_SHAPING]
    # Records that were written before these lack them.
    threads: Annotated[AutoOrCount, NOT_SHAPING] = "auto"
    metrics: Annotated[dict[FolderName, Values], NOT_SHAPING] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        self._check_length()
        self._check_collecting()
        if self.init not in ("random", "pretrained"):
            expected = "choose random, pretrained or the path of a .safetensors file"
            require("init", self.init, self.init.endswith(".safetensors"), expected)

    def _check_length(self) -> None:
        budget_epochs = self.model.budget_epochs
        epochs = whole_epochs(self.budget, budget_epochs)
        if not self.method.table_budget:
            expected = f"must be 0, its default: method={self.method.name} trains nothing"
            require("budget", self.budget, self.budget == 0, expected)
        else:
            expected = (
                f"less than one epoch (model.budget_epochs={budget_epochs}), and "
                f"method={self.method.name} trains"
            )
            require("budget", self.budget, epochs >= 1, expected)
        expected = f"10,000 epochs or more, at {budget_epochs} epochs per budget"
        require("budget", self.budget, epochs < 10_000, expected)
        expected = "follows from budget: change that instead"
        require("epochs", self.epochs, self.epochs == epochs, expected)
        decay = self.method.decay_epochs
        require("method.decay_epochs", decay, decay >= 1 or not epochs, "must be 1 or more")
        if self.method.ensemble_of is not None:
            expected = (
                f"{self.method.name} counts whole runs of one budget each: choose 1, 2, 3, ..."
            )
            require("budget", self.budget, self.budget == int(self.budget), expected)

    def _check_collecting(self) -> None:
        method = self.method
        collecting_run = method.ensemble_of in (None, method.name)
        if method.result not in COMMON_PREDICTORS or not collecting_run:
            return
        for name in ("collect_from", "cycle_epochs"):
            given = getattr(method, name)
            require(f"method.{name}", given, given is not None, "must be 1 or more to collect")
        assert method.collect_from is not None
        expected = (
            f"the run ends after epoch {self.epochs} (budget={self.budget:g} of "
            f"{self.model.budget_epochs} epochs): collect earlier (model.swa_start for SWA), or "
            "choose a larger budget"
        )
        in_time = method.collect_from <= self.epochs
        require("method.collect_from", method.collect_from, in_time, expected)


def require(field: str, value: object, good: bool, expected: str) -> None:
    """Raise ConfigError unless `good`."""
    if not good:
        raise ConfigError(field, value, expected)


def whole_epochs(budget: float, budget_epochs: int) -> int:
    """Epochs in a budget, rounded down: 1.25 x 150 = 187.5 gives 187 (0 if not a finite number)."""
    numbers = all(isinstance(value, int | float) for value in (budget, budget_epochs))
    if not numbers or isinstance(budget, bool) or not math.isfinite(budget):
        return 0  # the check of the budget says so
    return int(Decimal(str(budget)) * budget_epochs)


def from_dict(values: Any) -> TrainConfig:
    """Check nested plain values; ConfigError names the first field that is wrong."""
    if renamed := old_names(values):
        name, value = next(iter(renamed.items()))
        raise ConfigError(name, value, f"is called {RENAMED[name]} now")
    try:
        check_printable(values)
    except ValueError as error:
        raise ConfigError("config", "...", str(error)) from None
    try:
        return TypeAdapter(TrainConfig).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        expected = _expected(first, name)
        if first["type"] == "unexpected_keyword_argument":
            others = [one for one in flatten(values) if not f"{one}.".startswith(f"{name}.")]
            expected += did_you_mean(name, others)
        value = first["input"]
        raise ConfigError(name, "..." if isinstance(value, dict) else value, expected) from None


def _expected(error: ErrorDetails, name: str) -> str:
    """What would be right, in our words where pydantic's are not a user's."""
    if error["type"] == "unexpected_keyword_argument":
        return "there is no such option"
    if name == "dataset.memory" and error["input"] == "host":
        return "was removed: disk reads the files while the device trains"
    if error["type"] == "literal_error" and error["input"] in RENAMED_VALUES.get(name, {}):
        return f"is called {RENAMED_VALUES[name][error['input']]} now"
    if error["type"] == "string_pattern_mismatch":
        return "names a folder: letters, digits, _ . - only"
    if error["type"] == "missing":
        return "has no value: give it one"
    if error["type"] == "greater_than_equal":
        return f"must be {error['ctx']['ge']:g} or more"
    said = (
        error["msg"]
        .removeprefix("Value error, ")
        .replace("Input should be", "must be")
        .replace("List should", "must")
    )
    said = said.replace(" after validation", "")
    said = said.replace("a valid boolean", "true or false")
    said = said.replace("False", "false").replace("True", "true")
    return said.replace("a valid integer", "an integer").replace("a valid", "a")


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as nested dicts of plain values, for records and hashes."""
    return dataclasses.asdict(config)


@functools.cache  # it takes longer than all else here
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def shaping(values: dict[str, Any], kind: Any = TrainConfig) -> dict[str, Any]:
    """The part of plain values that shapes a run: all that is not marked NOT_SHAPING.

    So an option is part of a run's identity unless its author says that it is not.
    """
    kept, hints = {}, _hints(kind)
    for name, value in values.items():
        hint = hints.get(name)
        if NOT_SHAPING not in getattr(hint, "__metadata__", ()):
            nested = dataclasses.is_dataclass(hint) and isinstance(value, dict)
            kept[name] = shaping(value, hint) if nested else value
    return kept
