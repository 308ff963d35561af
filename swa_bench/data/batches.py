"""Images on the device, or in files from which they stream, and batches of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from swa_bench.config.schema import TrainConfig
from swa_bench.data.augmentation import Augmentation, load_augmentation
from swa_bench.data.file_set import FileSet
from swa_bench.data.images import ImageSet
from swa_bench.data.random import random_numbers
from swa_bench.data.workers import CHUNK, Decoder, Pass, Stream, Workers, worker_count


@dataclass(frozen=True)
class EpochDraws:
    """The random choices of one pass over the training set, one entry per image, in its order.

    Attributes:
        order: int64 (N,), a permutation of the images.
        choices: the augmentation's named tensors (N, ...).
        stream: that images of files, changed one by one, have their random numbers from.
    """

    order: Tensor
    choices: Mapping[str, Tensor]
    stream: Stream

    def at(self, which: Tensor | slice) -> "EpochDraws":
        """The choices at some positions of the order."""
        choices = {name: values[which] for name, values in self.choices.items()}
        return replace(self, order=self.order[which], choices=choices)

    def copy_(self, other: "EpochDraws") -> None:
        """Overwrite these choices with those of another pass."""
        self.order.copy_(other.order)
        for name, values in self.choices.items():
            values.copy_(other.choices[name])


@dataclass(frozen=True, kw_only=True)
class Images(ABC):
    """A data set whose batches are made on a device, wherever its images are.

    Attributes:
        train_labels, test_labels: int64.
        augmentation: of the training images.
        mean, std: float32 (3, 1, 1), of pixels scaled to 0..1.
        channels_last: memory layout of the batches.
    """

    train_labels: Tensor
    test_labels: Tensor
    augmentation: Augmentation
    mean: Tensor
    std: Tensor
    channels_last: bool

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.train_labels.device

    def draw(self, seed: int, epoch: int, purpose: str) -> EpochDraws:
        """Order and augmentation of one pass, from the stream of (seed, epoch, purpose)."""
        count = len(self.train_labels)
        with random_numbers(seed, epoch, purpose, self.device) as generator:
            order = torch.randperm(count, generator=generator, device=self.device)
            choices = self.augmentation.draw(count, generator)
        return EpochDraws(order, choices, (seed, epoch, purpose))

    def buffers(self) -> EpochDraws:
        """Tensors like those of a pass, which a CUDA graph reads and `copy_` fills."""
        choices = self.augmentation.draw(len(self.train_labels), torch.Generator())
        on_device = {name: values.to(self.device) for name, values in choices.items()}
        return EpochDraws(torch.zeros_like(self.train_labels), on_device, (0, 0, "train"))

    def begin(self, draws: EpochDraws | None, batch_size: int, first: int = 0) -> Pass | None:
        """Begin a pass over training images or, without draws, test images, if they stream."""
        return None

    @abstractmethod
    def train_pixels(self, draws: EpochDraws, begun: Pass | None) -> Tensor:
        """The next images of a pass, augmented: uint8 (B, 3, S, S)."""

    @abstractmethod
    def test_pixels(self, batch: slice, begun: Pass | None) -> Tensor:
        """The same for test images."""

    def train_batch(self, draws: EpochDraws, begun: Pass | None = None) -> tuple[Tensor, Tensor]:
        """The augmented, normalised images (B, 3, S, S) and labels (B,) of B draws."""
        return self._to_float(self.train_pixels(draws, begun)), self.train_labels[draws.order]

    def train_batches(self, draws: EpochDraws, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a pass, as of `train_batch`; the last may be smaller."""
        begun = self.begin(draws, batch_size)
        for start in range(0, len(draws.order), batch_size):
            yield self.train_batch(draws.at(slice(start, start + batch_size)), begun)

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised test images in their order, and their labels."""
        begun = self.begin(None, batch_size)
        for start in range(0, len(self.test_labels), batch_size):
            batch = slice(start, start + batch_size)
            yield self._to_float(self.test_pixels(batch, begun)), self.test_labels[batch]

    def close(self) -> None:  # noqa: B027 images on the device have nothing to end
        """End what makes its batches."""

    def _to_float(self, pixels: Tensor) -> Tensor:
        """Normalise images: uint8 (B, 3, S, S) -> float32, in the run's layout."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        floats = pixels.to(torch.float32, memory_format=layout)
        # The operations of torchvision's ToTensor and Normalize, in their order.
        return floats.div_(255).sub_(self.mean).div_(self.std)


