"""Writing files so that a reader sees the old one or the whole new one, never a part."""

import os
import tempfile
import time
from pathlib import Path

SUFFIX = ".part"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, flush it to the disk, and only then give it its name.

    Raises:
        OSError: it could not be written; what stood under the name before still does.
    """
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


def remove_leftovers(folder: Path, older_than_s: float = 3600) -> None:
    """Delete what writers that were killed left in a folder; a living one finishes long before."""
    for path in folder.glob(f".*{SUFFIX}"):
        if time.time() - path.stat().st_mtime > older_than_s:
            path.unlink(missing_ok=True)
