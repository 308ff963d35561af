"""Faults of what a user brings and of the device: what fails, and the option that helps."""

import contextlib
import re
import textwrap
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from swa_bench.config.schema import TrainConfig
from swa_bench.errors import DeviceLostError, SwaBenchError
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


# What torch's errors of a GPU and its libraries contain, and those of them that are of memory.
ON_GPU = re.compile(r"(CUDA|HIP) (error|out of memory)|cuDNN error|(CUDNN|CUBLAS)_STATUS")
SMALL_MEMORY = re.compile(r"t allocate mem|out of memory|STATUS_(ALLOC_FAILED|NOT_INITIALIZED)")


def small_memory(error: BaseException) -> str | None:
    """What was asked for and what there is, where memory is too small; None for another error."""
    text = str(error)
    of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if not of_memory and not SMALL_MEMORY.search(text):
        return None
    asked = re.search(r"allocate ([\d.]+ \w+)", text)
    there = re.search(r"capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free", text)
    if not asked:
        return f"memory is too small ({textwrap.shorten(text.strip('. '), 200)})"
    of = f", {there[2]} of {there[1]} free" if there else ""
    return f"memory is too small ({asked[1]} asked for{of})"


def device_is_lost() -> bool:
    """Whether every later call of a GPU fails in this process, as after an illegal address."""
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def device_fault(error: BaseException, helps: str) -> SwaBenchError | None:
    """An error of memory or of the GPU, in a line; None for any other.

    Args:
        helps: a clause on what needs less memory.
    """
    text = str(error).partition("\n")[0].strip(". ")
    on_gpu = isinstance(error, RuntimeError) and ON_GPU.search(text) is not None
    if on_gpu and device_is_lost():
        return DeviceLostError(
            f"the GPU is lost for this process ({text}): start the command again, which goes on "
            "from the last checkpoint; CUDA_LAUNCH_BLOCKING=1 shows where it fails"
        )
    if reason := small_memory(error):
        return SwaBenchError(f"{reason}: {helps}")
    return SwaBenchError(f"the GPU fails ({text}): start the command again") if on_gpu else None


@contextlib.contextmanager
def device_faults(helps: str) -> Iterator[None]:
    """Raise what `device_fault` makes of an error inside, if it is one of memory or of the GPU."""
    try:
        yield
    except Exception as error:
        if (found := device_fault(error, helps)) is None:
            raise
        raise found from error


def less_memory(config: TrainConfig) -> str:
    """What lets a run train in less memory, as a clause."""
    options = {
        "precision=bf16": config.precision == "bf16",
        "seeds_together=1": config.seeds_together == 1,
    }
    open_ones = " or ".join(option for option, chosen in options.items() if not chosen)
    helps = f"{open_ones} helps; " if open_ones else ""
    data = config.dataset
    folder = data._target_ == "swa_bench.data.folder.load_folder" and data.memory == "device"
    large_folder = folder and 3 * data.resize**2 * data.train_images > 1e9  # bytes
    others = ", and so are images that stream (dataset.memory=disk)" * large_folder
    return f"{helps}a smaller batch_size is another recipe{others}"


def fault_of(
    error: Exception | SystemExit, field: str, what: str, memory: str | None = None
) -> FaultError | SwaBenchError:
    """The fault behind an exception; a DeviceLostError is nobody's fault here.

    Args:
        field: the option that names the code.
        what: such as "fails in a training step".
        memory: the option that helps where memory is too small, if there is one.
    """
    helps = "choose a smaller one"
    if memory == "batch_size":
        helps = "precision=bf16 needs less; a smaller batch_size is another recipe"
    found = device_fault(error, helps)
    if isinstance(found, DeviceLostError):
        return found
    if small := small_memory(error):
        return FaultError(memory or field, f"{what}, {found if memory else small}")
    reason = textwrap.shorten(str(error).strip(". \n") or type(error).__name__, 200)
    return FaultError(field, f"{what}: {reason}")


@contextlib.contextmanager
def faults(field: str, what: str, memory: str | None = None) -> Iterator[None]:
    """Raise a FaultError, as of `fault_of`, for whatever is raised that is none yet."""
    try:
        yield
    except (SwaBenchError, FaultError):
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
