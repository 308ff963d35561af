"""Summaries of records -> tables in the layout of the paper's, in four formats.

Nothing here imports torch. `swa-tables --help` lists the command's options.
"""

import argparse
import logging
import math
import re
import string
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from .errors import SwaBenchError
from .files import write_atomically
from .records import Record, read_cells
from .summary import SIGNIFICANCE, Cell, cells_frame, published, summarise

PAPER_COLUMNS = (("sgd", 1.0), ("swa", 1.0), ("swa", 1.25), ("swa", 1.5))
PAPER_MODELS = ("vgg16", "preresnet110", "preresnet164", "wrn28_10")
PAPER_DATASETS = ("cifar10", "cifar100")
LABELS = {
    "vgg16": "VGG16",
    "vgg16_bn": "VGG16-BN",
    "vgg19": "VGG19",
    "vgg19_bn": "VGG19-BN",
    "preresnet20": "PreResNet20",
    "preresnet110": "PreResNet110",
    "preresnet164": "PreResNet164",
    "wrn28_10": "WRN-28-10",
    "sgd": "SGD",
    "swa": "SWA",
    "swa_cyclic": "SWA cyclic",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cifar10_mini": "CIFAR-10 mini",
}
DEFAULT_RECORDS = ("results/runs", "results/shipped")

NOTES = {
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
}


@dataclass(frozen=True)
class Table:
    """One data set's table, ready to be printed in any format."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]

    def text(self) -> str:
        """For a terminal."""
        body = tabulate(self.rows, self.header, "simple_outline", disable_numparse=True)
        notes = (textwrap.fill(note, 110, subsequent_indent="  ") for note in self.notes)
        return "\n".join([self.title, body, *notes, ""])

    def markdown(self) -> str:
        """For a README."""
        body = tabulate(self.rows, self.header, "pipe", disable_numparse=True)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"### {self.title}\n\n{body}\n\n{notes}\n"

    def latex(self) -> str:
        """For a paper: needs the package booktabs."""
        body = tabulate(self.rows, self.header, "latex_booktabs", disable_numparse=True)
        body = body.replace("±", r"$\pm$").replace("−", "$-$")
        comments = "\n".join(f"% {line}" for line in (self.title, *self.notes))
        return f"{comments}\n{body}\n"


def make_table(dataset: str, summary: pd.DataFrame, models: Sequence[str] = ()) -> Table:
    """Lay a data set's cells out as the paper does: a model's rows, a column a method and budget.

    Args:
        summary: of `summarise`.
        models: the rows; by default the paper's and all that have runs.
    """
    part = summary[summary["dataset"] == dataset]
    columns = list(PAPER_COLUMNS)
    found = sorted(set(zip(part["method"], part["budget"], strict=True)))
    columns += [column for column in found if column not in columns]
    budgets_named = {method for method, budget in columns if budget != 1.0}
    header = ["", ""] + [
        f"{LABELS.get(method, method)} {budget:g}"
        if method in budgets_named
        else LABELS.get(method, method)
        for method, budget in columns
    ]
    if not models:
        paper = PAPER_MODELS if dataset in PAPER_DATASETS else ()
        models = list(dict.fromkeys([*paper, *part["model"]]))
    figures = published() if dataset in PAPER_DATASETS else {}
    rows: list[list[str]] = []
    variants: dict[str, str] = {}
    for model in models:
        of_model = part[part["model"] == model]
        for variant in sorted(of_model["variant"].unique()) or [""]:
            label = LABELS.get(model, model)
            if variant:
                letter = variants.setdefault(variant, _letter(len(variants)))
                label += f" [{letter}]"
            cells = of_model[of_model["variant"] == variant]
            rows += _model_rows(dataset, model, label, cells, columns, figures)
    return Table(_title(dataset), header, rows, _notes(dataset, models, part, variants))


def _letter(index: int) -> str:
    return string.ascii_lowercase[index] if index < 26 else str(index)


def _title(dataset: str) -> str:
    what = "test error in %, mean ± sample standard deviation over n seeds"
    title = f"{LABELS.get(dataset, dataset)}: {what}"
    if dataset not in PAPER_DATASETS:
        title += " (a demonstration: NOT comparable with the paper)"
    return title


def _model_rows(
    dataset: str,
    model: str,
    label: str,
    cells: pd.DataFrame,
    columns: list[tuple[str, float]],
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


def signed(value: float) -> str:
    """A difference with its sign, as +0.12 or −0.12."""
    return f"{value:+.2f}".replace("-", "−")


def _notes(
    dataset: str, models: Sequence[str], part: pd.DataFrame, variants: dict[str, str]
) -> list[str]:
    notes = [f"[{letter}] {variant}" for variant, letter in variants.items()]
    if dataset not in PAPER_DATASETS:
        return [
            *notes,
            "Small nets and subsets show how the project works; the paper has no such row.",
        ]
    notes.append(
        "Published: the authors' repository (the paper's figures where it has them), n=3. Welch: "
        f"two-sided t-test with unequal variances of ours against the published mean, standard "
        f"deviation and n; 'agrees' is p >= {SIGNIFICANCE:g}, 'lower' and 'higher' say where our "
        "error lies otherwise."
    )
    if "preresnet110" in models:
        notes += [NOTES["preresnet110"], NOTES["preresnet187"]]
    if part.empty:
        notes.append("No runs yet.")
    return notes


def write_tables(records: list[Record], folder: Path) -> list[Table]:
    """Write each data set's table as .txt, .md, .csv and .tex, and return the tables.

    Raises:
        SwaBenchError: a file could not be written.
    """
    summary = summarise(cells_frame(records))
    tables = []
    for dataset in datasets_of(summary):
        table = make_table(dataset, summary)
        part = summary[summary["dataset"] == dataset]
        files = {
            "txt": table.text(),
            "md": table.markdown(),
            "csv": part.to_csv(index=False, float_format="%.6g"),
            "tex": table.latex(),
        }
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", dataset)  # a record may come from anybody
        for suffix, text in files.items():
            write_atomically(folder / f"{name}.{suffix}", text.encode())
        tables.append(table)
    return tables


def datasets_of(summary: pd.DataFrame) -> list[str]:
    """The data sets that have runs, or the paper's if none has."""
    found = list(summary["dataset"].unique())
    known = [dataset for dataset in PAPER_DATASETS if dataset in found]
    return known + [d for d in found if d not in known] or list(PAPER_DATASETS)


