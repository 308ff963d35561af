"""Random changes of the training images: the authors' crop and flip, or a user's own."""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from swa_bench.config.schema import TrainConfig
from swa_bench.errors import ConfigError

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect"}


class Augmentation(Protocol):
    """What conf/augmentation/*.yaml name in `_target_`.

    It is called with the file's other values and resize=dataset.resize (R below) and
    image_size=dataset.image_size (S).
    """

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Each image in its stored form: uint8 (N, R, R, 3) -> (N, P, P, 3), with any P.

        Done once for the training set, but again for each batch with dataset.memory=host.
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


def load_augmentation(config: TrainConfig) -> Augmentation:
    """Make what config.augmentation names; ConfigError if it does not take these values."""
    options = dict(config.augmentation)
    target = options.pop("_target_", None)
    sizes = {"resize": config.dataset.resize, "image_size": config.dataset.image_size}
    try:
        made: Augmentation = pkgutil.resolve_name(str(target))(**sizes, **options)
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's own class raises is a fault of the setting
        raise ConfigError("augmentation._target_", target, f"cannot be used: {error}") from error
    return made
