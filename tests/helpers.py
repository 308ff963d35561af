"""What several tests make: images, archives, folders."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_helpers import plan_of

from swa_bench.data.images import ImageSet, load_images

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def mini_images() -> ImageSet:
    """The images of dataset=cifar10_mini."""
    found = load_images(plan_of("dataset=cifar10_mini").config.dataset)
    assert isinstance(found, ImageSet)
    return found


def made_images(train: int, test: int, classes: int = 10) -> ImageSet:
    """Images of noise, of each class in turn."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in (train, test)]
    labels = [np.arange(count) % classes for count in (train, test)]
    return ImageSet(images[0], labels[0], images[1], labels[1])


def make_archive(root: Path, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """A cifar-100-python folder in the official format, its MD5 sums put into torchvision."""
    from torchvision.datasets import CIFAR100
    from torchvision.datasets.utils import calculate_md5

    made = made_images(200, 100, classes=100)
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, object]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, calculate_md5(folder / name)]

    for split in ("train", "test"):
        rows = getattr(made, f"{split}_images").transpose(0, 3, 1, 2).reshape(-1, 3072)
        labels = getattr(made, f"{split}_labels").tolist()
        listed = [write(split, {"data": rows, "fine_labels": labels})]
        monkeypatch.setattr(CIFAR100, f"{split}_list", listed)
    _, md5 = write("meta", {"fine_label_names": [str(label) for label in range(100)]})
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5})
    return made


def make_folder(root: Path, test: str = "val") -> None:
    """Three classes of colours with some noise, 4 training and 2 test images of each, odd sizes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), (test, 2)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(20, 90, 2)
                pixels = rng.integers(0, 100, (height, width, 3)) + np.array(colour) // 2
                suffix = "png" if number % 2 else "jpg"
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.{suffix}")
