"""Errors that a user can fix: one or two lines that say what is wrong and what would be right."""

import json
import signal
import textwrap
from importlib import metadata
from urllib.parse import unquote, urlsplit

from swa_bench.text import printable

# By which Slurm announces, and launchers for it hear, that a job will be stopped.
ANNOUNCING = (signal.SIGUSR1, signal.SIGUSR2)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *ANNOUNCING)  # that ask a process to end


class SwaBenchError(Exception):
    """Something went wrong outside the code: data, disk, training. Exit code 1."""

    exit_code = 1


class ConfigError(SwaBenchError):
    """A setting cannot be used. Exit code 2."""

    exit_code = 2

    def __init__(self, field: str, value: object, expected: str) -> None:
        if value is None or isinstance(value, bool):  # as YAML has it
            value = "null" if value is None else str(value).lower()
        super().__init__(printable(f"{field}={value}: ") + expected)


class DeviceLostError(SwaBenchError):
    """The GPU fails every later call of this process, so no sweep goes on in it. Exit code 3."""

    exit_code = 3


class Terminated(BaseException):
    """The process got a signal to end, and has stored its state; no sweep goes on after it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def needs_extra(extra: str) -> str:
    """How to install the packages of an extra: from the checkout, if this runs in one."""
    origin = json.loads(metadata.distribution("swa-bench").read_text("direct_url.json") or "{}")
    folder = unquote(urlsplit(origin.get("url", "")).path)
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    source = folder if "dir_info" in origin else "swa-bench"
    return f"needs an extra: pip install {editable}'{source}[{extra}]'"


def in_a_line(error: BaseException) -> str | None:
    """What a user can act on without a traceback; None for an error that needs one."""
    if isinstance(error, SwaBenchError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"this machine's memory is too small: {error or 'no reason given'}"
    return None


def without_frames(error: Exception) -> SwaBenchError:
    """What may be kept of an error: its text and exit code.

    The frames of its traceback would keep alive what they hold: a network, its optimiser, the data.
    """
    line = in_a_line(error)
    if line is None:
        line = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
    kept = SwaBenchError(line)
    kept.exit_code = getattr(error, "exit_code", 1)
    return kept
