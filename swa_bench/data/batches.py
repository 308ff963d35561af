"""Images as uint8 tensors on the device, and the batches that a network is given."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from swa_bench.config.schema import TrainConfig
from swa_bench.data.augmentation import Augmentation, load_augmentation
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
        return EpochDraws(self.order[which], choices)

    def copy_(self, other: "EpochDraws") -> None:
        """Overwrite these choices with those of another pass."""
        self.order.copy_(other.order)
        for name, values in self.choices.items():
            values.copy_(other.choices[name])


@dataclass(frozen=True)
class DeviceImages:
    """A data set on the device; with dataset.memory=host, its images stay on the host.

    Attributes:
        train_images: uint8 (N, P, P, 3), as the augmentation prepares them; on the host
            (N, R, R, 3), prepared when a batch is fetched.
        test_images: uint8 (M, S, S, 3), the centres that the network sees.
        train_labels, test_labels: int64.
        mean, std: float32 (3, 1, 1), of pixels scaled to 0..1.
        augmentation: of the training images.
        channels_last: memory layout of the batches.
        on_host: whether batches of images are fetched from the host.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    augmentation: Augmentation
    channels_last: bool
    on_host: bool

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.train_labels.device

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
        if self.on_host:
            fetched = self.train_images[draws.order.cpu()].numpy()
            images = torch.from_numpy(self.augmentation.prepare(fetched)).to(self.device)
        else:
            images = self.train_images[draws.order]
        images = self.augmentation.apply(images, draws.choices)
        return self._to_float(images), self.train_labels[draws.order]

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised test images in their order."""
        for start in range(0, len(self.test_labels), batch_size):
            batch = slice(start, start + batch_size)
            images = self.test_images[batch].to(self.device)
            yield self._to_float(images), self.test_labels[batch]

    def _to_float(self, images: Tensor) -> Tensor:
        planes = images.permute(0, 3, 1, 2)
        if not self.channels_last:
            planes = planes.contiguous()
        # The operations of torchvision's ToTensor and Normalize, in their order.
        return planes.float().div_(255).sub_(self.mean).div_(self.std)


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


def to_device(images: ImageSet, config: TrainConfig, device: torch.device) -> DeviceImages:
    """Prepare the training images, cut out the centres of the test images, move them to the device.

    With dataset.memory=host the images stay as they are, and where they are.
    """
    dataset, normalisation = config.dataset, config.model.normalisation
    augmentation, on_host = load_augmentation(config), dataset.memory == "host"
    margin = (dataset.resize - dataset.image_size) // 2
    centre = slice(margin, margin + dataset.image_size)
    train, test = images.train_images, images.test_images[:, centre, centre]
    if on_host:
        train_images, test_images = torch.from_numpy(train), torch.from_numpy(test)
    else:
        with random_numbers(0, 0, "data"):
            train_images = torch.tensor(augmentation.prepare(train), device=device)
        test_images = torch.tensor(test, device=device)
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).reshape(3, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    return DeviceImages(
        train_images=train_images,
        train_labels=torch.tensor(images.train_labels, device=device),
        test_images=test_images,
        test_labels=torch.tensor(images.test_labels, device=device),
        mean=mean,
        std=std,
        augmentation=augmentation,
        channels_last=config.channels_last,
        on_host=on_host,
    )
