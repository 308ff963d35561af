"""Checks in a process of their own, whose crash or hang is an outcome too.

A segmentation fault cannot be caught, and after some CUDA errors a process can use its GPU no
more. Nothing here imports torch; the checks do (training/checks.py).
"""

import multiprocessing
import os
import pkgutil
import signal
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from swa_bench.config.schema import Device
from swa_bench.results.verdicts import Check, Topic

HANGS_AFTER_S = 300  # far more than any check takes, on a busy machine too
STDERR = "stderr.txt"


class NotOkError(Exception):
    """A check has failed; the text says what was measured."""


class SkippedError(Exception):
    """A check makes no sense here; the text says why."""


@dataclass(frozen=True)
class Trial:
    """What the checks are to do.

    Attributes:
        device: where; in checks decided.
        models: networks whose steps are timed; none: those that the device is for.
        folder: of their own, for runs and what they print.
        until: of time.monotonic, after which nothing more is timed.
        graphs: whether steps are recorded: not after that has crashed.
    """

    device: Device
    models: tuple[str, ...]
    folder: str
    until: float
    graphs: bool = True


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check, and the fields of the verdict that follow from it."""

    check: Check
    found: dict[str, Any]


# A check returns what it measured, and what it found beside.
Measured = str | tuple[str, dict[str, Any]]
NamedCheck = tuple[str, Topic, Callable[[], Measured]]


def outcomes(checks: str, trial: Trial, hangs_after_s: float = HANGS_AFTER_S) -> Iterator[Outcome]:
    """Do checks one after the other; after a crash go on in another process with the next.

    If one that is about the device itself fails, the others are left out. `checks` is the dotted
    name of a function that gives a list of NamedCheck for a Trial.
    """
    context = multiprocessing.get_context("spawn")
    done: set[str] = set()
    ended = False
    while not ended:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(theirs, checks, trial, done))
        child.start()
        theirs.close()
        try:
            for outcome in _received(ours, child, trial, hangs_after_s):
                ended = outcome is None
                if outcome is not None:
                    done.add(outcome.check.name)
                    yield outcome
                    failed = outcome.check.topic if outcome.check.outcome == "not ok" else ""
                    if failed == "device":
                        return
                    trial = replace(trial, graphs=trial.graphs and failed != "cuda_graphs")
        finally:
            child.kill()
            child.join()


def _received(
    connection: Connection, child: Any, trial: Trial, hangs_after_s: float
) -> Iterator[Outcome | None]:
    """What a process sends, None when it has done all; and the check that it did not survive."""
    name, busy = "start", True  # before the first check
    topic: Topic = "device"
    limit_s: float = HANGS_AFTER_S  # for the imports
    try:
        while connection.poll(limit_s):
            message, limit_s = connection.recv(), hangs_after_s
            if busy := not (message is None or isinstance(message, Outcome)):
                name, topic = message
            else:
                yield message
            if message is None:
                return
        reason = f"did not end within {limit_s:g} s"
    except EOFError:
        if not busy:
            return
        child.join()
        reason = _death(child.exitcode, Path(trial.folder) / STDERR)
    yield Outcome(Check(name=name, topic=topic, outcome="not ok", measured=reason), {})


def _death(code: int, stderr: Path) -> str:
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    last = stderr.read_text(errors="replace").split("\n")[-2:] if stderr.exists() else []
    said = textwrap.shorten(" ".join(last), 200)
    return f"ended its process ({how}){said and f': {said}'}"


def _work(connection: Connection, checks: str, trial: Trial, done: set[str]) -> None:
    """The process of the checks; what they print goes to a file."""
    with (Path(trial.folder) / STDERR).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name, topic, check in pkgutil.resolve_name(checks)(trial):
        if name not in done:
            connection.send((name, topic))
            connection.send(outcome := perform(name, topic, check))
            if outcome.check.outcome == "not ok":
                return  # a process that had a CUDA error is of no more use
    connection.send(None)


def perform(name: str, topic: Topic, check: Callable[[], Measured]) -> Outcome:
    """The outcome of a check, whatever it raises."""
    outcome: Literal["ok", "not ok", "skipped"] = "ok"
    found: dict[str, Any] = {}
    try:
        measured = check()
        text, found = (measured, {}) if isinstance(measured, str) else measured
    except SkippedError as error:
        outcome, text = "skipped", str(error)
    except NotOkError as error:
        outcome, text = "not ok", str(error)
    except Exception as error:  # of torch, a driver or a compiler
        outcome, text = "not ok", textwrap.shorten(f"{type(error).__name__}: {error}", 300)
    return Outcome(Check(name=name, topic=topic, outcome=outcome, measured=text), found)
