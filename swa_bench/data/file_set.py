"""A data set of files, which are decoded whenever they are needed, and known by their content.

A file is hashed once, and again only if its size or one of its times is another. The hashes lie in
a file beside the images or, where nothing can be written there, below the user's cache folder.
"""

import contextlib
import functools
import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool  # reading and hashing release Python's lock
from pathlib import Path

import numpy as np

from swa_bench.config.identity import DataIdentity, digest
from swa_bench.data.listing import Listed
from swa_bench.errors import SwaBenchError
from swa_bench.files import alone_with, write_atomically
from swa_bench.labels import duration

log = logging.getLogger(__name__)

HASHES = "file-hashes"
KEY, HASH = 16, 32  # bytes
SAYS_EVERY_S = 30
Known = dict[bytes, bytes]


@dataclass(frozen=True)
class FileSet:
    """The files of a data set with dataset.memory=disk.

    Attributes:
        train, test: those that are used.
        class_names: of the labels.
        resize: pixels of the shorter side, as tests have it.
    """

    train: Listed
    test: Listed
    class_names: Sequence[str]
    resize: int

    @property
    def train_labels(self) -> np.ndarray:
        """int64 (N,)."""
        return self.train.labels

    @property
    def test_labels(self) -> np.ndarray:
        """int64 (M,)."""
        return self.test.labels

    @functools.cached_property  # several ask for it
    def hashes(self) -> dict[str, bytes]:
        """The SHA-256 of all files of each split, one after the other."""
        found = file_hashes((self.train, self.test))
        return dict(zip(("train", "test"), found, strict=True))

    @functools.cached_property
    def sha256(self) -> str:
        """Over the content and the label of every file, in their order, and `resize`."""
        running = hashlib.sha256(f"files, resize={self.resize}".encode())
        for name, split in (("train", self.train), ("test", self.test)):
            running.update(self.hashes[name])
            running.update(split.labels.astype("<i8").tobytes())
        return running.hexdigest()

    def check(self, name: str, index: int) -> None:
        """Raise SwaBenchError if a file of a split is no longer the one that was hashed.

        Only if its size or one of its times is another, it is hashed again.
        """
        split, at = getattr(self, name), HASH * index
        path = split.path(index)
        stat = Path(path).stat()
        known = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if known != tuple(split.stats[index]) and (
            _sha256(path) != self.hashes[name][at : at + HASH]
        ):
            raise SwaBenchError(f"{path} was changed while it was in use: start again")

    def identity(self) -> DataIdentity:
        """What records of it hold."""
        return DataIdentity(self.sha256, tuple(self.class_names))


def file_hashes(splits: Sequence[Listed]) -> list[bytes]:
    """The SHA-256 of all files of each split of a folder, one after the other.

    Raises:
        SwaBenchError: a file cannot be read.
    """
    beside, users = places = _places(splits[0].root)
    with alone_with(beside.with_suffix(".lock")):
        known = _read(users) | _read(beside)
        keys = list(map(_keys, splits))
        new = {
            key: (split.path(index), int(split.stats[index, 0]))
            for split, of_split in zip(splits, keys, strict=True)
            for index, key in enumerate(of_split)
            if key not in known
        }
        if new:
            try:
                _hash(new, known, places)
            finally:  # what was read before a failure need not be read again
                _write(places, known)
    return [b"".join(map(known.__getitem__, of_split)) for of_split in keys]


def _places(root: str) -> tuple[Path, Path]:
    """Where hashes may be: beside the images, and below the user's cache folder."""
    real = Path(root).resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return real / HASHES, Path(cache, "swa_bench", f"{HASHES}-{digest({'root': str(real)})[:12]}")


def _keys(split: Listed) -> list[bytes]:
    """For each file what changes with its name, size, and times of modification and of change."""
    files = zip(split.names.tolist(), split.stats.astype("<i8"), strict=True)
    known = (name + b"\0" + stats.tobytes() for name, stats in files)
    return [hashlib.blake2b(one, digest_size=KEY).digest() for one in known]


def _hash(new: dict[bytes, tuple[str, int]], known: Known, places: Sequence[Path]) -> None:
    """Add the hashes of files, given their paths and bytes; say how long it takes.

    What was read is written now and then: a signal may end the process at any time.
    """
    size, done = sum(size for _, size in new.values()), 0
    what = f"{len(new):,} files ({size / 1e9:.1f} GB)"
    log.info("Reading %s once, to know them by their content.", what)
    started = said = time.monotonic()
    with ThreadPool() as pool:
        found = pool.imap(_sha256, (path for path, _ in new.values()), chunksize=16)
        for (key, (_, bytes_read)), value in zip(new.items(), found, strict=True):
            known[key] = value
            done += bytes_read
            now = time.monotonic()
            if now - said > (SAYS_EVERY_S if said > started else 2):
                said, left_s = now, (now - started) * (size / max(done, 1) - 1)
                log.info("Read %.0f %% of them, about %s left", 100 * done / size, duration(left_s))
                _write(places, known)


def _sha256(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise SwaBenchError(f"{path} cannot be read: {error.strerror}") from error


def _read(path: Path) -> Known:
    """The hashes in a file, by key; none if it is not there or damaged."""
    with contextlib.suppress(OSError, ValueError):
        content = path.read_bytes()
        if hashlib.sha256(memoryview(content)[HASH:]).digest() == content[:HASH]:
            return dict(np.frombuffer(content, f"V{KEY},V{HASH}", offset=HASH).tolist())
    return {}


def _write(places: Sequence[Path], known: Known) -> None:
    """Write the hashes into the first place where that is possible."""
    body = b"".join(key + value for key, value in known.items())
    for path in places:
        try:
            return write_atomically(path, hashlib.sha256(body).digest() + body)
        except SwaBenchError as error:
            failure = error
    log.warning("The files are read again in every run: %s", failure)
