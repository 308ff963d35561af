"""A table in its formats, and how its rows are labelled."""

import re
import string
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from swa_bench.config.grid import PAPER_MODELS
from swa_bench.labels import DEMONSTRATIONS, LABELS, by_options, in_order


@dataclass(frozen=True)
class Table:
    """One table, ready to be printed in any format.

    Attributes:
        name: of its files, without suffix.
        frame: the same figures as numbers, for a CSV.
    """

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    frame: pd.DataFrame

    def text(self) -> str:
        """For a terminal."""
        notes = (textwrap.fill(note, 110, subsequent_indent="  ") for note in self.notes)
        return "\n".join([self.title, self._body("simple_outline"), *notes, ""])

    def markdown(self) -> str:
        """For a README."""
        # A recipe is text from a record: no tag, link, cell or emphasis of its own.
        notes = "\n".join(
            "- " + re.sub(r"[\\`*|<]|(?<=\])[(:]", r"\\\g<0>", note) for note in self.notes
        )
        return f"### {self.title}\n\n{self._body('pipe')}\n\n{notes}\n"

    def latex(self) -> str:
        """For a paper: needs the package booktabs."""
        body = self._body("latex_booktabs").replace("±", r"$\pm$").replace("−", "$-$")
        comments = "\n".join(f"% {line}" for line in (self.title, *self.notes))
        return f"{comments}\n{body}\n"

    def csv(self) -> str:
        """For other programs."""
        frame = self.frame.copy()
        # A spreadsheet takes a cell that begins like this for a formula.
        formula = frame["recipe_diff"].str.match(r"[=+\-@]")
        frame["recipe_diff"] = frame["recipe_diff"].mask(formula, "'" + frame["recipe_diff"])
        return frame.to_csv(index=False, float_format="%.6g")

    def _body(self, style: str) -> str:
        return tabulate(self.rows, self.header, style, disable_numparse=True)


def labelled_rows(
    part: pd.DataFrame, models: Sequence[str] = ()
) -> tuple[list[tuple[str, str, pd.DataFrame]], list[str]]:
    """The rows of a table: model, label and what a frame holds of it; and notes on the labels.

    Args:
        part: of one data set, with one row per cell and the columns model and recipe_diff.
        models: each has a row, whether the frame holds something of it or not; by default those
            that the frame holds.
    """
    letters: dict[str, str] = {}
    rows = []
    for model in models or in_order(part["model"], PAPER_MODELS):
        of_model = part[part["model"] == model]
        for recipe in sorted(of_model["recipe_diff"].unique(), key=by_options) or [""]:
            label = LABELS.get(model, model)
            if recipe:
                label += f" [{letters.setdefault(recipe, _letter(len(letters)))}]"
            rows.append((model, label, of_model[of_model["recipe_diff"] == recipe]))
    return rows, [f"[{letter}] {recipe}" for recipe, letter in letters.items()]


def _letter(index: int) -> str:
    return string.ascii_lowercase[index] if index < 26 else str(index)


def titled(dataset: str, what: str) -> str:
    """A table's title, such as CIFAR-10: test error."""
    warning = " (a demonstration: NOT comparable with the paper)" * (dataset in DEMONSTRATIONS)
    return f"{LABELS.get(dataset, dataset)}{what}{warning}"
