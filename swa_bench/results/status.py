"""What is done, running, stopped, failed and missing, only from what is on disk.

Other machines may be training meanwhile: nothing is imported that computes, nothing is changed.
"""

import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from swa_bench.config.grid import Experiment, Grid, grids
from swa_bench.labels import plain_recipe
from swa_bench.results.epochs import Row, read_epochs
from swa_bench.results.foreign import read_file
from swa_bench.results.locks import TRACEBACK, is_running
from swa_bench.results.record import Record, read_records
from swa_bench.results.run_files import Options, read_options
from swa_bench.text import CONTROL, printable

RUN = re.compile(r"(\w[\w.-]*)-seed(\d{1,18})-(\w+)", re.ASCII)  # the name of a run's folder
State = Literal["running", "failed", "stopped", "done"]
STATES: tuple[State, ...] = get_args(State)


@dataclass
class RunStatus:
    """One run folder.

    Attributes:
        method: and the seed and recipe hash, from the folder's name.
        rows: of epochs.csv.
        process: that trains it now, None if none does.
        traceback: of its last attempt, None if that did not fail.
        options: None for a run of an earlier version.
    """

    folder: Path
    method: str
    seed: int
    recipe_hash: str
    rows: list[Row]
    records: list[Record]
    process: str | None
    traceback: Path | None
    options: Options | None

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(self.rows)

    @property
    def length(self) -> int | None:
        """How many it is to do; None if that is not known."""
        recorded = max((record.epochs or 0 for record in self.records), default=0)
        return max(recorded, self.options.epochs if self.options else 0) or None

    @property
    def passes(self) -> int | None:
        """How many it does, by its length and by what it has done; None if that is not known."""
        return self.length and max(self.length, self.epochs)

    @property
    def epoch_seconds(self) -> float | None:
        """Median time of an epoch, None before the first."""
        seconds = [row["seconds"] for row in self.rows if row["seconds"] is not None]
        return statistics.median(seconds) if seconds else None

    @property
    def state(self) -> State:
        """Done is what has a record of its last epoch."""
        if self.process:
            return "running"
        if self.traceback:
            return "failed"
        recorded = [record.epochs or self.epochs for record in self.records]
        done = max(recorded, default=-1) >= max(self.epochs, self.length or 0)
        return "done" if done else "stopped"

    @property
    def recipe(self) -> str:
        """The options in which it differs from the published recipe; "" if they are not known."""
        if self.records:
            return self.records[-1].recipe
        return self.options.differs if self.options else ""

    def error(self) -> str:
        """The last line of a failed run's traceback, without the module of its exception."""
        assert self.traceback is not None
        try:
            lines = read_file(self.traceback).decode(errors="replace").split("\n")
        except (OSError, ValueError) as error:
            return str(error)
        last = next((line for line in reversed(lines) if line.strip()), "")
        return str(printable(re.sub(r"^(\w+\.)+(?=\w+(:|$))", "", last)))


@dataclass
class RowStatus:
    """The runs of one data set and model."""

    dataset: str
    model: str
    runs: list[RunStatus]

    def is_in(self, grid: Grid) -> bool:
        """Whether it has runs of a grid's experiments."""
        return any(self.runs_of(experiment) for experiment in grid.experiments)

    def runs_of(self, experiment: Experiment) -> list[RunStatus]:
        """The runs of an experiment, in its recipe and any precision."""
        if (self.dataset, self.model) not in experiment.rows:
            return []
        row = self.dataset, self.model
        methods = experiment.methods + experiment.members
        recipes = {method: experiment.recipe(*row, method) for method in methods}
        return [run for run in self.runs if recipes.get(run.method) == plain_recipe(run.recipe)]

    def done(self, experiment: Experiment) -> int:
        """Number of an experiment's records."""
        runs = self.runs_of(experiment)
        found = {(run.method, one.budget, run.seed) for run in runs for one in run.records}
        return len(found.intersection(experiment.cells))

    def left(self, experiment: Experiment) -> set[tuple[int, int]]:
        """Seed and state of each epoch that an experiment still has to train."""
        row = self.dataset, self.model
        done = {
            (run.seed, state)
            for run in self.runs_of(experiment)
            for state in experiment.states(*row, run.method, run.passes)[: run.epochs]
        }
        return experiment.epochs(*row) - done

    def epoch_seconds(self) -> float | None:
        """Median time of an epoch over the runs, wherever they ran."""
        known = [run.epoch_seconds for run in self.runs if run.epoch_seconds is not None]
        return statistics.median(known) if known else None


def read_rows(results: Path) -> list[RowStatus]:
    """All that has been trained, the rows of grids last."""
    found = {folder.parent for folder in results.glob("*/*/*-seed*-*") if _names_run(folder)}
    names = sorted((folder.parent.name, folder.name) for folder in found)
    rows = [read_row(results, *name) for name in names]
    return sorted(rows, key=lambda row: any(map(row.is_in, grids().values())))


def read_row(results: Path, dataset: str, model: str) -> RowStatus:
    """What is on disk of one data set and model."""
    folders = sorted(filter(_names_run, (results / dataset / model).glob("*-seed*-*")))
    return RowStatus(dataset, model, list(map(_read_run, folders)))


def _names_run(folder: Path) -> bool:
    """Whether a path below the results is the folder of a run."""
    names_row = not any(map(CONTROL.search, folder.parts[-3:-1]))
    return names_row and RUN.fullmatch(folder.name) is not None and folder.is_dir()


def _read_run(folder: Path) -> RunStatus:
    named, traceback = RUN.fullmatch(folder.name), folder / TRACEBACK
    assert named is not None
    return RunStatus(
        folder,
        method=named[1],
        seed=int(named[2]),
        recipe_hash=named[3],
        rows=read_epochs(folder / "epochs.csv"),
        records=read_records([folder]),
        process=is_running(folder),
        traceback=traceback if traceback.exists() else None,
        options=read_options(folder),
    )
