"""Figures of others that ours are compared with: those of results/published, or of other records.

A source is a line of sources.csv there; its figures are lines of the other CSV files beside it.
"""

import functools
import importlib.resources
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from swa_bench.errors import SwaBenchError
from swa_bench.labels import plain_recipe, signed
from swa_bench.results.student import half_width

SOURCES = "sources.csv"

Key = tuple[str, str, str, float]  # data set, model, method, budget


@dataclass(frozen=True)
class Estimate:
    """Mean over the seeds of a figure: of the test error in %, unless stated otherwise.

    Attributes:
        std: sample standard deviation (divided by n - 1); nan for one seed or if unpublished.
        n: number of seeds; None if unpublished.
        draft: whether its source hides it as a draft.
    """

    mean: float
    std: float
    n: int | None
    draft: bool = False

    def text(self, decimals: int = 2) -> str:
        """Mean ± standard deviation, without n."""
        return f"{self.mean:.{decimals}f}{self._spread(decimals)}"

    def gain(self) -> str:
        """With the sign of its mean, as +0.34 ± 0.10 (n=3)."""
        return f"{signed(self.mean)}{self._spread()} (n={self.n})"

    def interval(self) -> tuple[float, float]:
        """Student's interval around the mean; nan for one seed."""
        half = half_width(self.std, self.n or 0)
        return self.mean - half, self.mean + half

    def _spread(self, decimals: int = 2) -> str:
        return "" if math.isnan(self.std) else f" ± {self.std:.{decimals}f}"

    def __str__(self) -> str:
        n = "" if self.n is None else f" (n={self.n})"
        return self.text() + n + " (draft)" * self.draft


@dataclass(frozen=True)
class Reference:
    """Test errors that ours are compared with.

    Attributes:
        label: of its line in a table.
        figures: by cell and recipe, the latter as options in which it differs from the published
            recipe; None for figures that all recipes are compared with.
        note: what they are, if they are not those that are usually compared.
        weights: SHA-256 of the weights of single results, by the place of their record; None for
            those that have no weights of their own.
        images: SHA-256 of the data sets of its runs, by cell and recipe, the latter without the
            options of arithmetic; {} if unpublished.
    """

    label: str
    figures: Mapping[tuple[Key, str | None], Estimate]
    note: str = ""
    weights: Mapping[Path, str | None] = field(default_factory=dict)
    images: Mapping[tuple[Key, str], set[str]] = field(default_factory=dict)

    def figure(self, key: Key, recipe: str = "") -> Estimate | None:
        """Of a cell, by its recipe.

        Without one of the very recipe, there may be one that was computed in another precision.
        """
        exact = self.figures.get((key, recipe))
        return (
            exact
            or self._computed.get((key, plain_recipe(recipe)))
            or self.figures.get((key, None))
        )

    @functools.cached_property
    def _computed(self) -> dict[tuple[Key, str], Estimate]:
        """The figures by recipes without the options of arithmetic, where that leaves no choice."""
        found: dict[tuple[Key, str], list[Estimate]] = {}
        for (key, recipe), figure in self.figures.items():
            if recipe is not None:
                found.setdefault((key, plain_recipe(recipe)), []).append(figure)
        return {key: figures[0] for key, figures in found.items() if len(figures) == 1}

    def cells(self) -> list[Key]:
        """The cells that it has figures of."""
        return list(dict.fromkeys(key for key, _ in self.figures))


@functools.cache
def published() -> Reference:
    """What SWA's and FGE's authors published: the sources that are usually compared."""
    sources = _read(SOURCES)
    return Reference("published", _figures(sources["source_id"][sources["usual"] == "yes"]))


def source(name: str) -> Reference:
    """The figures of one source; SwaBenchError lists the sources if there is none of that name."""
    sources = {of["source_id"]: of for of in _read(SOURCES).to_dict("records")}
    if name not in sources:
        raise SwaBenchError(f"{name}: no source and no folder; sources: {', '.join(sources)}")
    label = str(sources[name]["label"])
    note = f"{label[0].upper()}{label[1:]}: {sources[name]['what']} ({sources[name]['where']})."
    return Reference(label, _figures([name]), note)


def _figures(names: "pd.Series[str] | list[str]") -> dict[tuple[Key, str | None], Estimate]:
    folder = importlib.resources.files("swa_bench.published")
    files = sorted(one.name for one in folder.iterdir() if one.name.endswith(".csv"))
    frame = pd.concat([_read(name) for name in files if name != SOURCES])
    budgets = pd.to_numeric(frame["budget"], errors="coerce")  # a source may not say which
    frame = frame.assign(budget=budgets)[frame["source_id"].isin(names) & budgets.notna()]
    found: dict[tuple[Key, str | None], Estimate] = {}
    for of in frame.to_dict("records"):
        key = (of["dataset"], of["model"], of["method"].removesuffix("_ensemble"), of["budget"])
        n = None if math.isnan(of["n_seeds"]) else int(of["n_seeds"])
        draft = "draft" in str(of["note"])
        figure = Estimate(100.0 - of["accuracy_mean"], of["accuracy_std"], n, draft)
        recipe = of.get("recipe")
        found[key, recipe if isinstance(recipe, str) else None] = figure
    return found


@functools.cache
def _read(name: str) -> pd.DataFrame:
    with (importlib.resources.files("swa_bench.published") / name).open() as file:
        return pd.read_csv(file)
