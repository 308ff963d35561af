"""Which files of a folder are images, and of which class: the layout of torchvision's ImageFolder.

Names that begin with a dot are ignored. Links are followed, but for one to a folder that holds it.
"""

import functools
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from swa_bench.config.identity import digest
from swa_bench.errors import ConfigError

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
File = tuple[bytes, int, int, int]  # name below the root; bytes, time of modification, of change
SHOWN = 10  # class names in a line


@dataclass(frozen=True)
class Listed:
    """Files and their labels, in a few arrays: processes that are forked share their memory.

    Attributes:
        root: the folder that the names are below.
        names: bytes (N,), as long as the longest.
        labels: int64 (N,).
        stats: int64 (N, 3): bytes, and the times of modification and of change in ns.
    """

    root: str
    names: np.ndarray
    labels: np.ndarray
    stats: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """The path of a file."""
        return f"{self.root}/{os.fsdecode(self.names[index])}"

    def first(self, count: int) -> "Listed":
        """The first `count` files."""
        return Listed(self.root, self.names[:count], self.labels[:count], self.stats[:count])

    def described(self) -> list[tuple[str, int, int, int]]:
        """Of each file the name, and its `stats`."""
        names = map(os.fsdecode, self.names.tolist())
        return list(zip(names, *self.stats.T.tolist(), strict=True))


@dataclass(frozen=True)
class Folder:
    """The contents of a folder of images.

    Attributes:
        class_names: of the labels 0, 1, 2, ...: the classes' folders in alphabetical order.
        samples: {"train" or "test": images}, one of each class in turn, so that the first N hold
            equally many of each class.
        skipped: how many files are not used, by their ending or what else is wrong with them.
    """

    class_names: list[str]
    samples: dict[str, Listed]
    skipped: dict[str, int]

    @functools.cached_property  # not every data set asks for it
    def content(self) -> str:
        """Digest of the files' names and sizes, which is the same for a copy."""
        return digest(
            {
                split: [(name, size) for name, size, *_ in listed.described()]
                for split, listed in self.samples.items()
            }
        )

    def summary(self) -> str:
        """Its classes, how many images they have, and what was skipped."""
        names = ", ".join(self.class_names[:SHOWN]) + ", ..." * (len(self.class_names) > SHOWN)
        parts = [f"{len(self.class_names)} classes ({names})"]
        for split, samples in self.samples.items():
            counts = np.bincount(samples.labels)
            each = " to ".join(str(count) for count in sorted({counts.min(), counts.max()}))
            parts.append(f"{len(samples)} {split} images ({each} a class)")
        if self.skipped:
            skipped = (f"{count} {kind}" for kind, count in sorted(self.skipped.items()))
            parts.append(f"skipped: {', '.join(skipped)}")
        return "; ".join(parts)


@functools.cache
def scan(root: str) -> Folder:
    """List a folder of images, once per job; ConfigError if it is not laid out as expected."""
    splits = {"train": "train", "test": "val" if (Path(root) / "val").is_dir() else "test"}
    skipped: Counter[str] = Counter()
    parts = {split: _find(root, folder, skipped) for split, folder in splits.items()}
    names = [list(part) for part in parts.values()]
    if names[0] != names[1]:
        odd = ", ".join(sorted(set(names[0]) ^ set(names[1])))
        expected = f"train and {splits['test']} differ in the classes {odd}"
        raise ConfigError("dataset.root", root, expected)
    for split, part in parts.items():
        if empty := [f"{splits[split]}/{name}" for name, files in part.items() if not files]:
            expected = f"no images in {', '.join(empty)} (files that end in {' '.join(ENDINGS)})"
            raise ConfigError("dataset.root", root, expected)
    samples = {split: _dealt(root, part) for split, part in parts.items()}
    return Folder(names[0], samples, dict(skipped))


