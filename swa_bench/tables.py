"""Records and published figures -> tables of mean ± standard deviation, compared.

Nothing here imports torch. `swa-tables --help` lists the command's options.
"""

import argparse
import importlib.resources
import logging
import math
import string
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from .errors import SwaBenchError
from .files import write_atomically
from .records import Record, read_cells

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
SIGNIFICANCE = 0.05
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
class Cell:
    """Test error in % over the seeds of one cell.

    Attributes:
        std: sample standard deviation (n - 1 below the line); nan for one seed.
    """

    mean: float
    std: float
    n: int

    def __str__(self) -> str:
        spread = "" if math.isnan(self.std) else f" ± {self.std:.2f}"
        return f"{self.mean:.2f}{spread} (n={self.n})"


def published() -> dict[tuple[str, str, str, float], Cell]:
    """The authors' figures: (dataset, model, method, budget) -> test error in %."""
    path = importlib.resources.files("swa_bench.published") / "published.csv"
    with path.open() as file:
        frame = pd.read_csv(file)
    rows = frame[frame["source_id"] == "authors"].to_dict("records")
    return {
        (row["dataset"], row["model"], row["method"], float(row["budget"])): Cell(
            100.0 - row["accuracy_mean"], row["accuracy_std"], int(row["n_seeds"])
        )
        for row in rows
    }


def cells_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record. A seed that is recorded twice counts once: the later path wins."""
    rows = [
        {
            "dataset": record["dataset"],
            "model": record["model"],
            "variant": variant_text(record["variant"]),
            "method": record["method"],
            "budget": float(record["budget"]),
            "identity": f"{record['identity']}/{record['path_sha256'][:6]}",
            "seed": record["seed"],
            "error": float(record["result"]["test_error_pct"]),
        }
        for record in records
    ]
    columns = ["dataset", "model", "variant", "method", "budget", "identity", "seed", "error"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.drop_duplicates(columns[:-1], keep="last")


def variant_text(variant: dict[str, Any]) -> str:
    """How a recipe differs from the published one, as options of swa-train."""
    return " ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in sorted(variant.items())
    )


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation and n over the seeds of each cell, compared with the published.

    Rows are never averaged over variants or identities. Where one variant has two identities in a
    column (a default was changed between two versions), each keeps a row, named by its identity.
    """
    keys = ["dataset", "model", "variant", "method", "budget", "identity"]
    summary = frame.groupby(keys, sort=False)["error"].agg(["mean", "std", "count"]).reset_index()
    clash = summary.duplicated(keys[:-1], keep=False)
    named = summary["variant"] + " identity=" + summary["identity"]
    summary["variant"] = summary["variant"].mask(clash, named.str.strip())
    figures = published()
    rows = []
    for row in summary.to_dict("records"):
        ours = Cell(row["mean"], row["std"], int(row["count"]))
        theirs = figures.get((row["dataset"], row["model"], row["method"], row["budget"]))
        rows.append(
            {name: row[name] for name in keys}
            | {"error_mean": ours.mean, "error_std": ours.std, "n": ours.n}
            | compare(ours, theirs)
        )
    return pd.DataFrame(rows, columns=[*keys, *["error_mean", "error_std", "n"], *COMPARISON])


COMPARISON = ["published_mean", "published_std", "published_n", "difference", "p_value", "verdict"]


def compare(ours: Cell, theirs: Cell | None) -> dict[str, Any]:
    """Difference and Welch's t-test (two-sided, unequal variances) of two cells."""
    if theirs is None:
        return dict.fromkeys(COMPARISON, math.nan) | {"verdict": "nothing published"}
    p_value = math.nan
    if ours.n > 1:
        from scipy import stats

        p_value = float(
            stats.ttest_ind_from_stats(
                ours.mean, ours.std, ours.n, theirs.mean, theirs.std, theirs.n, equal_var=False
            ).pvalue
        )
    if math.isnan(p_value):
        verdict = "one seed: no test"
    elif p_value >= SIGNIFICANCE:
        verdict = "agrees"
    else:
        verdict = "lower" if ours.mean < theirs.mean else "higher"
    return {
        "published_mean": theirs.mean,
        "published_std": theirs.std,
        "published_n": theirs.n,
        "difference": ours.mean - theirs.mean,
        "p_value": p_value,
        "verdict": verdict,
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
        for suffix, text in files.items():
            path = folder / f"{dataset}.{suffix}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(path, text.encode())
            except OSError as error:
                raise SwaBenchError(f"{path} could not be written: {error.strerror}") from error
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
