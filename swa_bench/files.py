"""Writing files so that a reader sees the old one or the whole new one, never a part."""

import contextlib
import os
import tempfile
import time
from pathlib import Path

from swa_bench.errors import SwaBenchError

SUFFIX = ".part"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, flush it to the disk, and only then give it its name; make its folder.

    Raises:
        SwaBenchError: it could not be written; what stood under the name before still does.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_and_rename(path, content)
    except OSError as error:
        raise SwaBenchError(f"{path} could not be written: {error.strerror}") from error


def _write_and_rename(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(SUFFIX, f".{path.name}.", path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives 0600
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def check_writable(setting: str, folder: Path) -> None:
    """Raise SwaBenchError, naming the setting, if no file can be made under a folder; make none."""
    parent = folder
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        reason = error.strerror
        raise SwaBenchError(
            f"{setting}={folder}: cannot write to {parent} ({reason}); choose another"
        ) from error


def remove_leftovers(folder: Path, prefix: str = "", older_than_s: float = 3600) -> None:
    """Delete what writers that were killed left in a folder; a living one finishes long before."""
    for path in folder.glob(f".{prefix}*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # its writer has just finished
            if time.time() - path.stat().st_mtime > older_than_s:
                path.unlink()
