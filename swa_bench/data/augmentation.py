"""Random changes of the training images: the authors' crop and flip, or a user's own.

There are two kinds: of batches of images in memory (`Augmentation`), and of one image that has just
been read from its file (`ImageAugmentation`).
"""

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from swa_bench.config.schema import TrainConfig
from swa_bench.errors import ConfigError

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect"}


class Augmentation(Protocol):
    """What conf/augmentation/*.yaml name in `_target_`, for dataset.memory=device.

    It is called with the file's other values and resize=dataset.resize (R below) and
    image_size=dataset.image_size (S).
    """

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Each image in its stored form: uint8 (N, R, R, 3) -> (N, P, P, 3), with any P.

        Done once for the training set.
        """

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The random choices of a pass over `count` images: named tensors (count, ...).

        All randomness comes from the generator, and the tensors are on its device. Names, shapes
        and types are the same in every epoch.
        """

    def apply(self, images: Tensor, choices: Mapping[str, Tensor]) -> Tensor:
        """A batch of stored images with its choices: uint8 (B, P, P, 3) -> (B, S, S, 3).

        A CUDA graph may record it: it neither draws random numbers nor reads values on the host.
        """


@dataclass(frozen=True)
class CropAndFlip:
    """A random window of the padded image, mirrored or not (S: train.py, transforms).

    It pads uint8 pixels, so with black, like the authors' crop, which comes before normalisation.

    Attributes:
        resize, image_size: pixels on each side of the images and of the window.
        flip: whether half of the windows are mirrored.
        padding: pixels that are added on each side.
        padding_mode: zeros or reflect.
    """

    resize: int
    image_size: int
    flip: bool
    padding: int
    padding_mode: str

    def __post_init__(self) -> None:
        most = self.image_size - 1
        fits = isinstance(self.padding, int) and 0 <= self.padding <= most
        for name, good, expected in (
            ("flip", isinstance(self.flip, bool), "must be true or false"),
            ("padding", fits, f"must be from 0 to {most} pixels"),
            ("padding_mode", self.padding_mode in NUMPY_MODES, "choose zeros or reflect"),
        ):
            if not good:
                raise ConfigError(f"augmentation.{name}", getattr(self, name), expected)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """The images (N, R, R, 3), padded on every side."""
        p = self.padding
        return np.pad(  # type: ignore[no-any-return, call-overload]
            images, ((0, 0), (p, p), (p, p), (0, 0)), NUMPY_MODES[self.padding_mode]
        )

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Where each window starts (row, column: int64), and whether it is mirrored (bool)."""
        device = generator.device
        places = self.resize + 2 * self.padding - self.image_size + 1
        row, column = torch.randint(places, (2, count), generator=generator, device=device)
        flip = torch.randint(2, (count,), generator=generator, device=device).bool()
        return {"row": row, "column": column, "flip": flip & self.flip}

    def apply(self, images: Tensor, choices: Mapping[str, Tensor]) -> Tensor:
        """The windows (B, S, S, 3)."""
        numbers = torch.arange(max(len(images), self.image_size), device=images.device)
        index, steps = numbers[: len(images)], numbers[: self.image_size]
        mirrored = torch.where(choices["flip"][:, None], self.image_size - 1 - steps, steps)
        rows = choices["row"][:, None] + steps
        columns = choices["column"][:, None] + mirrored
        return images[index[:, None, None], rows[:, :, None], columns[:, None, :]]


class ImageAugmentation(Protocol):
    """What conf/augmentation/*.yaml name in `_target_`, for dataset.memory=disk.

    It is called as an `Augmentation` is, and then in processes of its own.
    """

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """An image as its file has it: uint8 (3, H, W) -> (3, S, S).

        The generator is torch's own of the CPU. Whatever is drawn, also by numpy and Python, comes
        from the stream of the seed, the epoch and the image.
        """


class RandomResizedCrop:
    """torchvision's random crop of random scale and shape, mirrored or not.

    Args:
        resize: of the test images.
        image_size: pixels on each side of the crop.
        scale: the least and the largest share of the image's area.
        ratio: the least and the largest width, as multiples of the height.
        flip: whether half of the crops are mirrored.
    """

    def __init__(
        self,
        resize: int,
        image_size: int,
        scale: Sequence[float],
        ratio: Sequence[float],
        flip: bool,
    ) -> None:
        from torchvision.transforms import v2  # takes seconds

        for name, pair, most in (("scale", scale, 1.0), ("ratio", ratio, np.inf)):
            numbers = isinstance(pair, Sequence) and [type(one) in (int, float) for one in pair]
            if numbers != [True, True] or not 0 < pair[0] <= pair[1] <= most:
                most_text = " of at most 1" * (most == 1)
                expected = f"must be two positive numbers{most_text}, the smaller first"
                raise ConfigError(f"augmentation.{name}", pair, expected)
        if not isinstance(flip, bool):
            raise ConfigError("augmentation.flip", flip, "must be true or false")
        crop = v2.RandomResizedCrop(image_size, tuple(scale), tuple(ratio), antialias=True)
        self.transform = v2.Compose([crop, v2.RandomHorizontalFlip(0.5 if flip else 0.0)])

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The crop, uint8 (3, S, S); torchvision draws from the global generator."""
        crop: Tensor = self.transform(image)
        return crop


@dataclass(frozen=True)
class OneByOne:
    """An `ImageAugmentation`; images in memory, such as the noise of a rehearsal, it changes once.

    Attributes:
        change: the augmentation.
        image_size: pixels on each side of what it makes.
    """

    change: ImageAugmentation
    image_size: int

    def changed(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """What becomes of an image; ValueError unless that is uint8 (3, S, S)."""
        made, expected = self.change(image, generator), (3, self.image_size, self.image_size)
        found = (made.dtype, tuple(made.shape)) if isinstance(made, Tensor) else type(made).__name__
        if found != (torch.uint8, expected):
            raise ValueError(f"makes {found} of an image instead of uint8 {expected}")
        return made

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """The changed images (N, S, S, 3)."""
        planes = torch.from_numpy(images).permute(0, 3, 1, 2)
        made = [self.changed(image, torch.default_generator) for image in planes]
        return torch.stack(made).permute(0, 2, 3, 1).contiguous().numpy()

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def apply(self, images: Tensor, choices: Mapping[str, Tensor]) -> Tensor:
        """The images."""
        return images


def load_augmentation(config: TrainConfig) -> Augmentation:
    """Make what config.augmentation names; ConfigError if it cannot be used with these options.

    With dataset.memory=disk it is a `OneByOne`.
    """
    options = dict(config.augmentation)
    target = options.pop("_target_", None)
    sizes = {"resize": config.dataset.resize, "image_size": config.dataset.image_size}
    try:
        made: Any = pkgutil.resolve_name(str(target))(**sizes, **options)
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's own class raises is a fault of the setting
        raise ConfigError("augmentation._target_", target, f"cannot be used: {error}") from error
    of_batches = all(hasattr(made, name) for name in ("prepare", "draw", "apply"))
    expected = "images in memory: dataset.memory=disk or augmentation=window helps"
    if config.dataset.memory == "disk":
        if callable(made) and not of_batches:
            return OneByOne(made, config.dataset.image_size)
        expected = "one image at a time, as dataset.memory=disk has it: choose another, such as "
        expected += "augmentation=random_resized_crop"
    elif of_batches:
        return made  # type: ignore[no-any-return]
    raise ConfigError("augmentation._target_", target, f"is not for {expected}")
