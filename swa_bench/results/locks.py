"""Two processes starting one run, tracebacks of failed ones, and signals to end."""

import contextlib
import fcntl
import functools
import logging
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from swa_bench.errors import Terminated
from swa_bench.files import acquired, write_atomically
from swa_bench.text import printable

log = logging.getLogger(__name__)

LOCK = "lock"
HOLDER = "lock.holder"  # beside it, since acquiring a lock may empty its file
TRACEBACK = "traceback.txt"


@contextlib.contextmanager
def alone_in(folders: list[Path]) -> Iterator[None]:
    """Hold the locks of run folders; wait while another process has one of them.

    The kernel takes a lock away from a process that ends, however it ends.
    """
    with contextlib.ExitStack() as held:
        for folder in sorted(folders):  # one order for all, so that two never wait for each other
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = acquired(folder / LOCK, functools.partial(_waiting, folder))
            except NotImplementedError:
                log.warning("%s is on a file system without locks: start no run twice", folder)
                continue
            held.callback(lock.release)
            holder = f"process {os.getpid()} on {socket.gethostname()}"
            write_atomically(folder / HOLDER, holder.encode())
        yield


def _waiting(folder: Path) -> str:
    return f"Waiting for another process that trains {folder} ({_holder(folder)})"


def is_running(folder: Path) -> str | None:
    """Which process trains in a run folder, as its lock tells; None if none does.

    The lock is only looked at, so that another user's folder can be asked too.
    """
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(folder)
    except OSError:  # no lock, none that this user may read, or a file system without locks
        return None
    return None


def _holder(folder: Path) -> str:
    with contextlib.suppress(OSError):
        text = (folder / HOLDER).read_text(encoding="utf-8", errors="replace")
        return str(printable(text))
    return "unknown"


@contextlib.contextmanager
def failures_noted(folders: list[Path], unfinished: Callable[[], list[Path]]) -> Iterator[None]:
    """Keep the traceback of a failure in the folders of unfinished runs, until the next try."""
    for folder in folders:
        (folder / TRACEBACK).unlink(missing_ok=True)
    try:
        yield
    except Exception:
        for folder in unfinished():
            with contextlib.suppress(Exception):  # a full disk must not hide the failure itself
                write_atomically(folder / TRACEBACK, traceback.format_exc().encode())
        raise


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
USUAL = (signal.SIG_DFL, signal.default_int_handler)  # what Python does with them
TWICE_S = 1.0  # signals closer together are one: timeout(1), and some shells, send two


class EndRequest:
    """Whether the process was asked to end, and by which signal."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.made_at = 0.0

    def note(self, number: int, frame: object) -> None:
        """Handle a signal: the first is noted, a second one ends the process at once."""
        if self.number is None:
            self.number, self.made_at = number, time.monotonic()
            name = signal.Signals(number).name
            log.info(
                "%s: ends after this epoch, with a checkpoint; a second signal ends at once", name
            )
        elif time.monotonic() - self.made_at > TWICE_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def check(self) -> None:
        """Raise Terminated if it was."""
        if self.number is not None:
            raise Terminated(self.number)


@contextlib.contextmanager
def handled(
    numbers: Iterable[signal.Signals], handler: Callable[[int, Any], object]
) -> Iterator[None]:
    """Handle signals meanwhile.

    A signal that a launcher handles itself, as submitit does, or that is ignored, as nohup has it,
    stays as it is.
    """
    before = {}
    # Outside the main thread, whoever started it handles signals.
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in numbers}
        before = {number: known for number, known in handlers.items() if known in USUAL}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


@contextlib.contextmanager
def signals_noted() -> Iterator[EndRequest]:
    """Note SIGTERM, SIGINT and SIGHUP, so that the epoch can be finished and stored."""
    request = EndRequest()
    with handled(SIGNALS, request.note):
        yield request
    request.check()  # it may have come after the last epoch
