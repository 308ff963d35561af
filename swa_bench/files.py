"""Files: written so that a reader sees the old one or the whole new one; deleted with care."""

import contextlib
import fnmatch
import logging
import os
import re
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from swa_bench.errors import SwaBenchError

log = logging.getLogger(__name__)

SUFFIX = ".part"
# What writers that were killed leave behind, of files that this program writes into its folders.
_LEFTOVER = re.compile(
    r"\.(seed\d+-epoch\d{4,}(-step\d+)?-[0-9a-f]{16}-[0-9a-f]{16}\.pt|cell-[\d.e+]+\.json|epochs\.csv"
    r"|start-[0-9a-f]{16}\.json"
    r"|predictions-[\d.e+]+\.npy|config\.yaml|(traceback|overrides)\.txt|lock\.holder"
    r"|file-hashes(-[0-9a-f]{12})?"
    r"|decoded-(train|test)-\d+px-[0-9a-f]{12}\.(npy|json))\.[0-9a-z_]{8,32}\.part"
)


def expanded(path: str) -> str:
    """A path with ~ at its start replaced by a home folder; ValueError if there is no such user."""
    found = os.path.expanduser(path)  # noqa: PTH111
    if found.startswith("~"):
        raise ValueError(f"~ stands for a home folder, but that of {path.split('/')[0]} is unknown")
    return found


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, on the disk, and give it its name; SwaBenchError leaves what was there."""
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:  # its mode is what the umask leaves
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise SwaBenchError(f"{path} could not be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # it is there after a failure only
            temporary.unlink()


def append(path: Path, content: bytes, sync: bool) -> None:
    """Add to the end of a file, on the disk if `sync`; SwaBenchError if that fails, or in part."""
    try:
        with path.open("ab") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise SwaBenchError(f"{path} could not be written: {error.strerror}") from error


def write_over_own(path: Path, content: bytes, begins: bytes) -> None:
    """Write atomically; SwaBenchError over a file without `begins` in its first 1,000 bytes."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if begins not in file.read(1000):
            raise SwaBenchError(f"{path} is there and not of this command: not overwritten")
    write_atomically(path, content)


def temporary_name(path: Path) -> Path:
    """A name of its own for a file that is renamed to `path` when it is whole."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{SUFFIX}")


def acquired(path: Path, waiting: Callable[[], str]) -> FileLock:
    """A lock that is held, after a wait that the log says; NotImplementedError if none is had."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s", waiting())
        lock.acquire()
    return lock


@contextlib.contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Hold a lock; where none can be had, since nothing can be written there, go on without."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, NotImplementedError):
            lock = acquired(path, lambda: f"Waiting for another process that reads {path.parent}")
            held.callback(lock.release)
        yield


def check_writable(setting: str, folder: Path) -> None:
    """Raise SwaBenchError, naming the setting, if no file can be made under a folder; make none."""
    parent = folder
    try:
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        reason = error.strerror
        raise SwaBenchError(
            f"{setting}={folder}: cannot write to {parent} ({reason}); choose another"
        ) from error


def find(folder: Path, pattern: str) -> list[Path]:
    """What is below a folder and fits a pattern by its name; no link to a folder is followed.

    A folder that may not be read is named in the log.
    """

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            log.warning("%s: %s: left out.", error.filename, error.strerror)

    walk = os.walk(folder, onerror=unreadable)
    return sorted(
        Path(where) / name
        for where, folders, files in walk
        for name in (*folders, *files)
        if fnmatch.fnmatch(name, pattern)
    )


def remove(path: Path) -> bool:
    """Delete a file, if it is there; False if it cannot be deleted, such as another user's."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def remove_leftovers(folder: Path, older_than_s: float = 3600) -> None:
    """Delete what writers that were killed left in a folder; a living one finishes long before."""
    for path in folder.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError):  # its writer has ended just now
            status = path.lstat()
            old = time.time() - status.st_mtime > older_than_s
            if old and stat.S_ISREG(status.st_mode) and _LEFTOVER.fullmatch(path.name):
                remove(path)
