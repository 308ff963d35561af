"""Test errors in the layout of the paper's tables: single networks, and ensembles."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from swa_bench.config.grid import PAPER_COLUMNS, PAPER_DATASETS, PAPER_MODELS
from swa_bench.labels import (
    BUDGET_EPOCHS,
    DEMONSTRATIONS,
    ENSEMBLES,
    LABELS,
    Column,
    column_label,
    columns_in_order,
    in_order,
    signed,
)
from swa_bench.reporting.layout import Recipes, Table, labelled_rows, titled
from swa_bench.results.frames import COLUMN
from swa_bench.results.statistics import SIGNIFICANCE, estimate, published

ERRORS = "test error in %, mean ± sample standard deviation over n seeds"
BESIDE = (("swa_fge", 1.0), ("swa", 1.0), ("sgd", 1.0))  # single networks beside the ensembles

NOTES = {
    "demonstration": (
        "Small nets and subsets show how the project works; the paper has no such row."
    ),
    "published": (
        "Published: the authors' repository (the paper's figures where it has them), n=3. Welch: "
        f"two-sided t-test with unequal variances of ours against the published mean, standard "
        f"deviation and n; 'agrees' means p >= {SIGNIFICANCE:g}; otherwise 'lower' and 'higher' "
        "say where our error lies."
    ),
    "preresnet110": (
        "PreResNet110 is compared with the authors' PreResNet110 row, which is not in the paper, "
        "and PreResNet164 with the paper's ResNet-164 row: the authors' first code called the net "
        "of 18 bottleneck blocks a stage PreResNet110, though its depth is 164; they renamed it "
        "and added the row of the true depth 110 on 2018-07-05."
    ),
    "preresnet187": (
        "1.25 budgets of 150 epochs are 187 here (187.5 rounded down); the authors evaluated every "
        "5th epoch, so theirs is 185 or 190."
    ),
    "ensembles": (
        "Independent, Snapshot and FGE: the mean softmax output of all members. k budgets are k "
        "runs of one budget each, and n counts disjoint groups of k seeds. SWA of FGE: one "
        "network, the average of the weights of FGE's members."
    ),
    "fge": (
        "Published Independent and FGE: the FGE authors' repository, which does not say n, so "
        "there is no test; its CIFAR-100 accuracies have one decimal."
    ),
    "fge_budget": (
        "The budget of the published Independent and FGE is 200 epochs for every net; ours of "
        "PreResNet164 is 150, so their lengths differ."
    ),
    "imagenet": (
        "Top-1 error. Published: the paper, as public pages quote it; Welch: two-sided t-test with "
        "unequal variances, where n is known. The batch, the length of a cycle and its rates were "
        "not published: they are this project's choice, and a difference may come from them. "
        "Before: the pretrained network; seeds with the same weights are one measurement."
    ),
    "draft": "(draft): in an HTML comment of that repository's README, not shown to its readers.",
}


def single_table(
    dataset: str,
    summary: pd.DataFrame,
    recipes: Recipes,
    models: Sequence[str] = (),
    whole: bool = True,
) -> Table:
    """Lay a data set's single networks out as the paper does: one column per method and budget.

    Args:
        models: the rows; by default the paper's and all that have runs.
        whole: whether a data set of the paper's has the paper's rows and columns without runs too.
    """
    part = summary[(summary["dataset"] == dataset) & ~summary["ensemble"]]
    whole = whole and dataset in PAPER_DATASETS
    found = _columns(part)
    columns = [column for column in PAPER_COLUMNS if whole or column in found]
    columns += columns_in_order(found - set(PAPER_COLUMNS))
    budgets_named = {method for method, budget in columns if budget != 1.0}
    of_other_length = part["recipe_diff"].str.contains("model.budget_epochs=").any()
    budget_epochs = None if of_other_length else BUDGET_EPOCHS.get(dataset)
    header = [
        column_label(method, budget, budget_epochs)
        if method in budgets_named
        else LABELS.get(method, method)
        for method, budget in columns
    ]
    models = models or in_order([*PAPER_MODELS * whole, *part["model"]], PAPER_MODELS)
    notes = ["published", *["preresnet110", "preresnet187"] * ("preresnet110" in models)]
    return _table(dataset, "", header, part, recipes, columns, models, notes)


def ensembles_table(
    dataset: str,
    summary: pd.DataFrame,
    recipes: Recipes,
    models: Sequence[str] = (),
    whole: bool = True,
) -> Table:
    """Lay a data set's ensembles out, beside single networks of one budget.

    Args:
        models: the rows; by default all that have a run or a published figure.
        whole: whether there are rows and columns that have only published figures.
    """
    part = summary[summary["dataset"] == dataset]
    own = part[part["ensemble"] | (part["method"] == "swa_fge")]
    part = part.merge(own[["model", "recipe_diff"]].drop_duplicates())
    shown = {*own["model"], *models}
    theirs = {
        key: figure
        for key, figure in published().items()
        if key[0] == dataset and (whole or (key[1] in shown and key[2:] in _columns(part)))
    }
    of_ensembles = [key for key in theirs if key[2] in ENSEMBLES]
    models = models or in_order([*(key[1] for key in of_ensembles), *own["model"]], PAPER_MODELS)
    found = _columns(part[part["ensemble"]]) | {key[2:] for key in of_ensembles}
    known = _columns(part) | {key[2:] for key in theirs}
    columns = columns_in_order(found, ENSEMBLES)
    columns += [column for column in BESIDE if column in known]
    notes = ["ensembles", "published", "fge"]
    if any(key[1] == "preresnet164" for key in of_ensembles) and "preresnet164" in models:
        notes.append("fge_budget")
    if any(theirs[key].draft for key in of_ensembles):
        notes.append("draft")
    header = [column_label(*column) for column in columns]
    return _table(dataset, "ensembles", header, part, recipes, columns, models, notes)


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
    notes: Sequence[str],
) -> Table:
    """A table of test errors, ours and published; `notes` are keys of NOTES."""
    found, letters = labelled_rows(part, recipes, models)
    lines = [line for row in found for line in _row_lines(dataset, *row, columns)]
    if dataset not in PAPER_DATASETS:
        notes = [note for note in notes if note == "ensembles"]
        notes += ["demonstration"] * (dataset in DEMONSTRATIONS)
        notes += ["imagenet"] * (dataset == "imagenet")
    elif not any("published" in line[1] for line in lines):
        notes = [note for note in notes if note == "ensembles"]
    said = [NOTES[note] for note in notes]
    if dataset in PAPER_DATASETS and part.empty:
        said.append("No runs yet.")
    shown = part[pd.MultiIndex.from_frame(part[COLUMN]).isin(columns)]
    title = titled(dataset, f"{', ' * bool(kind)}{kind}: {ERRORS}")
    name = f"{dataset}{'-' * bool(kind)}{kind}"
    frame = shown.drop(columns="ensemble")
    above = recipes.shared if len(part) else ""
    return Table(name, title, ["", "", *header], lines, said, frame, above, letters)


def _row_lines(
    dataset: str, model: str, label: str, cells: pd.DataFrame, columns: Sequence[Column]
) -> list[list[str]]:
    """The lines of one row: ours and, where something is published, the comparison."""
    ours = {(cell["method"], cell["budget"]): cell for cell in cells.to_dict("records")}
    theirs = [published().get((dataset, model, *column)) for column in columns]
    lines = [["ours"], ["published"], ["difference"], ["Welch"]]
    for column, figure in zip(columns, theirs, strict=True):
        cell = ours.get(column)
        compared = _comparison(cell) if cell and figure else ["-", "-"]
        said = [str(estimate(cell)) if cell else "no runs", str(figure or "-"), *compared]
        for line, text in zip(lines, said, strict=True):
            line.append(text)
    shown = lines if any(theirs) else lines[:1]
    return [[label if line is lines[0] else "", *line] for line in shown]


def _comparison(cell: Mapping[Hashable, Any]) -> list[str]:
    """Difference from the published mean, and the verdict of the test."""
    tested = f", p={cell['p_value']:.2g}" * (not math.isnan(cell["p_value"]))
    return [signed(cell["difference"]), f"{cell['verdict']}{tested}"]