@dataclass(frozen=True, kw_only=True)
class DeviceImages(Images):
    """A data set on the device; a CUDA graph can record how a batch is made.

    Attributes:
        train_images: uint8 (N, P, P, 3), as the augmentation prepares them.
        test_images: uint8 (M, S, S, 3), the centres that the network sees.
    """

    train_images: Tensor
    test_images: Tensor

    def train_pixels(self, draws: EpochDraws, begun: Pass | None) -> Tensor:
        """The images of B draws, augmented: uint8 (B, 3, S, S)."""
        images = self.augmentation.apply(self.train_images[draws.order], draws.choices)
        return images.permute(0, 3, 1, 2)

    def test_pixels(self, batch: slice, begun: Pass | None) -> Tensor:
        """Some test images, uint8 (B, 3, S, S)."""
        return self.test_images[batch].permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class StreamedImages(Images):
    """A data set in files; all passes over it share its processes."""

    workers: Workers

    def close(self) -> None:
        """End the processes."""
        self.workers.close()

    def begin(self, draws: EpochDraws | None, batch_size: int, first: int = 0) -> Pass:
        """Begin a pass over training images or, without draws, test images."""
        if draws is None:
            return self.workers.begin(Pass(np.arange(len(self.test_labels)), None, batch_size))
        order = draws.order.cpu().numpy()
        return self.workers.begin(Pass(order, draws.stream, batch_size, first))

    def train_pixels(self, draws: EpochDraws, begun: Pass | None) -> Tensor:
        """The next images of a pass; SwaBenchError for a file that cannot be read."""
        return self._next(len(draws.order), begun)

    def test_pixels(self, batch: slice, begun: Pass | None) -> Tensor:
        """The same for test images."""
        return self._next(len(self.test_labels[batch]), begun)

    def _next(self, size: int, begun: Pass | None) -> Tensor:
        assert begun is not None
        chunks = [self.workers.take(begun) for _ in range(0, size, CHUNK)]
        on_device = [chunk.to(self.device, non_blocking=True) for chunk in chunks]
        return torch.cat(on_device) if len(chunks) > 1 else on_device[0]


class Feed:
    """The training batches of a pass, one after the other, by a counter on the device.

    With images on the device it needs nothing of the host and waits for nothing, so that a CUDA
    graph can record it.
    """

    def __init__(self, data: Images, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size
        self.draws = data.buffers()
        self.places = torch.arange(batch_size, device=data.device)
        self.batches_done = torch.zeros(1, dtype=torch.int64, device=data.device)
        self.begun: Pass | None = None

    def begin(self, draws: EpochDraws, first: int = 0) -> None:
        """Begin a pass with these draws, at its batch number `first` (from 0)."""
        self.draws.copy_(draws)
        self.batches_done.fill_(first)
        self.begun = self.data.begin(draws, self.batch_size, first)

    def next(self, size: int) -> tuple[Tensor, Tensor]:
        """The next `size` images and labels, as of `Images.train_batch`."""
        places = torch.add(self.places[:size], self.batches_done, alpha=self.batch_size)
        self.batches_done += 1
        return self.data.train_batch(self.draws.at(places), self.begun)


@overload
def to_device(images: ImageSet, config: TrainConfig, device: torch.device) -> DeviceImages: ...
@overload
def to_device(images: ImageSet | FileSet, config: TrainConfig, device: torch.device) -> Images: ...
def to_device(images: ImageSet | FileSet, config: TrainConfig, device: torch.device) -> Images:
    """Prepare the training images, cut out the centres of the test images, move them to the device.

    Those of files are decoded and moved batch by batch, in passes over them.
    """
    normalisation, augmentation = config.model.normalisation, load_augmentation(config)
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).reshape(3, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    common: dict[str, Any] = {
        "train_labels": torch.tensor(images.train_labels, device=device),
        "test_labels": torch.tensor(images.test_labels, device=device),
        "augmentation": augmentation,
        "mean": mean,
        "std": std,
        "channels_last": config.channels_last,
    }
    if isinstance(images, FileSet):
        count, pin = worker_count(config.dataset), device.type == "cuda"
        return StreamedImages(workers=Workers(Decoder(images, config), count, pin), **common)
    margin = (config.dataset.resize - config.dataset.image_size) // 2
    centre = slice(margin, margin + config.dataset.image_size)
    with random_numbers(0, 0, "data"):
        train_images = torch.tensor(augmentation.prepare(images.train_images), device=device)
    test_images = torch.tensor(images.test_images[:, centre, centre], device=device)
    return DeviceImages(train_images=train_images, test_images=test_images, **common)
