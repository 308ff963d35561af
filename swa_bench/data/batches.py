"""Images as uint8 tensors that live on the device, and the augmentation of whole batches there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from swa_bench.config.schema import AugmentationConfig, Memory, TrainConfig
from swa_bench.data.images import Arrays

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
    """A data set on the device; of dataset.memory=host, its images stay on the host.

    Attributes:
        train_images: uint8 (N, S + 2p, S + 2p, 3), padded by p on every side; on the host
            (N, S, S, 3), padded when a batch is fetched.
        test_images: uint8 (M, image_size, image_size, 3).
        train_labels, test_labels: int64.
        mean, std: float32 (3, 1, 1), of pixels scaled to 0..1.
        image_size: pixels on each side of a batch's images.
        augmentation: its padding p, and whether it flips.
        channels_last: memory layout of the batches.
        on_host: whether batches of images are fetched from the host.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    image_size: int
    augmentation: AugmentationConfig
    channels_last: bool
    on_host: bool

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.train_labels.device

    def draw(self, seed: int, epoch: int, purpose: str) -> Draws:
        """Order, crops and flips of one pass, from the stream of (seed, epoch, purpose)."""
        device = self.device
        generator = torch.Generator(device)
        generator.manual_seed(stream_seed(seed, epoch, purpose))
        stored = self.train_images.shape[1] + 2 * self.augmentation.padding * self.on_host
        count, places = len(self.train_labels), stored - self.image_size + 1
        order = torch.randperm(count, generator=generator, device=device)
        row, column = torch.randint(places, (2, count), generator=generator, device=device).unbind()
        flip = torch.randint(2, (count,), generator=generator, device=device).bool()
        return Draws(order, row, column, flip & self.augmentation.flip)

    def train_batches(self, draws: Draws, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented, normalised batches (B, 3, S, S), labels (B,); the last may be smaller."""
        for start in range(0, len(draws.order), batch_size):
            yield self.train_batch(draws.at(slice(start, start + batch_size)))

    def train_batch(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """The augmented, normalised images (B, 3, S, S) and labels (B,) of B draws."""
        padded, index = self.train_images, draws.order
        if self.on_host:
            fetched = _pad(padded[index.cpu()].numpy(), self.augmentation)
            padded = torch.from_numpy(fetched).to(self.device)
            index = torch.arange(len(index), device=self.device)
        images = crop(padded, index, draws.row, draws.column, draws.flip, self.image_size)
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


def crop(
    padded: Tensor, index: Tensor, row: Tensor, column: Tensor, flip: Tensor, size: int
) -> Tensor:
    """Cut square windows out of padded images, and mirror some of them.

    Args:
        padded: (N, H, W, 3).
        index: (B,), which images.
        row, column: (B,), the window's first row and column.
        flip: bool (B,).
        size: pixels on each side of a window.

    Returns:
        (B, size, size, 3).
    """
    steps = torch.arange(size, device=padded.device)
    rows = row[:, None] + steps
    columns = column[:, None] + torch.where(flip[:, None], size - 1 - steps, steps)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def to_device(arrays: Arrays, config: TrainConfig, device: torch.device) -> DeviceData:
    """Pad the training images, cut out the centres of the test images, and move all to the device.

    With dataset.memory=host the images stay as they are, and where they are.
    """
    dataset, normalisation = config.dataset, config.model.normalisation
    on_host = dataset.memory is Memory.host
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).reshape(3, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    train_labels, test_labels = (
        torch.tensor(array, device=device) for array in (arrays.train_labels, arrays.test_labels)
    )
    size, margin = dataset.image_size, (dataset.resize - dataset.image_size) // 2
    inner = slice(margin, margin + size)
    train, test = arrays.train_images, arrays.test_images[:, inner, inner]
    images = [train, test] if on_host else [_pad(train, dataset.augmentation), test]
    train_images, test_images = (
        torch.from_numpy(array) if on_host else torch.tensor(array, device=device)
        for array in images
    )
    return DeviceData(
        train_images,
        train_labels,
        test_images,
        test_labels,
        mean,
        std,
        size,
        dataset.augmentation,
        config.channels_last,
        on_host,
    )


def _pad(images: np.ndarray, augmentation: AugmentationConfig) -> np.ndarray:
    """Surround images by pixels (black), before normalisation, as the authors' crop does it."""
    p = augmentation.padding
    mode = {"zeros": "constant", "reflect": "reflect"}[augmentation.padding_mode.value]
    return np.pad(images, ((0, 0), (p, p), (p, p), (0, 0)), mode)  # type: ignore[call-overload, no-any-return]
