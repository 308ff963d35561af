"""How every command talks: no print ends it, and what it cannot do is said in a line."""

import argparse
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO, cast

from swa_bench.errors import SwaBenchError, in_a_line
from swa_bench.files import expanded


def path(text: str) -> Path:
    """The type of an argument that names a file or folder."""
    return Path(expanded(text))


def version() -> str:
    """The versions of the project and of torch, where it is installed; it is not imported."""
    found = []
    for package in ("swa_bench", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # tables need no torch
            found.append(f"{package} {metadata.version(package)}")
    return ", ".join(found)


class CommandParser(argparse.ArgumentParser):
    """A parser that knows --version."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        text = "print the versions of swa_bench and torch"
        self.add_argument("--version", action="version", version=version(), help=text)


def usual_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, as before `swa_bench` was imported by a command."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def command(name: str) -> Iterator[None]:
    """Run a command: what a user can mend is said in a line instead of a traceback."""
    usual_interrupt()
    with safe_output():
        try:
            yield
        except (SwaBenchError, OSError, MemoryError) as error:
            line = in_a_line(error)
            if line is None:
                raise
            sys.exit(f"{name}: {line}")
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)


@contextlib.contextmanager
def safe_output(exits: bool = True) -> Iterator[None]:
    """Let prints inside fail without an exception.

    A character that the terminal lacks is printed as an escape. A stream that fails is given up: a
    full disk is said on stderr, and a reader that has seen enough is not. The exit code is 1 then,
    instead of 0, if `exits`.
    """
    if isinstance(sys.stdout, _SafeStream):
        yield
        return
    out, err = _SafeStream("stdout", sys.stdout), _SafeStream("stderr", sys.stderr)
    with (
        contextlib.redirect_stdout(cast(TextIO, out)),
        contextlib.redirect_stderr(cast(TextIO, err)),
    ):
        try:
            yield
        except SystemExit as end:
            if end.code not in (None, 0) or not _lost(out, err):
                raise
        if _lost(out, err) and exits:
            sys.exit(1)


class _SafeStream:
    """A stream that writes to nowhere once it has failed."""

    def __init__(self, name: str, stream: TextIO | None) -> None:
        self.name, self.failed = name, False
        # A process can be started without one; what is opened first would take its number.
        self.stream: Any = stream or open(os.devnull, "w")  # noqa: PTH123, SIM115
        if hasattr(self.stream, "reconfigure"):
            self.stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.stream, attribute)

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self.failed:
            return
        self.failed = True
        with contextlib.suppress(OSError):  # what is still buffered goes to nowhere too
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        if error.errno != errno.EPIPE and self.name == "stdout":
            print(f"Nothing more is printed, stdout failed: {error.strerror}", file=sys.stderr)


def _lost(*streams: _SafeStream) -> bool:
    """Whether something that was printed went nowhere."""
    for stream in streams:
        stream.flush()
    return any(stream.failed for stream in streams)
