"""What a user sees while a run trains: a bar in a terminal, otherwise a line an epoch or minute."""

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from swa_bench.config.schema import TrainConfig
from swa_bench.labels import duration
from swa_bench.results.epochs import Row

log = logging.getLogger("swa_bench.progress")  # the line of each epoch, for files
LINE_EVERY_S = 60
TESTED = "test_error_pct"  # the end of the columns that are shown
CALLED = {"": "test", "swa_": "average"}  # others are called what their column begins with


class Progress:
    """Reports on one run; used as a context manager around its epochs."""

    def __init__(self, config: TrainConfig, seeds: list[int], train_images: int) -> None:
        self.run = f"{config.model.name} {config.method.name}"
        self.title = f"{self.run} seed {', '.join(map(str, seeds))}"
        self.seeds = 1  # trained at the same time
        self.epochs = config.epochs
        self.train_images = train_images
        self.console = Console(soft_wrap=True, highlight=False)
        self.started = self.printed = 0.0
        self.images = 0
        self.epoch = 0
        self.last = ""
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(self.title, total=None, status="")

    def __enter__(self) -> None:
        self.started = self.printed = time.monotonic()
        self.bar.start()
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_other)  # our own lines are printed here

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()
        for handler in logging.getLogger().handlers:
            handler.removeFilter(_is_other)

    def epoch_starts(self, epoch: int, seeds: int) -> None:
        """Called with the epoch from 0, and how many seeds are trained at the same time."""
        self.seeds = seeds
        left = (self.epochs - epoch) * self.train_images * seeds  # a resumed run has less to do
        self.bar.update(self.task, total=self.images + left)
        self.epoch = epoch + 1

    def images_done(self, images: int) -> None:
        """Called after each optimiser step with the number of its images."""
        self.images += images
        status = f"epoch {self.epoch}/{self.epochs} {self.last}{self.images_per_s():,.0f} images/s"
        self.bar.update(self.task, completed=self.images, status=status)
        if time.monotonic() - self.printed > LINE_EVERY_S:
            total = self.train_images * self.seeds
            done = (self.images - 1) % total + 1
            self._line(f"{self.title} {status}, {done:,} of {total:,} images")

    def images_per_s(self) -> float:
        """Images trained on a second since the run was started, evaluation included."""
        return self.images / max(time.monotonic() - self.started, 1e-9)

    def epoch_done(self, seed: int, row: Row) -> None:
        """Called with the row of a seed's epoch that has just ended."""
        last = f"lr {row['learning_rate']:.4g} loss {row['train_loss']:.3f}"
        last += f" train error {row['train_error_pct']:.2f} %"
        for column, error in row.items():
            if column.endswith(TESTED) and error is not None:
                name = column.removesuffix(TESTED)
                last += f" {CALLED.get(name, name.rstrip('_'))} {error:.2f} %"
        self.last = f"{last} "
        images = (self.epochs - row["epoch"]) * self.train_images * self.seeds
        left = images / max(self.images_per_s(), 1e-9)
        line = f"{self.run} seed {seed} epoch {row['epoch']}/{self.epochs} {self.last}"
        line += f"{self.train_images / row['train_seconds']:,.0f} images/s {duration(left)} left"
        log.info("%s", line)
        self._line(line)

    def _line(self, text: str) -> None:
        self.printed = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(text)


def _is_other(record: logging.LogRecord) -> bool:
    return record.name != log.name
