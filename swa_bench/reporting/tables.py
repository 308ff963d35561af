"""Summaries of records -> tables in the layout of the paper's, in four formats.

Nothing here imports torch. `swa-tables --help` lists the command's options.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from swa_bench.commands import errors_in_one_line, find_records, records_options
from swa_bench.files import write_atomically
from swa_bench.labels import (
    DEMONSTRATIONS,
    ENSEMBLES,
    LABELS,
    PAPER_COLUMNS,
    PAPER_DATASETS,
    PAPER_MODELS,
    Column,
    column_label,
    columns_in_order,
    in_order,
)
from swa_bench.reporting.calibration import calibration_table
from swa_bench.reporting.copies import copies_table
from swa_bench.reporting.layout import Table, labelled_rows, signed, titled
from swa_bench.results.record import Record
from swa_bench.results.statistics import SIGNIFICANCE, Cell, cells_frame, published, summarise

ERRORS = "test error in %, mean ± sample standard deviation over n seeds"
COMPARED = (("swa_fge", 1.0), ("swa", 1.0), ("sgd", 1.0))  # single networks beside the ensembles

NOTES = {
    "demonstration": (
        "Small nets and subsets show how the project works; the paper has no such row."
    ),
    "published": (
        "Published: the authors' repository (the paper's figures where it has them), n=3. Welch: "
        f"two-sided t-test with unequal variances of ours against the published mean, standard "
        f"deviation and n; 'agrees' is p >= {SIGNIFICANCE:g}, 'lower' and 'higher' say where our "
        "error lies otherwise."
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
        "PreResNet164 is 150, so there the lengths are not equal."
    ),
    "draft": "(draft): in an HTML comment of that repository's README, not shown to its readers.",
}


def make_tables(records: list[Record]) -> list[Table]:
    """All tables of each data set: single networks, ensembles, calibration, copies.

    Raises:
        SwaBenchError: an epochs.csv is damaged.
    """
    frame = cells_frame(records)
    summary = summarise(frame)
    tables = []
    for dataset in datasets_of(summary):
        tables += [make_table(dataset, summary), make_ensembles_table(dataset, summary)]
        tables += [calibration_table(dataset, frame), copies_table(dataset, records)]
    return [table for table in tables if table.rows]


def tables_of_runs(dataset: str, summary: pd.DataFrame, models: Sequence[str] = ()) -> list[Table]:
    """The table of single networks and that of ensembles, each if it has runs."""
    found = set(summary[summary["dataset"] == dataset]["ensemble"])
    kinds = {False: make_table, True: make_ensembles_table}
    return [make(dataset, summary, models) for kind, make in kinds.items() if kind in found]


def make_table(dataset: str, summary: pd.DataFrame, models: Sequence[str] = ()) -> Table:
    """Lay a data set's single networks out as the paper does: a column a method and budget.

    Args:
        summary: of `summarise`.
        models: the rows; by default the paper's and all that have runs.
    """
    part = summary[(summary["dataset"] == dataset) & ~summary["ensemble"]]
    columns = [*PAPER_COLUMNS, *columns_in_order(_columns(part) - set(PAPER_COLUMNS))]
    budgets_named = {method for method, budget in columns if budget != 1.0}
    header = [
        column_label(method, budget) if method in budgets_named else LABELS.get(method, method)
        for method, budget in columns
    ]
    paper = PAPER_MODELS if dataset in PAPER_DATASETS else ()
    models = models or in_order([*paper, *part["model"]], PAPER_MODELS)
    notes = ["published", *["preresnet110", "preresnet187"] * ("preresnet110" in models)]
    return _table(dataset, "", header, part, columns, models, notes)


def make_ensembles_table(dataset: str, summary: pd.DataFrame, models: Sequence[str] = ()) -> Table:
    """Lay a data set's ensembles out, beside single networks of one budget.

    Its columns and rows are those that have a run or a published figure.

    Args:
        summary: of `summarise`.
        models: the rows; by default all that have one.
    """
    part = summary[summary["dataset"] == dataset]
    theirs = {key: cell for key, cell in published().items() if key[0] == dataset}
    of_ensembles = [key for key in theirs if key[2] in ENSEMBLES]
    own = part[part["ensemble"] | (part["method"] == "swa_fge")]
    with_runs = set(zip(own["model"], own["variant"], strict=True))
    part = part.loc[[key in with_runs for key in zip(part["model"], part["variant"], strict=True)]]
    models = models or in_order([*(key[1] for key in of_ensembles), *own["model"]], PAPER_MODELS)
    found = _columns(part[part["ensemble"]]) | {key[2:] for key in of_ensembles}
    columns = columns_in_order(found, ENSEMBLES)
    known = _columns(part) | {key[2:] for key in theirs}
    columns += [column for column in COMPARED if column in known]
    notes = ["ensembles", "published", "fge"]
    if any(key[1] == "preresnet164" for key in of_ensembles) and "preresnet164" in models:
        notes.append("fge_budget")
    if any(theirs[key].draft for key in of_ensembles):
        notes.append("draft")
    header = [column_label(*column) for column in columns]
    return _table(dataset, "ensembles", header, part, columns, models, notes)


def _columns(part: pd.DataFrame) -> set[Column]:
    return set(zip(part["method"], part["budget"], strict=True))


def _table(
    dataset: str,
    kind: str,
    header: list[str],
    part: pd.DataFrame,
    columns: Sequence[Column],
    models: Sequence[str],
    notes: Sequence[str],
) -> Table:
    """A table of test errors, ours and published.

    Args:
        notes: keys of NOTES, for a data set of the paper's.
    """
    figures = published()
    found, letters = labelled_rows(part, models)
    rows = [
        line
        for model, label, cells in found
        for line in _model_rows(dataset, model, label, cells, columns, figures)
    ]
    if dataset not in PAPER_DATASETS:
        notes = [note for note in notes if note == "ensembles"]
        notes += ["demonstration"] * (dataset in DEMONSTRATIONS)
    said = [*letters, *(NOTES[note] for note in notes)]
    if dataset in PAPER_DATASETS and part.empty:
        said.append("No runs yet.")
    shown = part.loc[
        [column in columns for column in zip(part["method"], part["budget"], strict=True)]
    ]
    title = titled(dataset, f"{', ' * bool(kind)}{kind}: {ERRORS}")
    name = f"{dataset}{'-' * bool(kind)}{kind}"
    return Table(name, title, ["", "", *header], rows, said, shown.drop(columns="ensemble"))


def _model_rows(
    dataset: str,
    model: str,
    label: str,
    cells: pd.DataFrame,
    columns: Sequence[Column],
    figures: dict[tuple[str, str, str, float], Cell],
) -> list[list[str]]:
    """The lines of one model: ours and, where something is published, the comparison."""
    lines: dict[str, list[str]] = {"ours": [], "published": [], "difference": [], "Welch": []}
    for method, budget in columns:
        at = cells[(cells["method"] == method) & (cells["budget"] == budget)]
        theirs = figures.get((dataset, model, method, budget))
        lines["published"].append(str(theirs) if theirs else "-")
        if at.empty:
            lines["ours"].append("no runs")
            lines["difference"].append("-")
            lines["Welch"].append("-")
            continue
        row = at.iloc[0]
        lines["ours"].append(str(Cell(row["error_mean"], row["error_std"], int(row["n"]))))
        compared = theirs is not None
        lines["difference"].append(signed(row["difference"]) if compared else "-")
        tested = compared and not math.isnan(row["p_value"])
        verdict = f"{row['verdict']}, p={row['p_value']:.2g}" if tested else row["verdict"]
        lines["Welch"].append(verdict if compared else "-")
    if not any((dataset, model, *column) in figures for column in columns):
        lines = {"ours": lines["ours"]}
    return [
        [label if index == 0 else "", name, *line]
        for index, (name, line) in enumerate(lines.items())
    ]


def write_tables(records: list[Record], folder: Path) -> list[Table]:
    """Write each table as .txt, .md, .csv and .tex, and return the tables.

    Raises:
        SwaBenchError: a file could not be written, or an epochs.csv is damaged.
    """
    tables = make_tables(records)
    for table in tables:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", table.name)  # a record may come from anybody
        texts = {
            "txt": table.text(),
            "md": table.markdown(),
            "csv": table.csv(),
            "tex": table.latex(),
        }
        for suffix, text in texts.items():
            write_atomically(folder / f"{name}.{suffix}", text.encode())
    return tables


def datasets_of(summary: pd.DataFrame) -> list[str]:
    """The data sets that have runs, or the paper's if none has."""
    found = list(summary["dataset"].unique())
    known = [dataset for dataset in PAPER_DATASETS if dataset in found]
    return known + [d for d in found if d not in known] or list(PAPER_DATASETS)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command swa-tables."""
    options = records_options("swa-tables", "Turn records into tables.", arguments)
    with errors_in_one_line("swa-tables"):
        records, where = find_records(options.records)
        tables = write_tables(records, Path(options.out))
    for table in tables:
        print(table.text())
    print(f"{len(records)} records from {where}; tables in {options.out}/ as .txt .md .csv .tex")
