"""The gain over SGD: its test error less a method's, paired by seed, and the published gain.

Nothing here imports torch.
"""

import math
from dataclasses import dataclass

import pandas as pd

from swa_bench.labels import PAPER_COLUMNS, Column, columns_in_order
from swa_bench.reporting.layout import signed
from swa_bench.results.statistics import Cell, published

BASELINE = ("sgd", 1.0)


@dataclass(frozen=True)
class Gain:
    """How much lower a cell's test error is than SGD's, in percentage points.

    Attributes:
        baseline_budget: of the SGD run: 1 as in the paper, or the cell's own where that was run;
            for an ensemble always 1, since k budgets of it are k runs of one budget.
        ours: over seeds that have both runs, the mean of the difference and its sample standard
            deviation; None if no seed has both.
        theirs: difference of the published means; its deviation is that of independent runs, the
            root of the sum of squares, since the pairs are not published. None if the means or
            their n are not published.
    """

    method: str
    budget: float
    baseline_budget: float
    ours: Cell | None
    theirs: Cell | None


def columns(frame: pd.DataFrame) -> list[Column]:
    """The methods and budgets of a row, and the paper's four."""
    return columns_in_order([*PAPER_COLUMNS, *zip(frame["method"], frame["budget"], strict=True)])


def gains(frame: pd.DataFrame) -> list[Gain]:
    """The gains of one row: each cell over SGD of one budget and of its own length.

    An ensemble of several runs is paired with the SGD run of its first seed.

    Args:
        frame: of `cells_frame`, of one data set, model and variant.
    """
    found = []
    for method, budget in columns(frame):
        if method == BASELINE[0]:
            continue
        of_ensemble = frame["ensemble"][frame["method"] == method].any()
        for baseline in dict.fromkeys((BASELINE[1], BASELINE[1] if of_ensemble else budget)):
            ours = _paired(_cell(frame, BASELINE[0], baseline), _cell(frame, method, budget))
            row = (frame["dataset"].iloc[0], frame["model"].iloc[0])
            theirs = _published((*row, BASELINE[0], baseline), (*row, method, budget))
            if ours or theirs:
                found.append(Gain(method, budget, baseline, ours, theirs))
    return found


def _cell(frame: pd.DataFrame, method: str, budget: float) -> "pd.Series[float]":
    """Errors by seed; none where two identities share the cell, which are never mixed."""
    part = frame[(frame["method"] == method) & (frame["budget"] == budget)]
    errors = part.set_index("seed")["error"]
    return errors if part["identity"].nunique() == 1 else errors.iloc[:0]


def _paired(sgd: "pd.Series[float]", averaged: "pd.Series[float]") -> Cell | None:
    difference = (sgd - averaged).dropna()
    if difference.empty:
        return None
    return Cell(float(difference.mean()), float(difference.std()), len(difference))


def _published(
    sgd: tuple[str, str, str, float], averaged: tuple[str, str, str, float]
) -> Cell | None:
    figures = published()
    if sgd not in figures or averaged not in figures:
        return None
    one, other = figures[sgd], figures[averaged]
    if one.n is None or other.n is None:  # of another source, whose SGD is another
        return None
    return Cell(one.mean - other.mean, math.hypot(one.std, other.std), min(one.n, other.n))


def gain_text(gain: Cell | None) -> str:
    """A gain with its sign, as +0.34 ± 0.10 (n=3)."""
    if gain is None:
        return "-"
    spread = "" if math.isnan(gain.std) else f" ± {gain.std:.2f}"
    return f"{signed(gain.mean)}{spread} (n={gain.n})"
