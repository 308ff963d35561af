"""The command swa-status: what is done, running, failed and missing, from what is on disk alone.

Other machines may be training meanwhile: nothing is imported that computes, nothing is changed.
"""

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hydra
from tabulate import tabulate

from swa_bench.config import schema as configs
from swa_bench.config.plan import divergence, make_plan
from swa_bench.labels import PAPER_COLUMNS, PAPER_DATASETS, PAPER_MODELS
from swa_bench.results import locks as processes
from swa_bench.results import record as records
from swa_bench.training.progress import duration

SEEDS = (0, 1, 2)
METHODS = ("swa", "sgd")


@dataclass
class Walk:
    """One run folder.

    Attributes:
        method: and the seed, from the folder's name.
        epochs: rows of epochs.csv.
        seconds: median time of an epoch, None before the first.
        budgets: of the cells that are recorded.
        process: that trains it now, None if none does.
        failed: whether its last try left a traceback.
    """

    folder: Path
    method: str
    seed: int
    epochs: int
    seconds: float | None
    budgets: list[float]
    process: str | None
    failed: bool


@dataclass
class Row:
    """The walks of one data set and model."""

    dataset: str
    model: str
    walks: list[Walk] = field(default_factory=list)

    def done(self, cells: Sequence[tuple[str, float]] = PAPER_COLUMNS) -> int:
        """How many of the row's cells of the grid's seeds are recorded, in whatever arithmetic."""
        found = {(w.method, b, w.seed) for w in self.walks for b in w.budgets}
        return sum((*cell, seed) in found for cell in cells for seed in SEEDS)

    def running(self) -> list[Walk]:
        """Walks that a process trains now."""
        return [walk for walk in self.walks if walk.process]

    def failed(self) -> list[Walk]:
        """Walks whose last try failed, and that nobody tries again."""
        return [walk for walk in self.walks if walk.failed and not walk.process]

    def epochs_left(self, lengths: dict[str, int], shared: int) -> int:
        """Epochs that the grid still has to train, those that two methods share counted once.

        Args:
            lengths: epochs of the grid's run of each of the two methods.
            shared: after how many epochs they part.
        """
        left = 0
        for seed in SEEDS:
            done = []
            for method, length in lengths.items():
                walks = [w.epochs for w in self.walks if (w.method, w.seed) == (method, seed)]
                done.append(min(length, max(walks, default=0)))
            left += sum(lengths.values()) - shared - (sum(done) - min(*done, shared))
        return left

    def epoch_seconds(self) -> float | None:
        """Median time of an epoch over the walks, wherever they ran."""
        known = [walk.seconds for walk in self.walks if walk.seconds is not None]
        return statistics.median(known) if known else None


def read_row(results: Path, dataset: str, model: str) -> Row:
    """What is on disk of one data set and model."""
    row = Row(dataset, model)
    for folder in sorted((results / dataset / model).glob("*-seed*-*")):
        method, seed, _ = folder.name.rsplit("-", 2)
        walk = _read_walk(folder, method, int(seed.removeprefix("seed")))
        row.walks.append(walk)
    return row


def _read_walk(folder: Path, method: str, seed: int) -> Walk:
    seconds = []
    path = folder / "epochs.csv"
    if path.exists():
        with path.open(newline="") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    cells = [records.read_cell(path) for path in sorted(folder.glob("cell-*.json"))]
    return Walk(
        folder,
        method,
        seed,
        epochs=len(seconds),
        seconds=statistics.median(seconds) if seconds else None,
        budgets=[cell["budget"] for cell in cells if cell is not None],
        process=processes.is_running(folder),
        failed=(folder / processes.TRACEBACK).exists(),
    )


def grid_lengths(dataset: str, model: str) -> tuple[dict[str, int], int]:
    """Epochs of the grid's run of each method, and after how many of them the two part."""
    configs.register()
    plans = {}
    with hydra.initialize_config_module("swa_bench.conf", version_base="1.3"):
        for method in METHODS:
            choice = [f"dataset={dataset}", f"model={model}", f"method={method}"]
            cfg = hydra.compose("train", ["+experiment=paper_tables", *choice])
            plans[method] = make_plan(cfg, configs.to_config(cfg))
    shared = divergence(plans["swa"], plans["sgd"])
    assert shared is not None
    return {method: plan.config.epochs for method, plan in plans.items()}, shared


def rows_on_disk(results: Path) -> list[Row]:
    """The grid's rows, and whatever else has been trained."""
    names = [(dataset, model) for dataset in PAPER_DATASETS for model in PAPER_MODELS]
    found = {folder.parent for folder in results.glob("*/*/*-seed*-*")}
    names += sorted({(f.parent.name, f.name) for f in found} - set(names))
    return [read_row(results, *name) for name in names]


def show(rows: list[Row]) -> str:
    """A line a row, then a line for each walk that runs or has failed."""
    lines, total = [], 0.0
    for row in rows:
        in_grid = row.dataset in PAPER_DATASETS and row.model in PAPER_MODELS
        counts = [row.done(), len(row.running()), len(row.failed())]
        if not in_grid:
            cells = sum(len(walk.budgets) for walk in row.walks)
            lines.append([row.dataset, row.model, cells, *counts[1:], "", "", ""])
            continue
        left, seconds = row.epochs_left(*grid_lengths(row.dataset, row.model)), row.epoch_seconds()
        total += left * (seconds or 0)
        cost = "" if not left else "unknown" if seconds is None else duration(left * seconds)
        missing = len(PAPER_COLUMNS) * len(SEEDS) - counts[0]
        lines.append([row.dataset, row.model, *counts, missing, left, cost])
    header = ["data set", "model", "cells done", "running", "failed", "missing", "epochs", "time"]
    text = [tabulate(lines, header, "simple")]
    for row in rows:
        text += [_running_line(row, walk) for walk in row.running()]
        text += [f"failed: see {walk.folder / processes.TRACEBACK}" for walk in row.failed()]
    text.append(f"Time left where the speed is known: {duration(total)} of one device")
    return "\n".join(text)


def _running_line(row: Row, walk: Walk) -> str:
    name = f"{row.dataset} {row.model} {walk.method} seed {walk.seed}"
    path = walk.folder / "epochs.csv"
    age = ""
    if path.exists():
        age = f", the last {duration(max(0.0, time.time() - path.stat().st_mtime))} ago"
    return f"running: {name}, {walk.epochs} epochs done{age} ({walk.process})"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command swa-status."""
    parser = argparse.ArgumentParser("swa-status", description=__doc__)
    parser.add_argument("--results", default="results/runs", metavar="FOLDER", help="%(default)s")
    options = parser.parse_args(arguments)
    folder = Path(options.results)
    if not folder.is_dir():
        sys.exit(f"swa-status: --results {folder}: no such folder; nothing has been trained there")
    print(show(rows_on_disk(folder)))
