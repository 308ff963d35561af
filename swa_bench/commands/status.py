"""The command swa-status: what is done, running, failed and missing in the paper's tables."""

import time
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from swa_bench.commands.terminal import CommandParser, command, path
from swa_bench.errors import SwaBenchError
from swa_bench.labels import duration
from swa_bench.results.status import REPORTS, RowStatus, RunStatus, lengths, read_rows


def swa_status(arguments: Sequence[str] | None = None) -> None:
    """Print what is on disk."""
    description = "Print what is done, running, failed and missing, from what is on disk alone."
    parser = CommandParser("swa-status", description=description)
    help_text = "with the runs; by default results/runs, whether or not anything was trained yet"
    parser.add_argument("--results", type=path, metavar="FOLDER", help=help_text)
    with command("swa-status"):
        folder = parser.parse_args(arguments).results
        if folder and not folder.is_dir():
            expected = "no such folder; nothing has been trained there"
            raise SwaBenchError(f"--results {folder}: {expected}")
        print(show(read_rows(folder or Path("results/runs"))))


def show(rows: Sequence[RowStatus]) -> str:
    """One line per row, then one for each run that is being trained or has failed."""
    lines, total = [], 0.0
    for row in rows:
        line = [row.dataset, row.model, row.done(), len(row.running()), len(row.failed())]
        if row.in_grid:
            left, seconds = row.epochs_left(*lengths(row.dataset, row.model)), row.epoch_seconds()
            total += left * (seconds or 0)
            time_left = "unknown" if seconds is None else duration(left * seconds)
            line += [REPORTS - row.done(), left, time_left if left else ""]
        lines.append(line)
    header = ["data set", "model", "cells done", "running", "failed", "missing", "epochs left"]
    header.append("time left")
    text = [tabulate(lines, header, "simple")]
    for row in rows:
        text += [_running(row, run) for run in row.running()]
        text += [f"failed: see {run.traceback}" for run in row.failed()]
    if total:
        text.append(f"Time left where the speed is known: {duration(total)} of one device")
    return "\n".join(text)


def _running(row: RowStatus, run: RunStatus) -> str:
    path, age = run.folder / "epochs.csv", ""
    if path.exists():
        age = f", the last {duration(max(0.0, time.time() - path.stat().st_mtime))} ago"
    name = f"{row.dataset} {row.model} {run.method} seed {run.seed}"
    return f"running: {name}, {run.epochs} epochs done{age} ({run.process})"
