"""What a record may name: this program's own networks, schedules and data, and torch's optimisers.

A record, or an exported file, may come from anybody, and what `_target_` names in it is called to
build the network. The names below are compared as text: looking another up would already run code.
"""

from collections.abc import Iterator
from typing import Any

import torch

from swa_bench.config.grid import shipped_yaml
from swa_bench.errors import ConfigError

Names = tuple[str, ...]  # names of nested options
KNOWN = {
    "model": """swa_bench.models.build_model swa_bench.models.from_torchvision.torchvision_model
        swa_bench.models.vgg.VGG swa_bench.models.preresnet.PreResNet
        swa_bench.models.wide_resnet.WideResNet swa_bench.models.shakeshake.ShakeShake
        swa_bench.models.pyramidnet.PyramidNet""".split(),
    "schedule": [
        f"swa_bench.schedules.{name}"
        for name in ("authors", "constant", "cyclic", "fge", "snapshot")
    ],
    "dataset": """swa_bench.data.cifar.load_cifar10 swa_bench.data.cifar.load_cifar100
        swa_bench.data.cifar.load_cifar10_mini swa_bench.data.folder.load_folder""".split(),
    "augmentation": [
        f"swa_bench.data.augmentation.{name}" for name in ("CropAndFlip", "RandomResizedCrop")
    ],
    "optimizer": [
        f"torch.optim.{name}"
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    ],
}
PREDICTORS = [
    f"swa_bench.training.averaging.{name}"
    for name in ("WeightAverage", "PredictionAverage", "WeightEMA")
]
REMEDY = "with --trust, or load_model(..., trust=True), the code that the record names is run"


def check_trusted(config: dict[str, Any]) -> None:
    """Raise ConfigError if a recorded configuration builds anything that is not known here."""
    built: dict[Names, list[str]] = {(group,): known for group, known in KNOWN.items()}
    predictors = _get(config, ("method", "predictors"))
    if isinstance(predictors, dict):
        built |= {("method", "predictors", name): PREDICTORS for name in predictors}
    for group, known in built.items():
        target = _get(config, (*group, "_target_"))
        if not isinstance(target, str) or target not in known:
            raise _refusal((*group, "_target_"), target, "is not a part of this program")
    for path, value in _leaves(config):
        if "_target_" in path and path[:-1] not in built:
            raise _refusal(path, value, "names code where none is needed")
        if any(isinstance(text, str) and "${" in text for text in (*path, value)):
            raise _refusal(path, value, "is an interpolation")
        if path == ("model", "arguments", "pretrained"):
            raise _refusal(path, value, "fetches weights from elsewhere")


def _refusal(path: Names, value: object, reason: str) -> ConfigError:
    return ConfigError(".".join(path), f"{value!s:.100}", f"{reason}; {REMEDY}")


def _get(values: Any, path: Names) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _leaves(value: Any, path: Names = ()) -> Iterator[tuple[Names, Any]]:
    """All values that hold no others, with the names that lead to them."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _leaves(inner, (*path, "[]"))
    else:
        yield path, value


def with_own_data(config: dict[str, Any], root: str | None) -> dict[str, Any]:
    """The configuration with its data in `root`, or the default place, not the record's."""
    dataset = config.get("dataset")
    if not isinstance(dataset, dict):
        return config  # the schema says what is missing
    folder = dataset.get("_target_") == "swa_bench.data.folder.load_folder"
    default = shipped_yaml("dataset/image_folder.yaml" if folder else "dataset/cifar10.yaml")
    own = {"root": root or default.root, "source": default.get("source", "auto")}
    if dataset.get("memory") == "host":  # which versions before 0.6 had, for the same bits
        own["memory"] = "device"
    return config | {"dataset": dataset | own}
