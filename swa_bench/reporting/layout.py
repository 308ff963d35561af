"""A table in its formats, and how its rows are labelled."""

import re
import shutil
import string
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from swa_bench.config.grid import models_in_order
from swa_bench.labels import DEMONSTRATIONS, LABELS, by_options, recipe_options
from swa_bench.results.frames import Row, row_names

TEXT_WIDTH = 80  # of the lines around a table in a file
WIDEST = 110  # of those in a terminal
NAMES = 2  # columns of a table that name its rows


@dataclass(frozen=True)
class Table:
    """One table, ready to be printed in any format.

    Attributes:
        name: of its files, without suffix.
        frame: the same figures as numbers, for a CSV.
        above: what holds for all rows.
        letters: the recipes of its letters.
    """

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    frame: pd.DataFrame
    above: str = ""
    letters: Sequence[str] = ()

    def text(self, width: int | None = None) -> str:
        """For a terminal; the lines around the table have `width` characters, or its own.

        Where `width` is not said, a table too wide for the terminal is laid out to fit.
        """
        body = self._body("simple_outline")
        if width is None:
            columns = shutil.get_terminal_size((TEXT_WIDTH, 24)).columns
            width = min(columns, WIDEST)
            terminal = sys.stdout is not None and sys.stdout.isatty()
            if terminal and _width(body) > columns:
                body = self._fitted(columns)

        def filled(lines: Sequence[str]) -> list[str]:
            return [textwrap.fill(line, max(width, 20), subsequent_indent="  ") for line in lines]

        above = filled([self.title, *[self.above] * bool(self.above)])
        return "\n".join([*above, body, *filled(self._below()), ""])

    def markdown(self) -> str:
        """For a README."""
        # A recipe is text from a record: no tag, link, cell or emphasis of its own.
        above, *notes = (
            re.sub(r"[\\`*|<]|(?<=\])[(:]", r"\\\g<0>", line)
            for line in [self.above, *self._below()]
        )
        parts = [f"### {self.title}", above, self._body("pipe")]
        parts.append("\n".join(f"- {note}" for note in notes))
        return "\n\n".join(filter(None, parts)) + "\n"

    def latex(self) -> str:
        """For a paper: needs the package booktabs."""
        body = self._body("latex_booktabs").replace("±", r"$\pm$").replace("−", "$-$")
        comments = "\n".join(
            f"% {line}" for line in (self.title, self.above, *self._below()) if line
        )
        return f"{comments}\n{body}\n"

    def csv(self) -> str:
        """For other programs."""
        frame = self.frame.copy()
        # A spreadsheet takes a cell that begins like this for a formula.
        formula = frame["recipe_diff"].str.match(r"[=+\-@]")
        frame["recipe_diff"] = frame["recipe_diff"].mask(formula, "'" + frame["recipe_diff"])
        return frame.to_csv(index=False, float_format="%.6g")

    def _below(self) -> list[str]:
        return [*self.letters, *self.notes]

    def _body(self, style: str) -> str:
        return tabulate(self.rows, self.header, style, disable_numparse=True)

    def _fitted(self, width: int) -> str:
        """The body in parts of at most `width` characters a line, n below its figure."""
        parts, shown = [], list[int]()
        for column in range(NAMES, len(self.header)):
            if shown and _width(self._part([*shown, column])) > width:
                parts.append(self._part(shown))
                shown = []
            shown.append(column)
        return "\n\n".join([*parts, self._part(shown), ""])

    def _part(self, columns: Sequence[int]) -> str:
        kept = [*range(NAMES), *columns]
        cells = [[row[one].replace(" (n=", "\n(n=") for one in kept] for row in self.rows]
        return tabulate(cells, [self.header[one] for one in kept], disable_numparse=True)


class Recipes:
    """How recipes are named: a letter means one recipe in all tables and figures of a call.

    What all recipes share is said once; one that has no other options gets no letter.
    """

    def __init__(self, recipes: Iterable[str]) -> None:
        """Give letters in the order of the recipes, each as `recipe_text` writes it."""
        found = [recipe_options(recipe) for recipe in recipes]
        self._shared = [
            option for option in (found or [[]])[0] if all(option in other for other in found)
        ]
        self._letters: dict[str, str] = {}
        for options in found:
            self.letter(" ".join(options))

    @property
    def shared(self) -> str:
        """What is said once, or nothing."""
        return f"All runs: {' '.join(self._shared)}" if self._shared else ""

    def own(self, recipe: str) -> str:
        """The options that not all recipes share."""
        return " ".join(option for option in recipe_options(recipe) if option not in self._shared)

    def letter(self, recipe: str) -> str:
        """Such as [a]; nothing where a recipe has no options of its own."""
        own = self.own(recipe)
        return f"[{self._letters.setdefault(own, _letter(len(self._letters)))}]" if own else ""

    def label(self, model: str, recipe: str) -> str:
        """Such as VGG16 [a]."""
        return f"{LABELS.get(model, model)} {self.letter(recipe)}".rstrip()

    def title(self, row: Row) -> str:
        """Such as VGG16 [a] on CIFAR-10."""
        dataset = LABELS.get(row.dataset, row.dataset)
        return f"{self.label(row.model, row.recipe_diff)} on {dataset}"

    def notes(self) -> list[str]:
        """The options of each letter."""
        return [f"[{letter}] {own}" for own, letter in self._letters.items()]


def _width(body: str) -> int:
    return max(map(len, body.splitlines()))


def recipes_of(cells: pd.DataFrame) -> Recipes:
    """The recipes of all cells of `cells_frame`, in the order of the tables."""
    return Recipes(recipe for _, _, recipe in row_names(cells))


def _letter(index: int) -> str:
    """A to z, then aa to az, and so on."""
    before = _letter(index // 26 - 1) if index >= 26 else ""
    return before + string.ascii_lowercase[index % 26]


def labelled_rows(
    part: pd.DataFrame, recipes: Recipes, models: Sequence[str] = ()
) -> tuple[list[tuple[str, str, pd.DataFrame]], list[str]]:
    """The rows of a table: model, label and what a frame holds of it; and notes on the letters.

    Args:
        part: of one data set, with one row per cell and the columns model and recipe_diff.
        models: each has a row, whether the frame holds something of it or not; by default those
            that the frame holds.
    """
    found, notes = [], {}
    for model in models or models_in_order(part["model"]):
        of_model = part[part["model"] == model]
        for recipe in sorted(of_model["recipe_diff"].unique(), key=by_options):
            of_recipe = of_model[of_model["recipe_diff"] == recipe]
            found.append((model, recipes.label(model, recipe), of_recipe))
            if letter := recipes.letter(recipe):
                notes[letter] = f"{letter} {recipes.own(recipe)}"
        if of_model.empty:
            found.append((model, LABELS.get(model, model), of_model))
    return found, list(notes.values())


def titled(dataset: str, what: str) -> str:
    """A table's title, such as CIFAR-10: test error."""
    warning = " (a demonstration: NOT comparable with the paper)" * (dataset in DEMONSTRATIONS)
    return f"{LABELS.get(dataset, dataset)}{what}{warning}"
