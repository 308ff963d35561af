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
from typing import Any, TypeVar

from swa_bench.errors import ANNOUNCING, SIGNALS, Terminated
from swa_bench.files import acquired, write_atomically
from swa_bench.text import printable

log = logging.getLogger(__name__)

LOCK = "lock"
HOLDER = "lock.holder"  # beside it, since acquiring a lock may empty its file
TRACEBACK = "traceback.txt"
Batch = TypeVar("Batch")


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


USUAL = (signal.SIG_DFL, signal.default_int_handler)  # what Python does with them
TWICE_S = 1.0  # signals closer together are one: timeout(1), and some shells, send two


class EndRequest:
    """Whether the process was asked to end, and by which signal.

    Args:
        store: writes all that is trained to disk; called before the process ends.
    """

    def __init__(self, store: Callable[[], None]) -> None:
        self.store = store
        self.number: int | None = None
        self.made_at = 0.0

    def note(self, number: int, frame: object) -> None:
        """Handle a signal: the first is noted, a second one ends the process at once."""
        if self.number is None:
            self.number, self.made_at = number, time.monotonic()
            more = "" if number in ANNOUNCING else "; a second signal ends at once"
            name = signal.Signals(number).name
            log.info("%s: ends after this step, with a checkpoint%s", name, more)
        elif time.monotonic() - self.made_at > TWICE_S and number not in ANNOUNCING:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def check(self) -> None:
        """Store, and raise Terminated, if it was."""
        if self.number is not None:
            self.store()
            raise Terminated(self.number)


_request: EndRequest | None = None  # of the runs that train in this process


def end_if_asked() -> None:
    """Called after each step and each batch of a pass; Terminated if the process was asked to end.

    The state of every run is one that can be stored whenever this is called.
    """
    if _request is not None:
        _request.check()


def ending_between(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a pass, after each of which the process may end."""
    for batch in batches:
        yield batch
        end_if_asked()


@contextlib.contextmanager
def handled(
    numbers: Iterable[signal.Signals], handler: Callable[[int, Any], object]
) -> Iterator[dict[int, Any]]:
    """Handle signals meanwhile; what handled them before is given, and put back at the end.

    A signal that is ignored, as nohup has it, stays as it is, and so does one that a launcher
    handles itself, unless it announces the end.
    """
    before: dict[int, Any] = {}
    # Outside the main thread, whoever started it handles signals.
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in numbers}
        before |= {
            number: known
            for number, known in handlers.items()
            if known in USUAL or (number in ANNOUNCING and callable(known))
        }
    for number in before:
        signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, known in before.items():
            signal.signal(number, known)


@contextlib.contextmanager
def signals_noted(store: Callable[[], None]) -> Iterator[None]:
    """Note signals to end, so that `store` is called after the step; it then raises Terminated.

    A launcher that handles the signal itself, as submitit does, to requeue the job, does so after
    that. If it is asked again meanwhile, nothing more happens: it would requeue the job twice.
    """
    global _request
    _request = request = EndRequest(store)
    with handled(SIGNALS, request.note) as before:
        try:
            yield
            request.check()  # it may have come after the last epoch
        except Terminated as ended:
            if before.get(ended.number, signal.SIG_DFL) not in USUAL:
                before.pop(ended.number)(ended.number, None)
            raise
        finally:
            _request = None
