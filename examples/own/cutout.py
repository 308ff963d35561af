"""An augmentation of your own: Cutout, which blackens a square of each training image."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from swa_bench.data.augmentation import CropAndFlip


@dataclass(frozen=True)
class Cutout(CropAndFlip):
    """The authors' crop and flip, then a black square somewhere (DeVries and Taylor, 2017).

    Attributes:
        hole: pixels on each side of the square, an odd number.
    """

    hole: int

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The choices of the crop, and the square's centre: hole_row and hole_column, int64."""
        choices = super().draw(count, generator)
        places = (2, count)
        row, column = torch.randint(
            self.image_size, places, generator=generator, device=generator.device
        )
        return choices | {"hole_row": row, "hole_column": column}

    def apply(self, images: Tensor, choices: Mapping[str, Tensor]) -> Tensor:
        """The windows (B, S, S, 3) with their squares."""
        images = super().apply(images, choices)
        pixels = torch.arange(self.image_size, device=images.device)
        rows, columns = (
            (pixels - choices[name][:, None]).abs() <= self.hole // 2
            for name in ("hole_row", "hole_column")
        )
        hole = rows[:, :, None, None] & columns[:, None, :, None]
        return images.masked_fill(hole, 0)
