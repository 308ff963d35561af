"""Files that anybody may have written: read within bounds, before a schema checks what is in them.

What is wrong with a file is a ValueError, so that a reader can name the file and leave it out.
"""

import json
import logging
import math
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from swa_bench.errors import SwaBenchError
from swa_bench.text import check_printable, printable

log = logging.getLogger(__name__)

LARGEST_BYTES = 64 * 2**20
LARGEST_INTEGER = 2**63
Content = TypeVar("Content")


class NewerFormatError(ValueError):
    """A file of a format that only a newer version of the program knows."""

    what = "was written by a newer version of the program"


class MisplacedError(ValueError):
    """A record of another run than its folder names, such as one in a copy of a run's folder."""

    what = "is not in the folder of its run"


def check_format(values: Any, known: int) -> None:
    """Raise NewerFormatError if a record's format is later than `known`, ValueError if none."""
    found = values.get("format") if isinstance(values, dict) else None
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise ValueError(f"its format is no number from 1 to {known}")
    if found > known:
        raise NewerFormatError(f"format {found}; this version reads those up to {known}")


def read_file(path: Path, largest_bytes: float = LARGEST_BYTES) -> bytes:
    """The content of a regular file; ValueError if it is something else, or too large."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would never end
        raise ValueError("it is no regular file")
    if status.st_size > largest_bytes:
        raise ValueError(f"it has {status.st_size:,} bytes, more than {largest_bytes:,}")
    return path.read_bytes()


def parse_json(content: bytes | str) -> Any:
    """JSON without a key twice, huge numbers and control characters; ValueError if it has some."""
    text = content.decode() if isinstance(content, bytes) else content
    try:
        values = json.loads(
            text,
            parse_constant=_finite,
            parse_float=_finite,
            parse_int=_bounded,
            object_pairs_hook=_with_each_key_once,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    check_printable(values)
    return values


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is not finite")
    return value


def _bounded(text: str) -> int:
    if abs(value := int(text)) >= LARGEST_INTEGER:
        raise ValueError(f"{text[:20]}... is too large")
    return value


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("it holds a key twice")
    return values


def first_fault(error: ValidationError) -> str:
    """What a schema found first, such as 'seed: Field required'."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def if_sound(read: Callable[[Path], Content], path: Path) -> Content | None:
    """What a reader makes of a file; None if there is none or it is not sound, as the log says."""
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        what = getattr(error, "what", "is damaged")
        reason = first_fault(error) if isinstance(error, ValidationError) else error
        log.warning("%s", printable(f"{path} {what} ({reason}): left out."))
        return None


def set_aside(path: Path, reason: Exception) -> None:
    """Rename a damaged file, so that nothing is lost; SwaBenchError if that fails."""
    aside, count = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists() or aside.is_symlink():
        count += 1
        aside = path.with_name(f"{path.name}.damaged-{count}")
    try:
        path.rename(aside)
    except OSError as error:
        raise SwaBenchError(f"{path} is damaged and cannot be moved: {error.strerror}") from error
    what = getattr(reason, "what", "is damaged")
    log.warning("%s", printable(f"{path} {what} ({reason}): moved to {aside.name}."))
