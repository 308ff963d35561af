"""Records -> tables in four formats."""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from swa_bench.config.grid import paper_datasets
from swa_bench.files import write_atomically, write_over_own
from swa_bench.labels import LABELS, column_label, columns_in_order, in_order
from swa_bench.reporting.error_tables import ensembles_table, single_table
from swa_bench.reporting.gain_table import gain_table
from swa_bench.reporting.layout import TEXT_WIDTH, Recipes, Table, labelled_rows, recipes_of, titled
from swa_bench.results.epochs import TESTED, tested_columns
from swa_bench.results.frames import CELL, METRIC, cells_frame, epochs_frame, rows
from swa_bench.results.record import Record
from swa_bench.results.references import Estimate, Reference
from swa_bench.results.statistics import (
    COLLECTED,
    collected_frame,
    mean_and_std,
    summarise,
)

MEASURES = {"error": 2, "nll": 4, "ece": 2}  # with their decimals
COUNTS = (1, 2, 3, 5, 10, 20, 50, 100)
PREDICTORS = {"swa": "average", "ensemble": "ensemble"}  # what they are called in tables


def make_tables(
    cells: pd.DataFrame,
    epochs: pd.DataFrame,
    whole: Sequence[str] | None = None,
    recipes: Recipes | None = None,
    reference: Reference | None = None,
) -> list[Table]:
    """All tables of each data set: single networks, ensembles, gains, calibration, and more.

    Args:
        whole: data sets of which all of the paper's rows and columns are shown, with or without
            runs; by default those of its tables that have runs.
        recipes: with the letters that the tables use; by default those of `recipes_of`.
        reference: what test errors are compared with; by default the published figures.
    """
    summary, collected = summarise(cells, reference), collected_frame(epochs)
    found = rows(cells, epochs)
    recipes = recipes or recipes_of(cells)
    whole = paper_datasets(cells["dataset"]) if whole is None else whole
    tables = []
    for dataset in in_order(cells["dataset"]) or whole:
        of_errors: dict[str, Any] = {"whole": dataset in whole, "reference": reference}
        tables.append(single_table(dataset, summary, recipes, **of_errors))
        tables.append(ensembles_table(dataset, summary, recipes, **of_errors))
        tables.append(gain_table(dataset, found, recipes))
        tables.append(calibration_table(dataset, cells, recipes))
        tables.append(collected_table(dataset, collected, recipes))
    return [table for table in tables if table.rows]


def tables_of_runs(records: Iterable[Record], models: Sequence[str] = ()) -> list[Table]:
    """The tables of test errors of each data set, with rows of `models`, or of all if it is ()."""
    cells = cells_frame(records)
    shown = cells[cells["model"].isin(models)] if models else cells
    summary, recipes = summarise(shown), recipes_of(shown)
    makers = {False: single_table, True: ensembles_table}
    tables = []
    for dataset in in_order(summary["dataset"]):
        found = set(summary["ensemble"][summary["dataset"] == dataset])
        for kind, make in makers.items():
            tables += [make(dataset, summary, recipes, models)] * (kind in found)
    return tables


def calibration_table(dataset: str, cells: pd.DataFrame, recipes: Recipes) -> Table:
    """Test error, NLL and ECE of each cell of `cells_frame` whose records hold all three."""
    measured = cells[(cells["dataset"] == dataset) & cells["ece"].notna()]
    names = [name for name in map(str, measured) if name.startswith(METRIC)]
    own = [name for name in names if measured[name].notna().any()]
    part = mean_and_std(measured, CELL, [*MEASURES, *own])
    rows, letters = labelled_rows(part, recipes)
    lines = []
    for _, label, of_row in rows:
        by_column = {(c["method"], c["budget"]): c for c in of_row.to_dict("records")}
        for column in columns_in_order(by_column):
            cell = by_column[column]
            figures = [_figure(cell, name, MEASURES.get(name, 4)) for name in [*MEASURES, *own]]
            lines.append([label, column_label(*column), *figures, str(cell["error_count"])])
            label = ""
    title = titled(dataset, ", calibration: mean ± sample standard deviation over n seeds")
    titles = _metric_titles(own)
    header = ["", "", "test error in %", "NLL", "ECE in %", *titles.values(), "n"]
    notes = [
        "NLL: negative log-likelihood (natural logarithm) of the test labels, mean per image.",
        "ECE: expected calibration error of the test images, over 15 bins of the confidence.",
        *(f"{short}: {name.partition(' ')[2]}" for name, short in titles.items()),
    ]
    statistics = ("mean", "std", "count")
    part = part.rename(
        columns={
            f"{old}_{s}": f"{METRIC}{new}_{s}" for old, new in titles.items() for s in statistics
        }
    )
    return Table(
        f"{dataset}-calibration", title, header, lines, notes, part, recipes.shared, letters
    )


