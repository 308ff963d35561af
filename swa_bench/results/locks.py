"""Two processes starting one run, and requests to stop."""

import contextlib
import logging
import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from swa_bench.errors import Terminated
from swa_bench.files import write_atomically
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
            lock = FileLock(folder / LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("Waiting for another process that trains %s (%s)", folder, _holder(folder))
                lock.acquire()
            except NotImplementedError:
                log.warning("%s is on a file system without locks: start no run twice", folder)
                continue
            held.callback(lock.release)
            (folder / HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield


def is_running(folder: Path) -> str | None:
    """Which process trains in a run folder, as its lock tells; None if none does."""
    if not (folder / LOCK).exists():
        return None
    try:
        with FileLock(folder / LOCK, timeout=0):
            return None
    except (Timeout, NotImplementedError, OSError):
        return _holder(folder)


def _holder(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return printable((folder / HOLDER).read_text(errors="replace"))  # type: ignore[no-any-return]
    return "unknown"


@contextlib.contextmanager
def failures_noted(folders: list[Path], unfinished: Callable[[], list[Path]]) -> Iterator[None]:
    """Keep the traceback of a failure inside in the run folders, until they are tried again.

    Args:
        folders: of the runs that are tried.
        unfinished: those of them that have not ended successfully.
    """
    for folder in folders:
        (folder / TRACEBACK).unlink(missing_ok=True)
    try:
        yield
    except Exception:
        for folder in unfinished():
            with contextlib.suppress(Exception):  # a full disk must not hide the failure itself
                write_atomically(folder / TRACEBACK, traceback.format_exc().encode())
        raise


class EndRequest:
    """Whether the process was asked to end."""

    made = False

    def check(self) -> None:
        """Raise Terminated if it was."""
        if self.made:
            raise Terminated


@contextlib.contextmanager
def sigterm_noted() -> Iterator[EndRequest]:
    """Note SIGTERM instead of ending at once, so that the epoch can be finished and stored.

    A launcher that handles the signal itself, as submitit does, keeps it.
    """
    request = EndRequest()

    def note(number: int, frame: object) -> None:
        request.made = True
        log.info("Asked to end: after this epoch, with a checkpoint")

    try:
        ours = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        if ours:
            signal.signal(signal.SIGTERM, note)
    except ValueError:  # not in the main thread: whoever started this one handles signals
        ours = False
    try:
        yield request
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
