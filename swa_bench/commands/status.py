"""The command swa-status: the runs on disk and, where it applies, what the grids lack."""

import collections
import shutil
import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from swa_bench.commands.terminal import CommandParser, command, path
from swa_bench.config.grid import Grid, grids
from swa_bench.errors import SwaBenchError
from swa_bench.labels import duration, recipe_options
from swa_bench.results.run_files import OVERRIDES
from swa_bench.results.status import STATES, RowStatus, RunStatus, read_rows

INDENT, NARROWEST = 4, 24  # columns: of what follows a line; of options beside a run
HEADER = "  state      epochs  folder, own options\n"
GO_ON = f"""\
A stopped or failed run goes on from its last checkpoint, if it has one:
  xargs -a FOLDER/{OVERRIDES} -d '\\n' swa-train"""


def swa_status(arguments: Sequence[str] | None = None) -> None:
    """Print what is on disk."""
    description = "Print what is done, running, stopped, failed and missing, from the disk alone."
    parser = CommandParser("swa-status", description=description)
    help_text = "with the runs; by default results/runs, whether or not anything was trained yet"
    parser.add_argument("--results", type=path, metavar="FOLDER", help=help_text)
    usual, *others = grids()
    parser.add_argument(
        "--grid",
        nargs="?",
        choices=[usual, *others, "all"],
        const=usual,
        help="print a grid too, also before any run of it (without a name: %(const)s); those that "
        "have runs are always printed",
    )
    with command("swa-status"):
        options = parser.parse_args(arguments)
        folder = options.results or Path("results/runs")
        if options.results and not folder.is_dir():
            expected = "no such folder; nothing has been trained there"
            raise SwaBenchError(f"--results {folder}: {expected}")
        rows = read_rows(folder)
        print(show_runs(rows, shutil.get_terminal_size().columns) or f"No runs in {folder}.")
        for name, grid in grids().items():
            if options.grid in (name, "all") or any(row.is_in(grid) for row in rows):
                print(f"\n{grid.title}\n\n{show_grid(rows, grid)}")


def show_runs(rows: Iterable[RowStatus], width: int) -> str:
    """A line a run, of at most `width` columns; seeds of one recipe that are done share one."""
    lines, states = [], collections.Counter[str]()
    for row in rows:
        lines += [*_show_row(row, width), ""]
        states.update(run.state for run in row.runs)
    if lines:
        lines.insert(0, HEADER)
    lines.append(", ".join(f"{states[state]} {state}" for state in STATES if states[state]))
    if states["stopped"] or states["failed"]:
        lines += GO_ON.splitlines()
    return "\n".join(lines)


def _show_row(row: RowStatus, width: int) -> list[str]:
    groups: dict[tuple[object, ...], list[RunStatus]] = {}
    for run in sorted(row.runs, key=lambda run: (STATES.index(run.state), run.method, run.seed)):
        alone = run.seed if run.state != "done" else None
        key = (run.state, run.method, run.recipe_hash, run.epochs, alone)
        groups.setdefault(key, []).append(run)
    recipes = [recipe_options(group[0].recipe) for group in groups.values()]
    shared = [option for option in recipes[0] if all(option in one for one in recipes)]
    names = list(map(_name, groups.values()))
    lines = [str(row.runs[0].folder.parent)]
    lines += textwrap.wrap(" ".join(shared), width, initial_indent="  ", subsequent_indent="  ")
    for group, name, recipe in zip(groups.values(), names, recipes, strict=True):
        run = group[0]
        line = f"  {run.state:7} {_epochs(run):>9}  {name:{max(map(len, names))}}"
        own = " ".join(option for option in recipe if option not in shared)
        lines += _with_options(line, own, width)
        if run.state == "running":
            lines += _below(_progress(run), width)
        elif run.state == "failed":
            lines += _below(run.error(), width, max_lines=2)
    return lines


def _name(runs: list[RunStatus]) -> str:
    """The folder of runs that differ in their seed, as a shell expands it: swa-seed{0..2}-a1b2."""
    seeds = [run.seed for run in runs]
    listed = ",".join(map(str, seeds))
    if len(seeds) > 1:
        unbroken = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
        listed = f"{{{seeds[0]}..{seeds[-1]}}}" if unbroken else f"{{{listed}}}"
    return f"{runs[0].method}-seed{listed}-{runs[0].recipe_hash}"


def _epochs(run: RunStatus) -> str:
    """Such as 7/22, or 22 when it is done; an ensemble of runs has none of its own."""
    if run.state == "done":
        return str(run.epochs or "-")
    return f"{run.epochs}/{run.length or '?'}"


def _with_options(line: str, options: str, width: int) -> list[str]:
    """A line with options at its end, or below it where there is no room."""
    left = width - len(line) - 2
    if left < min(NARROWEST, len(options)):
        return [line.rstrip(), *_below(options, width)]
    first, *others = textwrap.wrap(options, left, break_on_hyphens=False) or [""]
    indent = " " * (len(line) + 2)
    return [f"{line}  {first}".rstrip(), *(indent + other for other in others)]


def _below(text: str, width: int, max_lines: int | None = None) -> list[str]:
    lines = textwrap.wrap(
        text, width - INDENT, max_lines=max_lines, placeholder=" ...", break_on_hyphens=False
    )
    return [" " * INDENT + line for line in lines]


def _progress(run: RunStatus) -> str:
    file, age = run.folder / "epochs.csv", ""
    if file.exists():
        age = f"the last epoch {duration(max(0.0, time.time() - file.stat().st_mtime))} ago, "
    return f"{age}{run.process}"


def show_grid(rows: Iterable[RowStatus], grid: Grid) -> str:
    """A line for each row of a grid, and the time that the missing runs will take."""
    found = {(row.dataset, row.model): row for row in rows}
    lines, total, counted = [], 0.0, set[tuple[object, ...]]()
    for experiment in grid.experiments:
        for name in experiment.rows:
            row = found.get(name) or RowStatus(*name, [])
            states = {(*name, *state) for state in row.left(experiment)} - counted
            counted |= states  # those that two experiments share are left once
            left, seconds = len(states), row.epoch_seconds()
            total += left * (seconds or 0)
            time_left = None if seconds is None else left * seconds
            cells = len(experiment.cells)
            done = f"{row.done(experiment)}/{cells}"
            lines.append([experiment.name, *name, done, *epochs_and_time(left, time_left)])
    text = grid_table(lines, "cells")
    if total:
        text += f"\nTime left where the speed is known: {duration(total)} of one device"
    return text


def epochs_and_time(epochs: int, seconds: float | None) -> list[str]:
    """The last two cells of a line: what is left to train, if anything is."""
    time_left = "unknown" if seconds is None else duration(seconds)
    return [str(epochs), time_left if epochs else ""]


def grid_table(lines: Sequence[Sequence[str]], what: str) -> str:
    """Lines of experiment, data set, model, how much is done of `what`, epochs and time left."""
    header = ["\nexperiment", "\ndata set", "\nmodel", f"{what}\ndone", "epochs\nleft"]
    aligned = ("left",) * 3 + ("right",) * 2 + ("left",)
    return tabulate(lines, [*header, "time\nleft"], "simple", colalign=aligned)
