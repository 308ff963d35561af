"""The network that a configuration names, and the weights that it starts from."""

import inspect
import pkgutil
import textwrap
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.parameter import is_lazy

from swa_bench.config.schema import TrainConfig
from swa_bench.data.random import random_numbers
from swa_bench.errors import ConfigError, SwaBenchError
from swa_bench.training.recorded_pass import RecordedPass


def fresh_model(config: TrainConfig, device: torch.device, fetch: bool = True) -> nn.Module:
    """The network before epoch 1, the same for one seed on every device; ConfigError if it is none.

    Args:
        fetch: whether pretrained weights are fetched, if config.init asks for them.
    """
    return _placed(_initial(config, fetch and config.init == "pretrained"), config, device)


def copy_of(model: nn.Module, config: TrainConfig) -> nn.Module:
    """A second network with the whole state of a first, built anew; ConfigError if that is another.

    Not every network can be copied by copy.deepcopy, such as one with weight_norm.
    """
    device = next(model.parameters()).device
    copy = _placed(_build(config, pretrained=False), config, device)
    try:
        load_state(copy, model)
    except RuntimeError as error:
        raise _unfit(config, f"builds another network the second time: {error}") from error
    return copy


@torch.no_grad()
def load_state(model: nn.Module, source: nn.Module) -> None:
    """Give a network all parameters, buffers and modes (training or not) of its like."""
    stored = source.state_dict()
    model.load_state_dict(stored)
    for name, buffer in source.named_buffers(remove_duplicate=False):
        if name not in stored:  # persistent=False
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, buffer.clone())
    for one, other in zip(model.modules(), source.modules(), strict=True):
        one.training = other.training


class Spare:
    """A second network that takes on the state of a first as often as one asks.

    Building a large network takes seconds, so it is built once, when it is first needed.
    """

    def __init__(self, config: TrainConfig, model: nn.Module | None = None) -> None:
        self.config, self.model = config, model
        self.recorded: RecordedPass | None = None  # of the spare network, if it has one

    def like(self, model: nn.Module) -> nn.Module:
        """The spare network, with the whole state of a model; it is the same object every time."""
        if self.model is None:
            self.model = copy_of(model, self.config)
        else:
            load_state(self.model, model)
        return self.model


def _placed(model: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    try:
        return model.to(device).to(memory_format=layout)
    except (NotImplementedError, RuntimeError) as error:
        raise _unfit(config, f"cannot be moved to {device}: {error}") from error


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
    inner = getattr(model, "_orig_mod", None)  # as torch.compile names it
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
            message = f"init={config.init}: the weights could not be fetched: {error}"
            raise SwaBenchError(message) from error
        except (Exception, SystemExit) as error:  # whatever a user's own code raises
            given = ", ".join(f"{name}={value}" for name, value in values.items())
            given += ", as init=pretrained asks" * (config.init == "pretrained")
            raise _unfit(config, f"cannot be built with {given}: {error}") from error
        if not isinstance(model, nn.Module):
            raise _unfit(config, f"gives a {type(model).__name__}, not a torch.nn.Module")
        if _lazy_layers(model):
            _give_sizes(model, config)
    return model


def _lazy_layers(model: nn.Module) -> list[str]:
    """The names of the layers that have no size yet."""
    return [
        name
        for name, layer in model.named_modules()
        if any(map(is_lazy, (*layer.parameters(recurse=False), *layer.buffers(recurse=False))))
    ]


@torch.no_grad()
def _give_sizes(model: nn.Module, config: TrainConfig) -> None:
    """Let lazy layers draw their first weights, in a pass that changes nothing else."""
    modes = [(layer, layer.training) for layer in model.modules()]
    size = config.dataset.image_size
    try:
        model.eval()(torch.zeros(2, 3, size, size))
    except Exception as error:  # as above
        raise _unfit(config, f"fails on images of {size}x{size}: {error}") from error
    if left := _lazy_layers(model):
        raise _unfit(config, f"{left[0]} gets no size in evaluation mode: do not make it lazy")
    for layer, mode in modes:
        layer.training = mode


def _unfit(config: TrainConfig, reason: str) -> ConfigError:
    return ConfigError("model._target_", config.model._target_, textwrap.shorten(reason, 300))


def fresh_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that `optimizer._target_` names; ConfigError if it cannot be built."""
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
