"""Random numbers: a separate stream for every seed, epoch and purpose, whoever draws from it.

Networks, predictors and augmentations draw from global generators: torch's of the CPU and of the
GPU, numpy's, and Python's. `random_numbers` puts one stream in the place of all of them.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

# What a stream of random numbers is for. The values are part of every result: never reuse one.
PURPOSES = {
    "weights": 0,  # building the network
    "dropout": 1,  # the steps of an epoch, whatever the network draws there
    "train": 2,  # order and augmentation of an epoch
    "recompute": 3,  # order and augmentation of a pass that recomputes batch-norm statistics
    "recompute_dropout": 4,  # what the network draws in that pass
    "predict": 5,  # what the network draws in evaluation mode
    "collect": 6,  # what a predictor draws
    "data": 7,  # what a user's own data set draws; the same for every seed
    "rehearsal": 8,  # what is tried before the first epoch
}
CPU = torch.device("cpu")


def stream_seed(seed: int, epoch: int, purpose: str, index: int | None = None) -> int:
    """Seed of the random numbers of one epoch and purpose, independent of all others.

    Args:
        index: of an image that has a stream of its own.
    """
    # Zeros at the end would change nothing: image 0 would have the stream of the whole epoch.
    own = [] if index is None else [index + 1]
    entropy = np.random.SeedSequence([seed, epoch, PURPOSES[purpose], *own])
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))  # torch takes 63 bits


class RandomNumbers:
    """A stream that global generators of host and device are lent; it goes on where they left."""

    def __init__(self, device: torch.device) -> None:
        self.gpu: torch.Generator | None = None
        if device.type == "cuda":
            self.gpu = torch.cuda.default_generators[device.index or 0]
            self.on_gpu = self.gpu.clone_state()
        self.on_host = _host_state()

    def start(self, seed: int, epoch: int, purpose: str) -> "RandomNumbers":
        """Begin the stream of one seed, epoch and purpose."""
        number = stream_seed(seed, epoch, purpose)
        if self.gpu is not None:
            self.on_gpu.manual_seed(number)
        on_torch = torch.Generator().manual_seed(number).get_state()
        self.on_host = (on_torch, np.random.MT19937(number), random.Random(number).getstate())
        return self

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Let all global generators draw from this stream."""
        before = _host_state()
        _set_host_state(self.on_host)
        if self.gpu is not None:  # a CUDA graph remembers whose state it was recorded with
            gpu_before = self.gpu.graphsafe_get_state()
            self.gpu.graphsafe_set_state(self.on_gpu)
        try:
            yield
        finally:
            self.on_host = _host_state()
            _set_host_state(before)
            if self.gpu is not None:
                self.gpu.graphsafe_set_state(gpu_before)

    def position(self) -> dict[str, Any]:
        """Where a stream that was started is, in tensors on the host and plain values."""
        on_torch, on_numpy, on_python = self.on_host
        numpy_state = on_numpy.state["state"]
        found = {"torch": on_torch, "python": on_python}
        found |= {"numpy": (numpy_state["key"].tolist(), numpy_state["pos"])}
        return found | ({} if self.gpu is None else {"gpu": self.on_gpu.get_state()})

    def go_on(self, position: dict[str, Any]) -> None:
        """Go on where a stream was; a GPU's state stays in its place, as CUDA graphs need it."""
        on_numpy = np.random.MT19937()
        key, pos = position["numpy"]
        on_numpy.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": pos}}
        self.on_host = (position["torch"].cpu(), on_numpy, position["python"])
        if self.gpu is not None:
            self.on_gpu.set_state(position["gpu"].cpu())

    def leave_graphs(self) -> None:
        """Go on, while lent, without the GPU's state that CUDA graphs were recorded with.

        After a recording that failed, that state may refuse to be drawn from. It has not moved.
        """
        if self.gpu is not None:
            self.on_gpu = self.on_gpu.clone_state()
            self.gpu.graphsafe_set_state(self.on_gpu)


@contextlib.contextmanager
def random_numbers(
    seed: int, epoch: int, purpose: str, device: torch.device = CPU
) -> Iterator[torch.Generator]:
    """Let all that is drawn come from one stream; what is drawn afterwards is not disturbed.

    Returns:
        torch's global generator of the device.
    """
    stream = RandomNumbers(device).start(seed, epoch, purpose)
    with stream.lent():
        yield stream.gpu or torch.default_generator


def begin_image(seed: int, epoch: int, purpose: str, index: int) -> None:
    """Inside `random_numbers`, let the host's generators draw from the stream of one image.

    To set each generator's seed takes a tenth of the time of lending it another stream.
    """
    number = stream_seed(seed, epoch, purpose, index)
    torch.default_generator.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


def _host_state() -> tuple[torch.Tensor, Any, Any]:
    # numpy's generator itself, which keeps its state: to copy that takes longer than all the rest.
    array = np.random.get_bit_generator()  # type: ignore[attr-defined]
    return torch.default_generator.get_state(), array, random.getstate()


def _set_host_state(state: tuple[torch.Tensor, Any, Any]) -> None:
    torch.default_generator.set_state(state[0])
    np.random.set_bit_generator(state[1])  # type: ignore[attr-defined]
    random.setstate(state[2])
