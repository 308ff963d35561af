"""Faults of what a user brings: what fails, and the option that names it or that helps."""

import contextlib
import textwrap
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from swa_bench.config.schema import TrainConfig
from swa_bench.errors import ConfigError
from swa_bench.training import hardware


class FaultError(Exception):
    """What fails, and the option that helps.

    Attributes:
        field: the option, such as model._target_.
        reason: a clause, such as "fails in a training step: ...".
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field, self.reason = field, reason


def fault_of(
    error: Exception | SystemExit, field: str, what: str, memory: str | None = None
) -> FaultError:
    """The fault behind an exception.

    Args:
        field: the option that names the code.
        what: such as "fails in a training step".
        memory: the option that helps where memory is too small, if there is one.
    """
    reason = textwrap.shorten(str(error).strip(". \n") or type(error).__name__, 200)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "t allocate mem" in reason:
        helps = ": choose a smaller one" if memory else ""
        return FaultError(memory or field, f"{what}, memory is too small ({reason}){helps}")
    return FaultError(field, f"{what}: {reason}")


@contextlib.contextmanager
def faults(field: str, what: str, memory: str | None = None) -> Iterator[None]:
    """Raise a FaultError, as of `fault_of`, for whatever is raised that is none yet."""
    try:
        yield
    except (ConfigError, FaultError):
        raise
    except (Exception, SystemExit) as error:
        raise fault_of(error, field, what, memory) from None


@torch.no_grad()
def check_logits(
    config: TrainConfig, model: nn.Module, images: Tensor, memory: str | None = None
) -> None:
    """Raise FaultError unless the network, in the mode that it is in, maps images to logits.

    Args:
        images: (N, 3, S, S), which it may change.
        memory: see `fault_of`.
    """
    classes, count, size = config.dataset.classes, len(images), images.shape[-1]
    mode = f"in {'training' if model.training else 'evaluation'} mode"
    with (
        faults("model._target_", f"fails on images of {size}x{size} {mode}", memory),
        hardware.autocast(config),
    ):
        logits = model(images)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    of = {1: "one image", 2: "two images"}.get(count, f"{count} images")
    reason = None
    if shape != (count, classes):
        reason = f"makes {shape} of {of} instead of logits {(count, classes)}"
    elif not logits.is_floating_point():
        reason = f"gives {logits.dtype} instead of logits"
    elif model.training and not logits.isfinite().all():
        reason = "gives logits that are not finite"
    elif classes > 1 and (logits >= 0).all() and (logits.double().sum(1) - 1).abs().max() < 1e-3:
        reason = "gives probabilities instead of logits"
    if reason is not None:
        raise FaultError("model._target_", f"{reason} {mode}")


def check_state(model: nn.Module, known: set[str]) -> None:
    """Raise FaultError unless the network has what an optimiser, a checkpoint and a file can take.

    Args:
        known: the names of the parameters before the first forward pass.
    """
    parameters = dict(model.named_parameters())
    if late := sorted(parameters.keys() - known):
        reason = f"makes {late[0]} in its forward pass, where the optimiser does not find it"
    elif not parameters:
        reason = "has no parameters"
    elif not any(parameter.requires_grad for parameter in parameters.values()):
        reason = "has nothing to train: all its parameters are frozen (requires_grad=False)"
    elif other := [name for name, one in model.state_dict().items() if not isinstance(one, Tensor)]:
        reason = f"has {other[0]} in its state dict, which is no tensor: make it a buffer"
    else:
        return
    raise FaultError("model._target_", reason)
