"""Processes that decode and augment the images of files, ahead of whoever takes them.

An image's random numbers come from the seed, the epoch, the purpose and its index, so nothing
depends on which process makes it, when, or where its pass begins. The processes keep no state.
"""

import contextlib
import multiprocessing.process
import multiprocessing.util
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from swa_bench.config.schema import DatasetConfig, TrainConfig
from swa_bench.data.augmentation import load_augmentation
from swa_bench.data.decoding import read_tensor, refuse_narrow
from swa_bench.data.file_set import FileSet
from swa_bench.data.random import begin_image, random_numbers
from swa_bench.errors import SIGNALS, SwaBenchError

CHUNK = 16  # images that a process makes at a time, so that all work on a batch
AHEAD = 4  # chunks that each makes before they are asked for
Stream = tuple[int, int, str]  # seed, epoch, purpose


class Request(NamedTuple):
    """What a process is asked for: images of one batch.

    Attributes:
        batch: number of the batch in its pass.
        indices: of the files.
        stream: of the random numbers; None for test images.
    """

    batch: int
    indices: np.ndarray
    stream: Stream | None


class Decoder(Dataset[Any]):
    """Makes images of files; DataLoader calls it in its processes."""

    def __init__(self, files: FileSet, config: TrainConfig) -> None:
        self.files, self.dataset = files, config.dataset
        self.augmentation: Any = load_augmentation(config)  # a OneByOne
        self.target = config.augmentation["_target_"]

    def __getitems__(self, request: Request) -> Tensor | str:
        """The images, uint8 (n, 3, S, S); or why they cannot be made, in a line."""
        size = self.dataset.image_size
        images = torch.empty((len(request.indices), 3, size, size), dtype=torch.uint8)
        try:
            if get_worker_info() is not None:
                _share(images)
            # So large an image is an attack, or a mistake.
            with random_numbers(0, 0, "data"), warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                warnings.simplefilter("ignore", DeprecationWarning)  # of torchvision's reader
                for image, index in zip(images, request.indices, strict=True):
                    image.copy_(self._image(int(index), request.stream))
        except SwaBenchError as error:
            return str(error)
        return images

    def _image(self, index: int, stream: Stream | None) -> Tensor:
        """An image as its network sees it: uint8 (3, S, S)."""
        split = "test" if stream is None else "train"
        path = getattr(self.files, split).path(index)
        try:
            image = read_tensor(path)
            self.files.check(split, index)  # afterwards, or it might change in between
            if stream is None:
                return self._centre(image)
        except SwaBenchError:
            raise
        except Exception as error:  # Pillow raises many kinds for a damaged file
            raise SwaBenchError(f"{path} cannot be read as an image: {error}") from error
        try:
            begin_image(*stream, index)
            changed: Tensor = self.augmentation.changed(image, torch.default_generator)
            return changed
        except Exception as error:  # of a user's own
            what = f"augmentation._target_={self.target}: fails for {path}: {error}"
            raise SwaBenchError(what) from error

    def _centre(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as v2

        height, width = image.shape[1:]
        refuse_narrow(width, height, self.dataset.resize)
        resized = v2.resize(image, [self.dataset.resize], antialias=True)
        centre: Tensor = v2.center_crop(resized, [self.dataset.image_size])
        return centre


def _share(images: Tensor) -> None:
    """Move images into memory that the main process sees too."""
    try:
        images.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise SwaBenchError(
            f"no room for images in shared memory, /dev/shm ({str(error).strip()}): fewer "
            "dataset.workers need less, or make it larger (docker: --shm-size=2g)"
        ) from error


def worker_count(dataset: DatasetConfig) -> int:
    """The processes that decode; `auto` is one a core of those that this process may use."""
    return joblib.cpu_count() if dataset.workers == "auto" else dataset.workers


class Pass:
    """A pass over files in batches, as requests; those that are made wait in `ready`."""

    def __init__(
        self, order: np.ndarray, stream: Stream | None, batch_size: int, first: int = 0
    ) -> None:
        starts = range(first * batch_size, len(order), batch_size)
        self.requests = deque(
            Request(start // batch_size, indices[at : at + CHUNK], stream)
            for start in starts
            for indices in [order[start : start + batch_size]]
            for at in range(0, len(indices), CHUNK)
        )
        self.ready: deque[Tensor] = deque()


class Workers:
    """Processes that serve several passes, begun one after the other, and taken in turn."""

    def __init__(self, decoder: Decoder, count: int, pin: bool) -> None:
        self.decoder, self.count, self.pin = decoder, count, pin
        self.loader: DataLoader[Any] | None = None
        self.processes: set[multiprocessing.process.BaseProcess] = set()
        self.going: list[Pass] = []
        self.found: Iterator[Any] | None = None  # what is made of the requests
        self.requests: list[Request] = []  # of the passes that are going
        self.owners: deque[Pass] = deque()  # whose requests those are that are still to be found
        # When this is no longer used, and before multiprocessing waits for processes at the end of
        # this one, be it a launcher's: they ignore the signal by which it ends them.
        multiprocessing.util.Finalize(self, _kill, [self.processes], exitpriority=100)

    def begin(self, one: Pass) -> Pass:
        """Begin a pass; of those before, it goes on with those that nothing was taken from yet."""
        self.going = [one] if self.found else [*self.going, one]
        self.found = None
        return one

    def take(self, one: Pass) -> Tensor:
        """The pass's next chunk of images; SwaBenchError if it cannot be made."""
        while not one.ready:
            if one not in self.going:
                self.begin(one)
            try:
                if self.found is None:
                    self.found = self._start()
                made = next(self.found)
            except RuntimeError as error:
                self.close()
                if not str(error).startswith("DataLoader worker"):
                    raise
                raise SwaBenchError(
                    "a process that reads images was killed, as it is where memory runs out: "
                    "start again; fewer dataset.workers need less"
                ) from error
            if isinstance(made, str):
                raise SwaBenchError(made)
            owner = self.owners.popleft()
            owner.requests.popleft()
            owner.ready.append(made)
        return one.ready.popleft()

    def _start(self) -> Iterator[Any]:
        """Ask for what is left of the passes that are going, a batch of each in turn."""
        left = [(request, one) for one in self.going for request in one.requests]
        merged = sorted(left, key=lambda pair: pair[0].batch)
        self.requests[:] = (request for request, _ in merged)
        self.owners = deque(one for _, one in merged)
        before = set(multiprocessing.active_children())
        with _quietly():
            self.loader = self.loader or DataLoader(
                self.decoder,
                batch_sampler=self.requests,  # type: ignore[arg-type]
                num_workers=self.count,
                # Not what a launcher has chosen: a fork shares the list of the files.
                multiprocessing_context="fork" if self.count else None,
                persistent_workers=self.count > 0,
                prefetch_factor=AHEAD if self.count else None,
                collate_fn=_as_it_is,
                pin_memory=self.pin,
                worker_init_fn=_ignore_signals,
                generator=torch.Generator(),  # or it would draw from the network's
            )
            found = iter(self.loader)
        self.processes |= set(multiprocessing.active_children()) - before
        return found

    def close(self) -> None:
        """End the processes, in order if DataLoader is in its hands alone; a pass starts others."""
        self.found = self.loader = None
        _kill(self.processes)  # an error's frames may hold them
        self.going = []


def _kill(processes: set[multiprocessing.process.BaseProcess]) -> None:
    while processes:
        processes.pop().kill()


def _as_it_is(made: Any) -> Any:
    return made


def _ignore_signals(worker: int) -> None:
    """The main process ends its step, and then its workers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Let DataLoader neither warn of more processes than cores nor handle their death.

    Its handler would raise an error in the middle of a step. Without it, a death is noticed when a
    chunk of images does not come.
    """
    before = signal.getsignal(signal.SIGCHLD)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
