"""Images as uint8 tensors on the device, and the batches that a network is given."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, overload

import torch
from torch import Tensor

from swa_bench.config.schema import TrainConfig
from swa_bench.data.augmentation import Augmentation, load_augmentation
from swa_bench.data.file_set import FileSet
from swa_bench.data.images import ImageSet
from swa_bench.data.random import random_numbers


@dataclass(frozen=True)
class EpochDraws:
    """The random choices of one pass over the training set, one entry per image, in its order.

    Attributes:
        order: int64 (N,), a permutation of the images.
        choices: the augmentation's named tensors (N, ...).
    """

    order: Tensor
    choices: Mapping[str, Tensor]

    def at(self, which: Tensor | slice) -> "EpochDraws":
        """The choices at some positions of the order."""
        choices = {name: values[which] for name, values in self.choices.items()}
        return replace(self, order=self.order[which], choices=choices)

    def copy_(self, other: "EpochDraws") -> None:
        """Overwrite these choices with those of another pass."""
        self.order.copy_(other.order)
        for name, values in self.choices.items():
            values.copy_(other.choices[name])


class Batches(Protocol):
    """What gives the training batches of a pass one after the other."""

    batch_size: int
    batches_done: Tensor  # int64 (1,), on the device

    def begin(self, draws: EpochDraws, first: int = 0) -> None:
        """Begin a pass with these draws, at its batch number `first` (from 0)."""

    def next(self, size: int) -> tuple[Tensor, Tensor]:
        """The next `size` augmented, normalised images (B, 3, S, S) and labels (B,)."""


@dataclass(frozen=True, kw_only=True)
class Images(ABC):
    """A data set whose batches are made on a device, wherever its images are.

    Attributes:
        train_labels, test_labels: int64.
        mean, std: float32 (3, 1, 1), of pixels scaled to 0..1.
        channels_last: memory layout of the batches.
    """

    train_labels: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    channels_last: bool

    # Whether a CUDA graph can record how a batch is made: it takes nothing from the host.
    recordable: ClassVar[bool]

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.train_labels.device

    @abstractmethod
    def draw(self, seed: int, epoch: int, purpose: str) -> EpochDraws:
        """Order and augmentation of one pass, from the stream of (seed, epoch, purpose)."""

    @abstractmethod
    def feed(self, batch_size: int) -> Batches:
        """What gives the batches of a pass one after the other, in memory that stays its own."""

    @abstractmethod
    def train_batches(self, draws: EpochDraws, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented, normalised batches (B, 3, S, S), labels (B,); the last may be smaller."""

    @abstractmethod
    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised test images in their order."""

    def close(self) -> None:  # noqa: B027 images on the device have nothing to end
        """End what makes its batches."""

    def to_float(self, planes: Tensor) -> Tensor:
        """Normalise images: uint8 (B, 3, S, S) -> float32, in the run's layout."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        floats = planes.to(torch.float32, memory_format=layout)
        # The operations of torchvision's ToTensor and Normalize, in their order.
        return floats.div_(255).sub_(self.mean).div_(self.std)


@dataclass(frozen=True, kw_only=True)
class DeviceImages(Images):
    """A data set on the device.

    Attributes:
        train_images: uint8 (N, P, P, 3), as the augmentation prepares them.
        test_images: uint8 (M, S, S, 3), the centres that the network sees.
        augmentation: of the training images.
    """

    train_images: Tensor
    test_images: Tensor
    augmentation: Augmentation

    recordable: ClassVar = True

    def draw(self, seed: int, epoch: int, purpose: str) -> EpochDraws:
        """Order and augmentation of one pass, from the stream of (seed, epoch, purpose)."""
        count = len(self.train_labels)
        with random_numbers(seed, epoch, purpose, self.device) as generator:
            order = torch.randperm(count, generator=generator, device=self.device)
            return EpochDraws(order, self.augmentation.draw(count, generator))

    def buffers(self) -> EpochDraws:
        """Tensors like those of a pass, which a CUDA graph reads and `copy_` fills."""
        choices = self.augmentation.draw(len(self.train_labels), torch.Generator())
        on_device = {name: values.to(self.device) for name, values in choices.items()}
        return EpochDraws(torch.zeros_like(self.train_labels), on_device)

    def feed(self, batch_size: int) -> "Feed":
        """What gives the batches of a pass one after the other, in memory that stays its own."""
        return Feed(self, batch_size)

    def train_batches(self, draws: EpochDraws, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented, normalised batches (B, 3, S, S), labels (B,); the last may be smaller."""
        for start in range(0, len(draws.order), batch_size):
            yield self.train_batch(draws.at(slice(start, start + batch_size)))

    def train_batch(self, draws: EpochDraws) -> tuple[Tensor, Tensor]:
        """The augmented, normalised images (B, 3, S, S) and labels (B,) of B draws."""
        images = self.augmentation.apply(self.train_images[draws.order], draws.choices)
        return self.to_float(images.permute(0, 3, 1, 2)), self.train_labels[draws.order]

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised test images in their order."""
        for start in range(0, len(self.test_labels), batch_size):
            batch = slice(start, start + batch_size)
            planes = self.test_images[batch].permute(0, 3, 1, 2)
            yield self.to_float(planes), self.test_labels[batch]


class Feed:
    """The training batches of a pass, one after the other, by a counter on the device.

    It needs nothing of the host and waits for nothing, so that a CUDA graph can record it.
    """

    def __init__(self, data: DeviceImages, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size
        self.draws = data.buffers()
        self.places = torch.arange(batch_size, device=data.device)
        self.batches_done = torch.zeros(1, dtype=torch.int64, device=data.device)

    def begin(self, draws: EpochDraws, first: int = 0) -> None:
        """Begin a pass with these draws, at its batch number `first` (from 0)."""
        self.draws.copy_(draws)
        self.batches_done.fill_(first)

    def next(self, size: int) -> tuple[Tensor, Tensor]:
        """The next `size` images and labels, as of `DeviceImages.train_batch`."""
        places = torch.add(self.places[:size], self.batches_done, alpha=self.batch_size)
        self.batches_done += 1
        return self.data.train_batch(self.draws.at(places))


@overload
def to_device(images: ImageSet, config: TrainConfig, device: torch.device) -> DeviceImages: ...
@overload
def to_device(images: ImageSet | FileSet, config: TrainConfig, device: torch.device) -> Images: ...
def to_device(images: ImageSet | FileSet, config: TrainConfig, device: torch.device) -> Images:
    """Prepare the training images, cut out the centres of the test images, move them to the device.

    Those of files are decoded and moved batch by batch, in passes over them.
    """
    normalisation = config.model.normalisation
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).reshape(3, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    common: dict[str, Any] = {"mean": mean, "std": std, "channels_last": config.channels_last}
    if isinstance(images, FileSet):
        from swa_bench.data.streaming import StreamedImages  # which builds on this file

        return StreamedImages.of(images, config, device, common)
    augmentation = load_augmentation(config)
    margin = (config.dataset.resize - config.dataset.image_size) // 2
    centre = slice(margin, margin + config.dataset.image_size)
    with random_numbers(0, 0, "data"):
        train_images = torch.tensor(augmentation.prepare(images.train_images), device=device)
    return DeviceImages(
        train_images=train_images,
        train_labels=torch.tensor(images.train_labels, device=device),
        test_images=torch.tensor(images.test_images[:, centre, centre], device=device),
        test_labels=torch.tensor(images.test_labels, device=device),
        augmentation=augmentation,
        **common,
    )
