"""A data set in memory, loaded and checked by the function that its YAML file names.

That function, `_target_` of conf/dataset/*.yaml, has the signature

    def load(dataset: DatasetConfig) -> ImageSet

or, with dataset.memory=disk, gives a FileSet.
"""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from swa_bench.config.identity import DataIdentity
from swa_bench.config.schema import DatasetConfig
from swa_bench.data.file_set import FileSet
from swa_bench.errors import ConfigError
from swa_bench.files import alone_with

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSet:
    """A data set in memory.

    Attributes:
        train_images, test_images: uint8 (N, S, S, 3), red, green, blue.
        train_labels, test_labels: int64 (N,).
        class_names: of a user's own images.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: Sequence[str] = field(default=(), kw_only=True)

    NAMES: ClassVar = ("train_images", "train_labels", "test_images", "test_labels")

    @functools.cached_property  # several ask for it, and an array takes long
    def sha256(self) -> dict[str, str]:
        """SHA-256 of each array's bytes."""
        return {name: array_sha256(getattr(self, name)) for name in self.NAMES}

    def identity(self) -> DataIdentity:
        """What records of it hold."""
        of_all = hashlib.sha256("".join(self.sha256.values()).encode()).hexdigest()
        return DataIdentity(of_all, tuple(self.class_names))


def array_sha256(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def load_images(dataset: DatasetConfig) -> ImageSet | FileSet:
    """The first dataset.train_images and dataset.test_images images of a data set.

    The function that dataset._target_ names is called with `dataset` and returns all of them.

    Raises:
        ConfigError: there is no such function, or its images do not match the options.
        SwaBenchError: the images cannot be obtained, or a file is missing, truncated or altered.
    """
    from swa_bench.data.random import random_numbers  # torch takes seconds to import

    # Of jobs that a launcher starts at once, one fetches the data set and the others wait.
    fetches = dataset.source != "local"
    alone = alone_with(Path(dataset.root) / "lock") if fetches else contextlib.nullcontext()
    with alone, random_numbers(0, 0, "data"):
        images = find_loader(dataset)(dataset)
    counts = {"train": dataset.train_images, "test": dataset.test_images}
    if dataset.memory == "disk":
        if not isinstance(images, FileSet):
            raise ConfigError("dataset.memory", "disk", f"{dataset.name} is no folder of images")
        _check_labels(dataset, images)
        train, test = images.train.first(counts["train"]), images.test.first(counts["test"])
        return dataclasses.replace(images, train=train, test=test)
    if not isinstance(images, ImageSet):
        expected = f"gives a {type(images).__name__}, not a {ImageSet.__module__}.ImageSet"
        raise ConfigError("dataset._target_", dataset._target_, expected)
    _check(images, dataset)
    if counts == {"train": len(images.train_labels), "test": len(images.test_labels)}:
        return images  # which may know its digests
    first = {name: getattr(images, name)[: counts[name.split("_")[0]]] for name in ImageSet.NAMES}
    return dataclasses.replace(images, **first)


def find_loader(dataset: DatasetConfig) -> Callable[[DatasetConfig], object]:
    """The function that dataset._target_ names; ConfigError if there is none."""
    target = dataset._target_
    try:
        loader: object = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("dataset._target_", target, f"cannot be used: {error}") from error
    if not callable(loader):
        raise ConfigError("dataset._target_", target, "is no function")
    return loader


def _check(images: ImageSet, dataset: DatasetConfig) -> None:
    """Raise ConfigError if the images do not match the options."""
    for split in ("train", "test"):
        pixels, labels = getattr(images, f"{split}_images"), getattr(images, f"{split}_labels")
        count, size = pixels.shape[:2]
        if pixels.dtype != np.uint8 or pixels.shape != (count, size, size, 3):
            expected = (
                f"its {split}_images are {pixels.dtype} {pixels.shape}, not uint8 (N, S, S, 3)"
            )
            raise ConfigError("dataset._target_", dataset._target_, expected)
        if labels.dtype != np.int64 or labels.shape != (count,):
            expected = f"its {split}_labels are {labels.dtype} {labels.shape}, not int64 ({count},)"
            raise ConfigError("dataset._target_", dataset._target_, expected)
        if size != dataset.resize:
            expected = f"the images of {dataset.name} are {size}x{size}"
            raise ConfigError("dataset.resize", dataset.resize, expected)
    _check_labels(dataset, images)


def _check_labels(dataset: DatasetConfig, images: ImageSet | FileSet) -> None:
    """Raise ConfigError if there are fewer images, or more classes, than the options say.

    Nor may there be fewer folders of classes: those of a part of ImageNet have other labels than
    the network learnt.
    """
    train, test = images.train_labels, images.test_labels
    for split, labels in (("train", train), ("test", test)):
        wanted = getattr(dataset, f"{split}_images")
        if wanted > len(labels):
            expected = f"{dataset.name} has {len(labels)}"
            raise ConfigError(f"dataset.{split}_images", wanted, expected)
    named = len(images.class_names)
    classes = named or 1 + int(max(train.max(), test.max()))
    if classes > dataset.classes or 0 < named < dataset.classes:
        raise ConfigError("dataset.classes", dataset.classes, f"{dataset.name} has {classes}")
