"""A user's own images: root/train/<class>/** and root/val/<class>/** (or test), of any size.

With dataset.memory=device they are decoded once into .npy files beside the folders, which later
runs map into memory; with disk, whenever they are needed.
"""

import functools
import hashlib
import json
import logging
import warnings
from multiprocessing.pool import ThreadPool  # decoding and resizing release Python's lock
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swa_bench.config.identity import digest
from swa_bench.config.schema import DatasetConfig
from swa_bench.data.decoding import read_square
from swa_bench.data.file_set import FileSet
from swa_bench.data.images import ImageSet
from swa_bench.data.listing import Listed, report, scan
from swa_bench.errors import SwaBenchError
from swa_bench.files import (
    alone_with,
    check_writable,
    remove_leftovers,
    temporary_name,
    write_atomically,
)

log = logging.getLogger(__name__)

FORMAT = 2  # raised when a code change changes what is decoded
PREFIX = "decoded-"


def load_folder(dataset: DatasetConfig) -> ImageSet | FileSet:
    """The images of dataset.root as memory-mapped squares; SwaBenchError for a damaged file.

    With dataset.memory=disk, only the files that hold them.
    """
    folder, root = scan(dataset.root), Path(dataset.root)
    report(dataset.root)
    if dataset.memory == "disk":
        return FileSet(**folder.samples, class_names=folder.class_names, resize=dataset.resize)
    arrays: dict[str, Any] = {}
    noted = {}
    for split, samples in folder.samples.items():
        key = _key(samples)
        path = root / f"{PREFIX}{split}-{dataset.resize}px-{key}.npy"
        if not path.exists():
            with alone_with(root / "decoded.lock"):
                if not path.exists():  # or another process has decoded them meanwhile
                    _decode(samples, dataset.resize, path)
                    if _key(scan.__wrapped__(dataset.root).samples[split]) != key:
                        raise SwaBenchError(f"{root} was changed while it was read: start again")
        arrays[f"{split}_images"], noted[f"{split}_images"] = _read(path)
        arrays[f"{split}_labels"] = samples.labels
    images = ImageSet(**arrays, class_names=folder.class_names)
    if altered := [name for name in noted if images.sha256[name] != noted[name]]:
        path = getattr(images, altered[0]).filename
        raise SwaBenchError(f"{path} is altered: delete it and start again")
    return images


def _key(samples: Listed) -> str:
    """Changes with every file: its name, bytes, and when its content or its time was changed."""
    return digest({"format": FORMAT, "files": samples.described()})[:12]


def _decode(samples: Listed, size: int, path: Path) -> None:
    """Write the images as uint8 (N, size, size, 3), and their SHA-256 into a file beside them."""
    check_writable("dataset.root", path.parent)
    remove_leftovers(path.parent)
    shape = (len(samples), size, size, 3)
    log.info("Decoding %d images once into %s (%.1f GB).", shape[0], path, np.prod(shape) / 1e9)
    # A name of its own, since some file systems have no locks.
    part, running = temporary_name(path), hashlib.sha256()
    try:
        with part.open("xb") as file, ThreadPool() as pool, warnings.catch_warnings():
            # So large an image is an attack, or a mistake.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            decode = functools.partial(read_square, size=size)
            for image in pool.imap(decode, map(samples.path, range(len(samples))), chunksize=16):
                file.write(image)
                running.update(image)
        sidecar = {"images": len(samples), "sha256": running.hexdigest()}
        write_atomically(path.with_suffix(".json"), json.dumps(sidecar).encode())
        part.replace(path)
    except OSError as error:
        raise SwaBenchError(f"{part} could not be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> tuple[np.ndarray, str]:
    """The decoded images, and their SHA-256 as noted when they were written."""
    try:
        # Copies what is written to, which nothing does: torch takes no read-only memory.
        images = np.load(path, mmap_mode="c")
        sha256 = json.loads(path.with_suffix(".json").read_bytes())["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise SwaBenchError(f"{path} is damaged ({error}): delete it and start again") from error
    return images, sha256