def _find(root: str, split: str, skipped: Counter[str]) -> dict[str, list[File]]:
    """The images of each class, class after class, in the order of their folders and names."""
    top = str(Path(root) / split)
    listed: dict[str, list[File]] = {}
    try:
        classes, outside = _entries(top)
        skipped.update("outside the classes" for _ in outside)
        for entry in classes:
            _refuse_circle(root, entry)
            listed[entry.name] = [
                (os.fsencode(f"{split}{file.path[len(top) :]}"), *known)
                for _, files in sorted(_walk(root, entry.path), key=lambda found: found[0])
                for file in files
                if (known := _stats(file, skipped)) is not None
            ]
    except OSError as error:
        expected = f"needs train/CLASS/*.jpg and val/CLASS/*.jpg (or test): {error}"
        raise ConfigError("dataset.root", root, " ".join(expected.split())) from error
    if not listed:
        raise ConfigError("dataset.root", root, f"{split} has no folder of a class")
    return listed


Entries = list[os.DirEntry[str]]


def _entries(folder: str) -> tuple[Entries, Entries]:
    """The folders and the files in a folder, by name."""
    with os.scandir(folder) as found:
        shown = sorted((e for e in found if e.name[0] != "."), key=lambda entry: entry.name)
    folders = [entry for entry in shown if entry.is_dir()]
    return folders, [entry for entry in shown if not entry.is_dir()]


def _walk(root: str, folder: str) -> Iterator[tuple[str, Entries]]:
    """A folder and every one below it, with its files."""
    folders, files = _entries(folder)
    yield folder, files
    for entry in folders:
        _refuse_circle(root, entry)
        yield from _walk(root, entry.path)


def _refuse_circle(root: str, entry: os.DirEntry[str]) -> None:
    """Raise ConfigError if a folder is a link to one that holds it."""
    if entry.is_symlink():
        path = Path(entry.path)
        above = [one.resolve() for one in path.parents]
        if path.resolve() in {one for real in above for one in (real, *real.parents)}:
            expected = f"{path} is a link to a folder that holds it: remove it"
            raise ConfigError("dataset.root", root, expected)


def _stats(entry: os.DirEntry[str], skipped: Counter[str]) -> tuple[int, int, int] | None:
    """Bytes and times of a file that is an image by its ending, or None, which is counted."""
    _, dot, ending = entry.name.rpartition(".")
    ending = dot + ending.lower()
    if ending not in ENDINGS:
        skipped[ending if dot else "without an ending"] += 1
        return None
    known = entry.stat()
    if not stat.S_ISREG(known.st_mode):  # reading a pipe would wait for ever
        skipped["not a regular file"] += 1
        return None
    return known.st_size, known.st_mtime_ns, known.st_ctime_ns


def _dealt(root: str, part: dict[str, list[File]]) -> Listed:
    """One image of each class in turn, and its label."""
    files = [file for of_class in part.values() for file in of_class]
    counts = [len(of_class) for of_class in part.values()]
    places = np.concatenate([np.arange(count) for count in counts])
    labels = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((labels, places))
    names = np.array([file[0] for file in files])[order]
    stats = np.array([file[1:] for file in files], dtype=np.int64)[order]
    return Listed(root, names, labels[order], stats)


def register() -> None:
    """Make the resolver of conf/dataset/image_folder.yaml known; forget what earlier jobs saw."""
    scan.cache_clear()
    report.cache_clear()
    OmegaConf.register_new_resolver("of_folder", of_folder, replace=True)


def of_folder(option: str, root: str) -> int | str:
    """The value that a folder of images gives to an option of its data set."""
    folder = scan(root)
    if option == "content":
        return folder.content
    values = {
        "classes": len(folder.class_names),
        "train_images": len(folder.samples["train"]),
        "test_images": len(folder.samples["test"]),
    }
    return values[option]


@functools.cache
def report(root: str) -> None:
    """Log what a folder holds, only once per job."""
    log.info("%s: %s", root, scan(root).summary())
