"""Which files of a folder are images, and of which class: the layout of torchvision's ImageFolder.

Names that begin with a dot are ignored. Links are followed, but for one to a folder that holds it.
"""

import functools
import logging
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from swa_bench.config.identity import digest
from swa_bench.errors import ConfigError

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
Sample = tuple[str, int]  # path and label of an image
File = tuple[str, int]  # path and bytes
SHOWN = 10  # class names in a line


@dataclass(frozen=True)
class Folder:
    """The contents of a folder of images.

    Attributes:
        class_names: of the labels 0, 1, 2, ...: the classes' folders in alphabetical order.
        samples: {"train" or "test": images}, one of each class in turn, so that the first N hold
            equally many of each class.
        content: digest of the files' names and sizes, which is the same for a copy.
        skipped: how many files are not used, by their ending or what else is wrong with them.
    """

    class_names: list[str]
    samples: dict[str, list[Sample]]
    content: str
    skipped: dict[str, int]

    def summary(self) -> str:
        """Its classes, how many images they have, and what was skipped."""
        names = ", ".join(self.class_names[:SHOWN]) + ", ..." * (len(self.class_names) > SHOWN)
        parts = [f"{len(self.class_names)} classes ({names})"]
        for split, samples in self.samples.items():
            counts = Counter(label for _, label in samples).values()
            each = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
            parts.append(f"{len(samples)} {split} images ({each} a class)")
        if self.skipped:
            skipped = (f"{count} {kind}" for kind, count in sorted(self.skipped.items()))
            parts.append(f"skipped: {', '.join(skipped)}")
        return "; ".join(parts)


@functools.cache
def scan(root: str) -> Folder:
    """List a folder of images, once per job; ConfigError if it is not laid out as expected."""
    test = "val" if (Path(root) / "val").is_dir() else "test"
    skipped: Counter[str] = Counter()
    parts = {split: _find(root, split, skipped) for split in ("train", test)}
    names = [list(part) for part in parts.values()]
    if names[0] != names[1]:
        odd = ", ".join(sorted(set(names[0]) ^ set(names[1])))
        raise ConfigError("dataset.root", root, f"train and {test} differ in the classes {odd}")
    for split, part in parts.items():
        if empty := [f"{split}/{name}" for name, files in part.items() if not files]:
            expected = f"no images in {', '.join(empty)} (files that end in {' '.join(ENDINGS)})"
            raise ConfigError("dataset.root", root, expected)
    files = {
        split: _dealt(part) for split, part in zip(("train", "test"), parts.values(), strict=True)
    }
    content = {
        split: [(Path(path).relative_to(root).as_posix(), size) for (path, size), _ in part]
        for split, part in files.items()
    }
    samples = {split: [(path, label) for (path, _), label in part] for split, part in files.items()}
    return Folder(names[0], samples, digest(content), dict(skipped))


def _find(root: str, split: str, skipped: Counter[str]) -> dict[str, list[File]]:
    """The images of each class, class after class, in the order of their folders and names."""
    top = str(Path(root) / split)
    found: dict[str, list[tuple[str, list[str]]]] = {}
    try:
        for folder, folders, files in os.walk(top, onerror=_fail, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            _refuse_circles(root, folder, folders)
            seen = [name for name in files if not name.startswith(".")]
            if folder == top:
                found = {name: [] for name in sorted(folders)}
                skipped.update("outside the classes" for _ in seen)
            else:
                found[Path(folder).relative_to(top).parts[0]].append((folder, sorted(seen)))
        listed = {
            name: [
                (path, size)
                for folder, files in sorted(part)
                for path in (f"{folder}{os.sep}{file}" for file in files)
                if (size := _size(path, skipped)) is not None
            ]
            for name, part in found.items()
        }
    except OSError as error:
        expected = f"needs train/CLASS/*.jpg and val/CLASS/*.jpg (or test): {error}"
        raise ConfigError("dataset.root", root, " ".join(expected.split())) from error
    if not listed:
        raise ConfigError("dataset.root", root, f"{split} has no folder of a class")
    return listed


def _fail(error: OSError) -> None:
    raise error


def _refuse_circles(root: str, folder: str, names: list[str]) -> None:
    """Raise ConfigError if a folder is a link to one that holds it."""
    for path in (Path(folder, name) for name in names):
        if path.is_symlink():
            above = [one.resolve() for one in path.parents]
            if path.resolve() in {one for real in above for one in (real, *real.parents)}:
                expected = f"{path} is a link to a folder that holds it: remove it"
                raise ConfigError("dataset.root", root, expected)


def _size(path: str, skipped: Counter[str]) -> int | None:
    """Bytes of a file that is an image by its ending, or None, which is counted."""
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        skipped[ending or "without an ending"] += 1
        return None
    known = Path(path).stat()
    if not stat.S_ISREG(known.st_mode):  # reading a pipe would wait for ever
        skipped["not a regular file"] += 1
        return None
    return known.st_size


def _dealt(part: dict[str, list[File]]) -> list[tuple[File, int]]:
    """One image of each class in turn, and its label."""
    places = [
        (place, label, file)
        for label, files in enumerate(part.values())
        for place, file in enumerate(files)
    ]
    return [(file, label) for _, label, file in sorted(places)]


def register() -> None:
    """Make the resolver of conf/dataset/image_folder.yaml known; forget what earlier jobs saw."""
    scan.cache_clear()
    report.cache_clear()
    OmegaConf.register_new_resolver("of_folder", of_folder, replace=True)


def of_folder(option: str, root: str) -> int | str:
    """The value that a folder of images gives to an option of its data set."""
    folder = scan(root)
    values: dict[str, int | str] = {
        "classes": len(folder.class_names),
        "train_images": len(folder.samples["train"]),
        "test_images": len(folder.samples["test"]),
        "content": folder.content,
    }
    return values[option]


@functools.cache
def report(root: str) -> None:
    """Log what a folder holds, only once per job."""
    log.info("%s: %s", root, scan(root).summary())
