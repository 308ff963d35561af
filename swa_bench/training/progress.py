"""What a user sees while a run trains: a line an epoch and, in a terminal, a bar below them."""

import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from swa_bench.config.schema import LAST, TrainConfig
from swa_bench.labels import duration
from swa_bench.results.epochs import Row

log = logging.getLogger("swa_bench.progress")  # the line of each epoch, not shortened

WIDTH = 80  # of a line at most, in columns
LINE_EVERY_S = 60
WAIT_EVERY_S = 0.5
TESTED = "test_error_pct"  # the end of the columns that are shown
CALLED = {"": "test", "swa_": "average"}  # others are called what their column begins with
SHORTEST_BAR = 6
Parts = list[tuple[int, str]]  # of a line, each after its rank: those of the highest go first


class Pace:
    """Holds the host back, about twice a second, so that what it counts is done on the device.

    Without it the host hands out an epoch in a moment and waits for its end. Each wait is for the
    steps up to the wait before, so that the device never lacks work.
    """

    def __init__(self) -> None:
        self.streams: Sequence[torch.cuda.Stream] = ()
        self.every = self.left = 1  # steps between two waits
        self.events: list[torch.cuda.Event] = []  # after the steps that are waited for next
        self.steps = 0  # and their number
        self.waited = 0.0

    def start(self, streams: Sequence[torch.cuda.Stream]) -> None:
        """Begin an epoch of runs whose steps are on these streams."""
        self.streams, self.events = streams, []
        self.left, self.waited = self.every, time.monotonic()

    def keep(self) -> None:
        """Called after each step of all runs."""
        self.left -= 1
        if not self.streams or self.left:
            return
        events, steps = self.events, self.steps
        self.events = [stream.record_event(_event()) for stream in self.streams]
        self.steps = self.every
        for event in events:
            event.synchronize()
        now = time.monotonic()
        if events:
            fitting = int(steps * WAIT_EVERY_S / max(now - self.waited, 1e-9))
            self.every = max(1, min(fitting, 2 * self.every))
        self.left, self.waited = self.every, now


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]


class Progress:
    """Reports on runs of one recipe; used as a context manager around their epochs.

    Args:
        seeds: of the runs.
        train_images: in an epoch of one run.
        end: the epoch after which nothing is left to train.
    """

    def __init__(self, config: TrainConfig, seeds: list[int], train_images: int, end: int) -> None:
        self.method, self.train_images, self.end = config.method, train_images, end
        self.name = f"{self.method.name} seed{'s' * (len(seeds) > 1)} {_listed(seeds)}"
        self.seeds = 1  # trained at the same time
        self.images = self.in_epoch = 0
        self.epoch = 0
        self.console = Console(soft_wrap=True, highlight=False, markup=False)
        self.started = self.printed = 0.0
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[status]}", markup=False),
            console=self.console,
            expand=True,
            disable=not self.console.is_interactive,  # a job beside others has no bar
        )
        self.task = self.bar.add_task(self.name, total=end, status="")
        self.streams: dict[Any, Any] = {}  # of the handlers that print the log
        self.pace = Pace()

    def __enter__(self) -> None:
        self.started = self.printed = time.monotonic()
        self.bar.start()
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                handler.addFilter(_is_other)  # our own lines are printed here
                self.streams[handler] = handler.stream
                stream = handler.stream
                if not self.bar.disable and not stream.closed and stream.isatty():
                    handler.stream = sys.stderr  # rich's, which prints above the bar

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
        for handler, stream in self.streams.items():
            handler.removeFilter(_is_other)
            handler.stream = stream

    def epoch_starts(
        self, epoch: int, seeds: int, streams: Sequence[torch.cuda.Stream] = (), done: int = 0
    ) -> None:
        """Called when steps of an epoch begin.

        Args:
            epoch: from 0.
            seeds: how many are trained at the same time.
            streams: where.
            done: how many images of the epoch were trained on before.
        """
        self.pace.start(streams)
        self.epoch, self.seeds, self.in_epoch = epoch + 1, seeds, done
        self._show()

    def images_done(self, images: int) -> None:
        """Called after each optimiser step with the number of its images."""
        self.pace.keep()
        self.images += images
        self.in_epoch += images
        self._show()
        if self.bar.disable and time.monotonic() - self.printed > LINE_EVERY_S:
            self._print([(0, self.name), (0, self._epoch()), *self._pace()])

    def epoch_done(self, seed: int, row: Row) -> None:
        """Called with the row of a seed's epoch that has just ended."""
        rate, loss, error = (row[n] for n in ("learning_rate", "train_loss", "train_error_pct"))
        line: Parts = [(0, f"{self.method.name} seed {seed}"), (0, self._epoch())]
        line += [(6, f"lr {rate:.4g}"), (5, f"loss {loss:.3f}"), (3, f"train {error:.2f} %")]
        result = "" if self.method.result == LAST else f"{self.method.result}_"
        for column, error in row.items():
            if column.endswith(TESTED) and error is not None:
                name = column.removesuffix(TESTED)
                rank = {result: 1, "": 2}.get(name, 7)
                line.append((rank, f"{CALLED.get(name, name.rstrip('_'))} {error:.2f} %"))
        full = [*line, *self._pace()[1:]]
        log.info("%s", "  ".join(part for _, part in full))
        self._print(full if self.bar.disable else line)

    def images_per_s(self) -> float:
        """Images trained on a second since the run was started, evaluation included."""
        return self.images / max(time.monotonic() - self.started, 1e-9)

    def _epoch(self) -> str:
        return f"epoch {self.epoch:>{len(str(self.end))}}/{self.end}"

    def _pace(self) -> Parts:
        """How much of the run is done, how fast, and how long the rest will take."""
        an_epoch = self.train_images * self.seeds
        left = ((self.end - self.epoch + 1) * an_epoch - self.in_epoch) / an_epoch
        seconds = left * an_epoch / max(self.images_per_s(), 1e-9)
        time_left = f"{duration(seconds)} left" if self.images else ""
        speed = f"{self.images_per_s():,.0f} images/s" if self.images else ""
        return [(0, f"{1 - left / self.end:4.0%}"), (8, speed), (4, time_left)]

    def _show(self) -> None:
        if self.bar.disable:
            return
        what, pace = f"{self.name}  {self._epoch()}", self._pace()
        status = _fitted(pace, min(WIDTH, self.console.width) - len(what) - SHORTEST_BAR - 2)
        done = self.epoch - 1 + self.in_epoch / (self.train_images * self.seeds)
        self.bar.update(self.task, completed=done, description=what, status=status)

    def _print(self, line: Parts) -> None:
        self.printed = time.monotonic()
        terminal = self.console.is_terminal  # a file has room for all
        self.console.print(_fitted(line, min(WIDTH, self.console.width) if terminal else None))


def _fitted(parts: Parts, width: int | None) -> str:
    """The parts in their order, without those of the highest ranks for which there is no room."""
    text = "  ".join(part for _, part in parts if part)
    highest = max(rank for rank, _ in parts)
    if width is None or len(text) <= width or not highest:
        return text
    return _fitted([part for part in parts if part[0] != highest], width)


def _listed(seeds: list[int]) -> str:
    """Seeds as 0, 2 or, where they follow each other, 0-2."""
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _is_other(record: logging.LogRecord) -> bool:
    """Whether a record of the log is none of the lines that are printed here."""
    return record.name != log.name
