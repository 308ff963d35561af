"""Write the sheets of swa_bench/data/cifar10_mini: the first images of each class of CIFAR-10.

Needs the official CIFAR-10 in data/ (or the given folder), or downloads it there:
    python scripts/make_cifar10_mini.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from swa_bench.data import cifar
from swa_bench.data.images import array_sha256


def first_of_each_class(images: np.ndarray, labels: np.ndarray, per_class: int) -> np.ndarray:
    """The first images of class 0, then of class 1, ..., each in the data set's order."""
    return np.concatenate([images[labels == label][:per_class] for label in range(10)])


def main() -> None:
    """Write both sheets and print the SHA-256 of the images they hold."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "data")
    cifar10 = cifar.read_official("cifar10", root, download=True)
    for split, per_class in cifar.MINI_SHEETS.items():
        images, labels = getattr(cifar10, f"{split}_images"), getattr(cifar10, f"{split}_labels")
        first = first_of_each_class(images, labels, per_class)
        path = Path(cifar.__file__).parent / "cifar10_mini" / f"{split}.png"
        Image.fromarray(cifar.to_sheet(first)).save(path, optimize=True)
        print(path, array_sha256(first))


if __name__ == "__main__":
    main()