def _metric_titles(own: Sequence[str]) -> dict[str, str]:
    """What the columns of the user's metrics are called; of one name, they are numbered."""
    names = [name.partition(" ")[0].removeprefix(METRIC) for name in own]
    return {
        column: f"{name} {names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, (column, name) in enumerate(zip(own, names, strict=True))
    }


def _figure(cell: Mapping[Hashable, Any], name: str, decimals: int) -> str:
    """Mean and deviation of a measure, with its n where not every seed has it."""
    mean, std, n = (cell[f"{name}_{of}"] for of in ("mean", "std", "count"))
    shown = Estimate(mean, std, None).text(decimals) if n else "-"
    return shown if n in (0, cell["error_count"]) else f"{shown} (n={n})"


def collected_table(dataset: str, collected: pd.DataFrame, recipes: Recipes) -> Table:
    """Test error of k collected models (`collected_frame`), for some k, of each method."""
    of_dataset = collected["dataset"] == dataset
    tested = tested_columns(collected)
    shown = collected[of_dataset & collected["n_averaged"].isin(COUNTS)]
    part = mean_and_std(shown, COLLECTED, tested)
    counts = [count for count in COUNTS if count in set(part["n_averaged"])]
    rows, letters = labelled_rows(part, recipes)
    lines = []
    for _, label, of_row in rows:
        for method in in_order(of_row["method"]):
            by_count = of_row[of_row["method"] == method].set_index("n_averaged").to_dict("index")
            for column in tested:
                figures = {
                    count: Estimate(cell[f"{column}_mean"], cell[f"{column}_std"], n)
                    for count, cell in by_count.items()
                    if (n := cell[f"{column}_count"])
                }
                if figures:
                    name = f"{LABELS.get(method, method)}, {predictor_label(column)}"
                    lines.append([label, name, *(str(figures.get(c, "-")) for c in counts)])
                    label = ""
    what = ", averages and ensembles of k collected models: test error in %, mean ± sample "
    what += "standard deviation over n seeds"
    header = ["", "", *(f"k={count}" for count in counts)]
    notes = [
        "Average: one network with the mean of the k models' weights. Ensemble: the mean of "
        "their softmax outputs. '-': not tested; evaluation.average_every sets how often there is "
        "a test.",
    ]
    title = titled(dataset, what)
    return Table(f"{dataset}-collected", title, header, lines, notes, part, recipes.shared, letters)


def predictor_label(column: str) -> str:
    """What is tested in a column of epochs.csv, such as the average in swa_test_error_pct."""
    name = column.removesuffix(TESTED)
    return PREDICTORS.get(name) or LABELS.get(name, name)


def write_tables(
    records: Iterable[Record],
    folder: Path,
    whole: Sequence[str] | None = None,
    reference: Reference | None = None,
) -> list[Table]:
    """Write each of `make_tables` as .txt, .md, .csv and .tex, over no other files; return them."""
    cells = cells_frame(records)
    tables = make_tables(cells, epochs_frame(cells), whole, reference=reference)
    for table in tables:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", table.name)  # a record may come from anybody
        write_over_own(folder / f"{name}.csv", table.csv().encode(), b"dataset,model,recipe_diff")
        write_atomically(folder / f"{name}.txt", table.text(TEXT_WIDTH).encode())
        write_atomically(folder / f"{name}.md", table.markdown().encode())
        write_atomically(folder / f"{name}.tex", table.latex().encode())
    return tables
