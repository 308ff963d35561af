"""What the jobs of a sweep differ in, and the tables at its end."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from swa_bench.labels import LABELS, column_label, in_order, recipe_text
from swa_bench.reporting.layout import Recipes, Table
from swa_bench.reporting.tables import tables_of_runs
from swa_bench.results.record import Record
from swa_bench.results.references import Estimate

# Options that the layout of the paper's tables shows.
IN_LAYOUT = ("dataset", "model", "method", "budget", "seed")


class Cell(NamedTuple):
    """What a run reports at one budget, whatever its seed."""

    dataset: str
    model: str
    method: str
    recipe_hash: str
    budget: float


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its options as they were typed, and what it reports."""

    overrides: list[str]
    cells: list[Cell] = field(default_factory=list)

    def options(self) -> dict[str, str]:
        """Its options by name."""
        pairs = (override.lstrip("+").partition("=") for override in self.overrides)
        return {name: value for name, equals, value in pairs if equals}

    def longest(self) -> list[Cell]:
        """The cell of the longest budget of each method."""
        by_budget = sorted(self.cells, key=lambda cell: cell.budget)
        return list({cell.method: cell for cell in by_budget}.values())


def cell_of(record: Record) -> Cell:
    """The cell of a record."""
    return Cell(*(getattr(record, name) for name in Cell._fields))


def swept(jobs: Sequence[Job]) -> list[str]:
    """The options in which the jobs differ, in the order in which they were typed."""
    options = [job.options() for job in jobs]
    names = dict.fromkeys(name for one in options for name in one)
    return [name for name in names if len({one.get(name) for one in options}) > 1]


def tables_of_jobs(records: Iterable[Record], jobs: Sequence[Job]) -> list[Table]:
    """The tables of a sweep: with its options as columns, or else in the layout of the paper's."""
    if set(swept(jobs)) - set(IN_LAYOUT):
        return [sweep_table(records, jobs)] if any(job.cells for job in jobs) else []
    return tables_of_rows(records, [cell for job in jobs for cell in job.cells])


def tables_of_rows(records: Iterable[Record], cells: Iterable[Cell]) -> list[Table]:
    """The tables of test errors, of the rows to which some cells belong."""
    records, wanted = list(records), {cell[:-1] for cell in cells}
    rows = [_row(record) for record in records if cell_of(record)[:-1] in wanted]
    records = [record for record in records if _row(record) in rows]
    tables = []
    for dataset in in_order(record.dataset for record in records):
        of_dataset = [record for record in records if record.dataset == dataset]
        models = in_order((record.model for record in of_dataset), tuple(LABELS))
        tables += tables_of_runs(of_dataset, models)
    return tables


def _row(record: Record) -> tuple[str, str, dict[str, object]]:
    return record.dataset, record.model, record.recipe_diff


def sweep_table(records: Iterable[Record], jobs: Sequence[Job]) -> Table:
    """A line for each combination of the swept options, the lowest mean test error first.

    A run counts with the longest budget that it reports. What all lines share is in the title.
    """
    records = list(records)
    names = [name for name in swept(jobs) if name not in IN_LAYOUT]
    shown = {cell for job in jobs for cell in job.longest()}
    errors: dict[Cell, dict[int, float]] = {}
    for record in records:
        errors.setdefault(cell_of(record), {})[record.seed] = record.result.test_error_pct
    lines: dict[tuple[str, ...], list[float]] = {}
    for job in jobs:
        values = [job.options().get(name, "-") for name in names]
        for cell in job.longest():
            column = column_label(cell.method, cell.budget)
            place = [LABELS.get(name, name) for name in (cell.dataset, cell.model)]
            lines[*values, *place, column] = list(errors.get(cell, {}).values())
    best_first = sorted(lines.items(), key=lambda line: _mean(line[1]))
    frame = pd.DataFrame(
        [[*line, _estimate(found), str(len(found))] for line, found in best_first],
        columns=[*names, "data set", "model", "run", "test error in %", "n"],
    )
    shared = [name for name in ("data set", "model", "run") if frame[name].nunique() == 1]
    what = ", ".join([*(frame[name][0] for name in shared), "the lowest test error first"])
    frame = frame.drop(columns=shared)
    header = [broken(str(name)) for name in frame]
    notes = ["Mean ± sample standard deviation over n seeds."]
    shown_diffs = (record.recipe_diff for record in records if cell_of(record) in shown)
    above = Recipes(map(recipe_text, shown_diffs)).shared
    return Table("sweep", what, header, frame.to_numpy().tolist(), notes, frame, above)


def broken(name: str) -> str:
    """A name for the head of a column: a long one takes several lines."""
    return name.replace(".", ".\n") if len(name) > 16 else name


def _mean(errors: Sequence[float]) -> float:
    return statistics.mean(errors) if errors else math.inf


def _estimate(errors: Sequence[float]) -> str:
    if not errors:
        return "no runs"
    std = statistics.stdev(errors) if len(errors) > 1 else math.nan
    return Estimate(_mean(errors), std, None).text()