def find_records(folders: Sequence[str]) -> tuple[list[Record], str]:
    """Records of the folders, or of the first default folder that has some, and where they are.

    Own and shipped records are never mixed unless both folders are named.
    """
    if folders:
        for folder in folders:
            if not Path(folder).is_dir():
                raise SwaBenchError(f"--records {folder}: no such folder")
        return read_cells(map(Path, folders)), ", ".join(folders)
    for folder in DEFAULT_RECORDS:
        records = read_cells([Path(folder)])
        if records:
            return records, folder
    return [], " or ".join(DEFAULT_RECORDS)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command swa-tables."""
    parser = argparse.ArgumentParser("swa-tables", description="Turn records into tables.")
    add_records_option(parser)
    parser.add_argument(
        "--out", default="results/tables", help="folder of the tables (%(default)s)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        records, where = find_records(options.records)
        tables = write_tables(records, Path(options.out))
    except SwaBenchError as error:
        sys.exit(f"swa-tables: {error}")
    for table in tables:
        print(table.text())
    print(f"{len(records)} records from {where}; tables in {options.out}/ as .txt .md .csv .tex")


def add_records_option(parser: argparse.ArgumentParser) -> None:
    """The option --records, shared by the commands that read records."""
    parser.add_argument(
        "--records",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders with records; by default results/runs, or results/shipped if that has none",
    )
