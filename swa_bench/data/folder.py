"""A user's own images: root/train/<class>/* and root/val/<class>/* (or test), of any size.

They are decoded once into .npy files beside the folders, which later runs map into memory.
"""

import functools
import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool  # decoding and resizing release Python's lock
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from swa_bench.config.identity import digest
from swa_bench.config.schema import DatasetConfig
from swa_bench.data.images import ImageSet, array_sha256
from swa_bench.errors import ConfigError, SwaBenchError
from swa_bench.files import SUFFIX, check_writable, write_atomically

log = logging.getLogger(__name__)

FORMAT = 1  # raised when a code change changes what is decoded
Sample = tuple[str, int]  # path and label of an image


@dataclass(frozen=True)
class Folder:
    """The contents of a folder of images.

    Attributes:
        class_names: of the labels 0, 1, 2, ...: the classes' folders in alphabetical order.
        samples: {"train" or "test": images}, one of each class in turn, so that the first N hold
            equally many of each class.
        content: digest of the files' names and sizes, which is the same for a copy.
    """

    class_names: list[str]
    samples: dict[str, list[Sample]]
    content: str


def register() -> None:
    """Make the resolver of conf/dataset/image_folder.yaml known; forget what earlier jobs saw."""
    scan.cache_clear()
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
def scan(root: str) -> Folder:
    """List a folder of images, only once per job.

    Raises:
        ConfigError: it is not laid out as torchvision.datasets.ImageFolder expects.
    """
    from torchvision.datasets import ImageFolder  # takes seconds

    test = "val" if (Path(root) / "val").is_dir() else "test"
    try:
        parts = [ImageFolder(str(Path(root) / split)) for split in ("train", test)]
    except OSError as error:
        expected = f"needs train/CLASS/*.jpg and val/CLASS/*.jpg (or test): {error}"
        raise ConfigError("dataset.root", root, " ".join(expected.split())) from error
    names = [part.classes for part in parts]
    if names[0] != names[1]:
        odd = ", ".join(sorted(set(names[0]) ^ set(names[1])))
        raise ConfigError("dataset.root", root, f"train and {test} differ in the classes {odd}")
    samples = {
        split: _dealt(part.samples) for split, part in zip(("train", "test"), parts, strict=True)
    }
    files = {split: _files(root, part) for split, part in samples.items()}
    content = digest({split: [file[:2] for file in part] for split, part in files.items()})
    return Folder(names[0], samples, content)


def _dealt(samples: list[Sample]) -> list[Sample]:
    """One image of each class in turn."""
    seen: Counter[int] = Counter()
    places = []
    for path, label in samples:
        places.append((seen[label], label, path))
        seen[label] += 1
    return [(path, label) for _, label, path in sorted(places)]


def _files(root: str, samples: list[Sample]) -> list[tuple[str, int, int]]:
    """Name, bytes and time of change (ns) of each file."""
    stats = [(Path(path), Path(path).stat()) for path, _ in samples]
    return [
        (path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in stats
    ]


def load_folder(dataset: DatasetConfig) -> ImageSet:
    """The images of dataset.root as squares of dataset.resize pixels, memory-mapped.

    Raises:
        SwaBenchError: a file is no image, or the decoded images cannot be written or are damaged.
    """
    folder = scan(dataset.root)
    arrays: dict[str, Any] = {}
    known = {}
    for split, samples in folder.samples.items():
        key = digest({"format": FORMAT, "files": _files(dataset.root, samples)})[:12]
        path = Path(dataset.root) / f"decoded-{split}-{dataset.resize}px-{key}.npy"
        if not path.exists():
            _decode(samples, dataset.resize, path)
        verify = dataset.memory == "device"  # on the host, images are read when needed
        arrays[f"{split}_images"], known[f"{split}_images"] = _read(path, verify)
        arrays[f"{split}_labels"] = np.array([label for _, label in samples], dtype=np.int64)
    return ImageSet(**arrays, class_names=folder.class_names, known_sha256=known)


def _decode(samples: list[Sample], size: int, path: Path) -> None:
    """Write the images as uint8 (N, size, size, 3), and their SHA-256 into a file beside them."""
    check_writable("dataset.root", path.parent)
    shape = (len(samples), size, size, 3)
    log.info("Decoding %d images once into %s (%.1f GB).", shape[0], path, np.prod(shape) / 1e9)
    part, running = path.with_suffix(SUFFIX), hashlib.sha256()
    try:
        with part.open("wb") as file, ThreadPool() as pool:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            decode = functools.partial(_square, size=size)
            for image in pool.imap(decode, [path for path, _ in samples], chunksize=16):
                file.write(image)
                running.update(image)
        sidecar = {"images": len(samples), "sha256": running.hexdigest()}
        write_atomically(path.with_suffix(".json"), json.dumps(sidecar).encode())
        part.replace(path)
    except OSError as error:
        raise SwaBenchError(f"{part} could not be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _square(path: str, size: int) -> bytes:
    """An image whose shorter side is resized, cut to a square: uint8 (size, size, 3)."""
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms import functional as T

    try:
        with Image.open(path) as image:
            square = T.center_crop(T.resize(image.convert("RGB"), [size]), [size])
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise SwaBenchError(f"{path} cannot be read as an image: {error}") from error
    return np.asarray(square).tobytes()


def _read(path: Path, verify: bool) -> tuple[np.ndarray, str]:
    """The decoded images, and their SHA-256 as noted when they were written.

    Args:
        verify: whether to hash them again, which reads them all.
    """
    try:
        # Copies what is written to, which nothing does: torch takes no read-only memory.
        images = np.load(path, mmap_mode="c")
        sha256 = json.loads(path.with_suffix(".json").read_bytes())["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise SwaBenchError(f"{path} is damaged ({error}): delete it and start again") from error
    if verify and array_sha256(images) != sha256:
        raise SwaBenchError(f"{path} is altered: delete it and start again")
    return images, sha256
