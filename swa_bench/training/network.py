"""The network that a configuration names, and the weights that it starts from."""

import dataclasses
import inspect
import pkgutil
import textwrap
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from swa_bench.config.schema import TrainConfig
from swa_bench.data.random import random_numbers
from swa_bench.errors import ConfigError, SwaBenchError


def fresh_model(config: TrainConfig, device: torch.device) -> nn.Module:
    """The network before epoch 1: the same weights on every device, for one seed.

    Raises:
        ConfigError: model._target_ gives no network, or one that config.init does not fit.
        SwaBenchError: pretrained weights could not be fetched.
    """
    model = _initial(config, pretrained=config.init == "pretrained")
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return model.to(device).to(memory_format=layout)


@torch.no_grad()
def count_parameters(config: TrainConfig) -> int:
    """Number of the network's parameters, after a check that it maps images to logits.

    Raises:
        ConfigError: model._target_ gives no network that maps images to logits, or the file that
            config.init names does not fit it.
    """
    model = _initial(config, pretrained=False)
    size, classes = config.dataset.image_size, config.dataset.classes
    with torch.random.fork_rng(devices=[]):
        try:
            answer = model.train()(torch.zeros(2, 3, size, size))
        except Exception as error:  # whatever a user's own network raises
            raise _unfit(config, f"fails on images of {size}x{size}: {error}") from error
    shape = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
    if shape != (2, classes):
        raise _unfit(config, f"makes {shape} of two images instead of logits {(2, classes)}")
    return sum(parameter.numel() for parameter in model.parameters())


def _initial(config: TrainConfig, pretrained: bool) -> nn.Module:
    model = _build(config, pretrained)
    if config.init not in ("random", "pretrained"):
        if not Path(config.init).is_file():
            raise ConfigError("init", config.init, "no such file")
        tensors: dict[str, torch.Tensor] = {}
        try:
            tensors = load_file(config.init)
            unwrapped(model).load_state_dict(tensors)
        except (RuntimeError, SafetensorError, OSError) as error:
            # torch may name every tensor
            reason = _prefixed(tensors) or textwrap.shorten(str(error), 300)
            raise ConfigError("init", config.init, f"does not fit: {reason}") from error
    return model


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of DataParallel or torch.compile; its tensors have no prefix."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    inner = model._modules.get("_orig_mod")  # as torch.compile names it
    return model if inner is None else unwrapped(inner)


def _prefixed(tensors: Iterable[str]) -> str | None:
    """What is wrong where tensors have the names of a wrapped network; else None."""
    for prefix, wrapper in (("module", "DataParallel"), ("_orig_mod", "torch.compile")):
        if any(name.startswith(f"{prefix}.") for name in tensors):
            expected = f"its tensors begin with {prefix}., as in the state dict of {wrapper}"
            return f"{expected}: save that of the network inside, model.{prefix}, instead"
    return None


def _build(config: TrainConfig, pretrained: bool) -> nn.Module:
    """Call model._target_, with `pretrained` only if the configuration asks for such weights."""
    values = {"num_classes": config.dataset.classes, **config.model.arguments}
    if config.init == "pretrained":
        values["pretrained"] = pretrained
    with random_numbers(config.seed, 0, "weights"):
        try:
            model = pkgutil.resolve_name(config.model._target_)(**values)
        except OSError as error:
            raise SwaBenchError(
                f"init={config.init}: the weights could not be fetched ({error}). Those of "
                "torchvision may be put into $TORCH_HOME/hub/checkpoints by hand."
            ) from error
        except Exception as error:  # whatever a user's own code raises is a fault of the setting
            given = ", ".join(f"{name}={value}" for name, value in values.items())
            raise _unfit(config, f"cannot be built with {given}: {error}") from error
    if not isinstance(model, nn.Module):
        raise _unfit(config, f"gives a {type(model).__name__}, not a torch.nn.Module")
    return model


def _unfit(config: TrainConfig, reason: str) -> ConfigError:
    return ConfigError("model._target_", config.model._target_, textwrap.shorten(reason, 300))


def fresh_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that `optimizer._target_` names; the rate is set before every step.

    Raises:
        ConfigError: it cannot be built.
    """
    values = dict(config.optimizer)
    target = values.pop("_target_", None)
    try:
        kind = pkgutil.resolve_name(str(target))
        if config.device == "cuda" and "fused" in inspect.signature(kind).parameters:
            values.setdefault("fused", True)  # so that it takes its rate from the device
        optimizer = kind(model.parameters(), lr=config.model.learning_rate, **values)
    except Exception as error:  # whatever a user's own class raises is a fault of the setting
        given = ", ".join(f"{name}={value}" for name, value in values.items())
        expected = f"cannot be built with {given}: {error}"
        raise ConfigError("optimizer._target_", target, expected) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        expected = f"gives a {type(optimizer).__name__}, not a torch.optim.Optimizer"
        raise ConfigError("optimizer._target_", target, expected)
    return optimizer


def check_optimizer(config: TrainConfig) -> None:
    """Let the optimiser take a step on a network of one weight.

    Raises:
        ConfigError: it cannot be built, or its step needs something that no run gives, such as the
            closure of LBFGS.
    """
    model = nn.Linear(1, 1)
    optimizer = fresh_optimizer(dataclasses.replace(config, device="cpu"), model)
    model(torch.ones(1, 1)).sum().backward()
    try:
        optimizer.step()
    except Exception as error:  # as above
        target = config.optimizer.get("_target_")
        raise ConfigError("optimizer._target_", target, f"takes no step: {error}") from error
