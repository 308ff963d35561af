"""Test errors in the layout of the paper's tables: single networks, and ensembles."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from swa_bench.config.grid import models_in_order, paper_columns, paper_models, usual_columns
from swa_bench.labels import (
    BUDGET_EPOCHS,
    ENSEMBLES,
    LABELS,
    Column,
    column_label,
    columns_in_order,
    signed,
)
from swa_bench.reporting.layout import Recipes, Table, labelled_rows, titled
from swa_bench.reporting.notes import notes_of
from swa_bench.results.frames import COLUMN
from swa_bench.results.references import Reference, published
from swa_bench.results.statistics import COMPARISON, estimate

ERRORS = "test error in %, mean ± sample standard deviation over n seeds"
BESIDE = (("swa_fge", 1.0), ("swa", 1.0), ("sgd", 1.0))  # single networks beside the ensembles


def single_table(
    dataset: str,
    summary: pd.DataFrame,
    recipes: Recipes,
    models: Sequence[str] = (),
    whole: bool = True,
    reference: Reference | None = None,
) -> Table:
    """Lay a data set's single networks out as the paper does: one column per method and budget.

    Args:
        models: the rows; by default the paper's and all that have runs.
        whole: whether the rows and columns of the paper's table are shown without runs too.
        reference: that `summary` is compared with; by default the published figures.
    """
    part = summary[(summary["dataset"] == dataset) & ~summary["ensemble"]]
    found, paper = _columns(part), paper_columns(dataset)
    first = paper or usual_columns(found)
    columns = [column for column in first if (whole and paper) or column in found]
    columns += columns_in_order(found - set(first))
    budgets_named = {method for method, budget in columns if budget != 1.0}
    of_other_length = part["recipe_diff"].str.contains("model.budget_epochs=").any()
    budget_epochs = None if of_other_length else BUDGET_EPOCHS.get(dataset)
    header = [
        column_label(method, budget, budget_epochs)
        if method in budgets_named
        else LABELS.get(method, method)
        for method, budget in columns
    ]
    models = models or models_in_order([*paper_models(dataset) * whole, *part["model"]])
    reference = reference or published()
    return _table(dataset, "", header, part, recipes, columns, models, reference)


def ensembles_table(
    dataset: str,
    summary: pd.DataFrame,
    recipes: Recipes,
    models: Sequence[str] = (),
    whole: bool = True,
    reference: Reference | None = None,
) -> Table:
    """Lay a data set's ensembles out, beside single networks of one budget.

    Args:
        models: the rows; by default all that have a run or a figure of the reference.
        whole: whether there are rows and columns that have only figures of the reference.
        reference: as above.
    """
    reference = reference or published()
    part = summary[summary["dataset"] == dataset]
    own = part[part["ensemble"] | (part["method"] == "swa_fge")]
    part = part.merge(own[["model", "recipe_diff"]].drop_duplicates())
    shown = {*own["model"], *models}
    theirs = [
        key
        for key in reference.cells()
        if key[0] == dataset and (whole or (key[1] in shown and key[2:] in _columns(part)))
    ]
    of_ensembles = [key for key in theirs if key[2] in ENSEMBLES]
    models = models or models_in_order([*(key[1] for key in of_ensembles), *own["model"]])
    found = _columns(part[part["ensemble"]]) | {key[2:] for key in of_ensembles}
    known = _columns(part) | {key[2:] for key in theirs}
    columns = columns_in_order(found, ENSEMBLES)
    columns += [column for column in BESIDE if column in known]
    header = [column_label(*column) for column in columns]
    return _table(dataset, "ensembles", header, part, recipes, columns, models, reference)


def _columns(part: pd.DataFrame) -> set[Column]:
    return set(zip(part["method"], part["budget"], strict=True))


def _table(
    dataset: str,
    kind: str,
    header: list[str],
    part: pd.DataFrame,
    recipes: Recipes,
    columns: Sequence[Column],
    models: Sequence[str],
    reference: Reference,
) -> Table:
    """A table of test errors, ours and those of the reference, with its notes."""
    found, letters = labelled_rows(part, recipes, models)
    lines = [line for row in found for line in _row_lines(dataset, *row, columns, reference)]
    cells = ((dataset, model, *column) for model in models for column in columns)
    said = notes_of(kind, cells, reference)
    if part.empty and paper_columns(dataset):
        said.append("No runs yet.")
    shown = part[pd.MultiIndex.from_frame(part[COLUMN]).isin(columns)]
    title = titled(dataset, f"{', ' * bool(kind)}{kind}: {ERRORS}")
    name = f"{dataset}{'-' * bool(kind)}{kind}"
    frame = shown.drop(columns="ensemble")
    if reference.note:
        names = {name: name.replace("published", "reference") for name in COMPARISON}
        frame = frame.rename(columns=names)
    above = recipes.shared if len(part) else ""
    return Table(name, title, ["", "", *header], lines, said, frame, above, letters)


def _row_lines(
    dataset: str,
    model: str,
    label: str,
    cells: pd.DataFrame,
    columns: Sequence[Column],
    reference: Reference,
) -> list[list[str]]:
    """The lines of one row: ours and, where there is something to compare with, the comparison."""
    ours = {(cell["method"], cell["budget"]): cell for cell in cells.to_dict("records")}
    recipe = "" if cells.empty else cells["recipe_diff"].iloc[0]
    theirs = [reference.figure((dataset, model, *column), recipe) for column in columns]
    lines = [["ours"], [reference.label], ["difference"], ["Welch"]]
    for column, figure in zip(columns, theirs, strict=True):
        cell = ours.get(column)
        compared = _comparison(cell) if cell and figure else ["-", "-"]
        said = [str(estimate(cell)) if cell else "no runs", str(figure or "-"), *compared]
        for line, text in zip(lines, said, strict=True):
            line.append(text)
    shown = lines if any(theirs) else lines[:1]
    return [[label if line is lines[0] else "", *line] for line in shown]


def _comparison(cell: Mapping[Hashable, Any]) -> list[str]:
    """Difference from the mean of the reference, and the verdict of the test."""
    tested = f", p={cell['p_value']:.2g}" * (not math.isnan(cell["p_value"]))
    return [signed(cell["difference"]), f"{cell['verdict']}{tested}"]
