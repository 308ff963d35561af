"""Write swa_bench/cifar10_mini/*.png: the first 200 training and 100 test images of each class.

Needs CIFAR-10 in data/ or a way to fetch it. Run from the repository's root:
    python scripts/make_cifar10_mini.py
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from swa_bench.config.schema import DatasetConfig, Source
from swa_bench.data import images as sources


def first_of_each_class(images: np.ndarray, labels: np.ndarray, per_class: int) -> np.ndarray:
    """The first images of class 0, then of class 1, ..., each in the data set's order."""
    return np.concatenate([images[labels == label][:per_class] for label in range(10)])


def main() -> None:
    """Write both sheets and print the SHA-256 of the images they hold."""
    root = sys.argv[1] if len(sys.argv) > 1 else "data"
    arrays = sources.load_arrays(
        DatasetConfig("cifar10", 10, 50_000, 10_000, "cifar10", root, Source.auto)
    )
    folder = Path(sources.__file__).parent / "cifar10_mini"
    folder.mkdir(exist_ok=True)
    for split, per_class in sources.MINI_SHEETS.items():
        images = first_of_each_class(
            getattr(arrays, f"{split}_images"), getattr(arrays, f"{split}_labels"), per_class
        )
        sheet = Image.fromarray(sources.to_sheet(images))
        sheet.save(folder / f"{split}.png", optimize=True)
        print(folder / f"{split}.png", sources.array_sha256(images))


if __name__ == "__main__":
    main()
