"""Images as uint8 tensors that live on the device, and the augmentation of whole batches there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .config import TrainConfig
from .sources import Arrays

# What a stream of random numbers is for. The values are part of every result: never reuse one.
PURPOSES = {"weights": 0, "dropout": 1, "train": 2, "recompute": 3}


def stream_seed(seed: int, epoch: int, purpose: str) -> int:
    """Seed of the random numbers of one epoch and purpose, independent of all others."""
    entropy = np.random.SeedSequence([seed, epoch, PURPOSES[purpose]])
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))  # torch takes 63 bits


class Draws(NamedTuple):
    """The random choices of one pass over the training set, one entry an image, in its order.

    Attributes:
        order: int64 (N,), a permutation of the images.
        row, column: int64 (N,), where the crop starts in the padded image, 0 to 2 * padding.
        flip: bool (N,), whether the crop is mirrored.
    """

    order: Tensor
    row: Tensor
    column: Tensor
    flip: Tensor

    def at(self, which: Tensor | slice) -> "Draws":
        """The choices of some places of the order."""
        return Draws(*(choices[which] for choices in self))


@dataclass(frozen=True)
class DeviceData:
    """A data set on the device.

    Attributes:
        train_images: uint8 (N, 32 + 2p, 32 + 2p, 3), padded by p on every side.
        test_images: uint8 (M, 32, 32, 3).
        train_labels, test_labels: int64.
        mean, std: float32 (3, 1, 1), of pixels scaled to 0..1.
        padding: p.
        flips: whether the augmentation flips.
        channels_last: memory layout of the batches.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    padding: int
    flips: bool
    channels_last: bool

    def draw(self, seed: int, epoch: int, purpose: str) -> Draws:
        """Order, crops and flips of one pass, from the stream of (seed, epoch, purpose)."""
        device = self.train_images.device
        generator = torch.Generator(device)
        generator.manual_seed(stream_seed(seed, epoch, purpose))
        count, places = len(self.train_labels), 2 * self.padding + 1
        order = torch.randperm(count, generator=generator, device=device)
        row, column = torch.randint(places, (2, count), generator=generator, device=device).unbind()
        flip = torch.randint(2, (count,), generator=generator, device=device).bool()
        return Draws(order, row, column, flip & self.flips)

    def train_batches(self, draws: Draws, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented, normalised batches (B, 3, 32, 32), labels (B,); the last may be smaller."""
        for start in range(0, len(draws.order), batch_size):
            yield self.train_batch(draws.at(slice(start, start + batch_size)))

    def train_batch(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """The augmented, normalised images (B, 3, 32, 32) and labels (B,) of B draws."""
        images = crop(self.train_images, *draws)
        return self._to_float(images), self.train_labels[draws.order]

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised test images in their order."""
        for start in range(0, len(self.test_labels), batch_size):
            batch = slice(start, start + batch_size)
            yield self._to_float(self.test_images[batch]), self.test_labels[batch]

    def _to_float(self, images: Tensor) -> Tensor:
        planes = images.permute(0, 3, 1, 2)
        if not self.channels_last:
            planes = planes.contiguous()
        # The operations of torchvision's ToTensor and Normalize, in their order.
        return planes.float().div_(255).sub_(self.mean).div_(self.std)


def crop(padded: Tensor, index: Tensor, row: Tensor, column: Tensor, flip: Tensor) -> Tensor:
    """Cut 32x32 windows out of padded images, and mirror some of them.

    Args:
        padded: (N, 32 + 2p, 32 + 2p, 3).
        index: (B,), which images.
        row, column: (B,), the window's first row and column.
        flip: bool (B,).

    Returns:
        (B, 32, 32, 3).
    """
    steps = torch.arange(32, device=padded.device)
    rows = row[:, None] + steps
    columns = column[:, None] + torch.where(flip[:, None], 31 - steps, steps)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def to_device(arrays: Arrays, config: TrainConfig, device: torch.device) -> DeviceData:
    """Pad the training images once and move everything to the device.

    The padding is of pixels (black), before normalisation, as the authors' crop does it.
    """
    augmentation, normalisation = config.dataset.augmentation, config.model.normalisation
    p = augmentation.padding
    mode = {"zeros": "constant", "reflect": "reflect"}[augmentation.padding_mode.value]
    padded = np.pad(arrays.train_images, ((0, 0), (p, p), (p, p), (0, 0)), mode)  # type: ignore[call-overload]
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).reshape(3, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    train_images, train_labels, test_images, test_labels = (
        torch.tensor(array, device=device)
        for array in (padded, arrays.train_labels, arrays.test_images, arrays.test_labels)
    )
    return DeviceData(
        train_images,
        train_labels,
        test_images,
        test_labels,
        mean,
        std,
        padding=p,
        flips=augmentation.flip,
        channels_last=config.channels_last,
    )
