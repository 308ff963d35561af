"""Means over seeds, compared with published or other figures, and gains over SGD.

The verdict is Welch's t-test: `compare`.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from swa_bench.config.grid import paper_columns
from swa_bench.labels import Column, column_label, columns_in_order, counted, plain_recipe
from swa_bench.results.epochs import tested_columns
from swa_bench.results.frames import CELL, COLUMN, Row, cells_frame
from swa_bench.results.record import Record
from swa_bench.results.references import Estimate, Key, Reference, published

SIGNIFICANCE = 0.05
COMPARED = ["dataset", "model", *COLUMN]  # what names a figure that ours are compared with
COMPARISON = ["published_mean", "published_std", "published_n", "difference", "p_value", "verdict"]
COLLECTED = ["dataset", "model", "recipe_diff", "method", "n_averaged", "recipe_hash"]
BASELINE = ("sgd", 1.0)


def mean_and_std(frame: pd.DataFrame, keys: list[str], figures: list[str]) -> pd.DataFrame:
    """Of each figure over the seeds: <figure>_mean, <figure>_std (sample) and <figure>_count.

    Rows of different recipes are never averaged. Where one recipe_diff has two recipe hashes in a
    column and no option tells them apart, each keeps a row, named by its hash. `keys` name a row.
    """
    found = frame.groupby(keys, sort=False)[figures].agg(["mean", "std", "count"])
    found.columns = found.columns.map("_".join)
    found = found.reset_index()
    place = [key for key in keys if key not in ("ensemble", "recipe_hash")]
    named = found["recipe_diff"] + " recipe_hash=" + found["recipe_hash"]
    clash = found.duplicated(place, keep=False)
    found["recipe_diff"] = found["recipe_diff"].mask(clash, named.str.strip())
    return found


def summarise(cells: pd.DataFrame, reference: Reference | None = None) -> pd.DataFrame:
    """Test error of each cell of `cells_frame` over its seeds, compared with a reference.

    Args:
        reference: by default the published figures.
    """
    found = mean_and_std(cells, CELL, ["error"]).rename(columns={"error_count": "n"})
    reference = reference or published()
    theirs = [
        reference.figure((dataset, model, method, budget), recipe)
        for dataset, model, method, budget, recipe in found[[*COMPARED, "recipe_diff"]].to_numpy()
    ]
    figures = [[of.mean, of.std, of.n] if of else [None] * 3 for of in theirs]
    names = COMPARISON[:3]
    frame = pd.DataFrame(figures, found.index, names, dtype=float)
    compared = compare(found.join(frame))
    return compared[[*CELL, "error_mean", "error_std", "n", *COMPARISON]]


def of_records(records: Iterable[Record], where: str) -> Reference:
    """The test errors of other records, to compare with.

    Args:
        where: their folder, in words.
    """
    records = list(records)
    found = summarise(cells_frame(records))
    figures: dict[tuple[Key, str | None], Estimate] = {
        ((of["dataset"], of["model"], of["method"], of["budget"]), of["recipe_diff"]): estimate(of)
        for of in found.to_dict("records")
    }
    weights = {record.place: record.result.weights_sha256 for record in records}
    images: dict[tuple[Key, str], set[str]] = {}
    for record in records:
        if record.data_sha256:
            key = record.cell, plain_recipe(record.recipe)
            images.setdefault(key, set()).add(record.data_sha256)
    note = f"Reference: {counted(len(records), 'record')} from {where}."
    return Reference("reference", figures, note, weights, images)


def estimate(cell: Mapping[Hashable, Any]) -> Estimate:
    """The estimate that a line of `summarise` holds."""
    return Estimate(cell["error_mean"], cell["error_std"], cell["n"])


def compare(frame: pd.DataFrame) -> pd.DataFrame:
    """Add difference and Welch's t-test (two-sided, unequal variances) of ours and theirs."""
    ours, theirs = frame["error_mean"], frame["published_mean"]
    known = frame["published_n"].notna() & frame["published_std"].notna()
    testable = frame[(frame["n"] > 1) & known]
    p_value = pd.Series(math.nan, frame.index)
    if len(testable):
        from scipy import special  # scipy.stats takes half a second to import

        names = ["error_mean", "error_std", "n", "published_mean", "published_std", "published_n"]
        mean, std, n, mean_2, std_2, n_2 = testable[names].to_numpy(float).T
        one, two = std**2 / n, std_2**2 / n_2
        freedom = (one + two) ** 2 / (one**2 / (n - 1) + two**2 / (n_2 - 1))
        t = (mean - mean_2) / np.sqrt(one + two)
        p_value[testable.index] = 2 * special.stdtr(freedom, -abs(t))
    verdicts = {
        "nothing to compare": theirs.isna(),
        "no n: no test": frame["published_n"].isna(),
        "no deviation: no test": frame["published_std"].isna(),
        "one seed: no test": p_value.isna(),
        "agrees": p_value >= SIGNIFICANCE,
        "lower": ours < theirs,
    }
    verdict = np.select(list(verdicts.values()), list(verdicts), "higher")
    return frame.assign(difference=ours - theirs, p_value=p_value, verdict=verdict)


def collected_frame(epochs: pd.DataFrame) -> pd.DataFrame:
    """The test errors of what is made of k collected weights, for each k at which it was tested.

    Where the same weights were tested after several epochs, the first of them counts. A run that
    collected once is left out: one model is not an average. So is a run whose result is its last
    weights: what it collects is another method's, such as swa_fixed_rate's.

    Returns:
        One row per run and k: COLLECTED, seed, predictor, ensemble, and the test errors in % of
        `tested_columns`, nan where not tested.
    """
    epochs = epochs[(epochs["n_averaged"] > 0) & (epochs["predictor"] != "last")]
    epochs = epochs[epochs.groupby("run")["n_averaged"].transform("max") > 1]
    keys = ["run", *COLLECTED, "seed", "predictor", "ensemble"]
    tested = epochs.groupby(keys)[tested_columns(epochs)].first()
    return tested.dropna(how="all").reset_index().astype({"n_averaged": int})


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
    ours: Estimate | None
    theirs: Estimate | None

    @property
    def label(self) -> str:
        """What is compared, such as SWA 1.5 over SGD 1.5."""
        labels = ((self.method, self.budget), (BASELINE[0], self.baseline_budget))
        return " over ".join(column_label(*column) for column in labels)

    @property
    def short_label(self) -> str:
        """Without the baseline where that is SGD of one budget."""
        usual = self.baseline_budget == BASELINE[1]
        return self.label.partition(" over ")[0] if usual else self.label


def columns(row: Row) -> list[Column]:
    """The methods and budgets of a row, and those of the paper's table of its data set."""
    found = zip(row.cells["method"], row.cells["budget"], strict=True)
    return columns_in_order([*paper_columns(row.dataset), *found])


def gains(row: Row) -> list[Gain]:
    """The gain of each cell over SGD of one budget and of its own length.

    Pairs have one seed; an ensemble of several runs is paired with the SGD run of its first. Where
    two recipe hashes share a cell, it has no pairs: they are never mixed.
    """
    errors = {
        column: cells.set_index("seed")["error"]
        for column, cells in row.cells.groupby(COLUMN)
        if cells["recipe_hash"].nunique() == 1
    }
    ensembles = set(row.cells["method"][row.cells["ensemble"]])
    found = []
    for method, budget in columns(row):
        lengths = {BASELINE[1]: None} | ({} if method in ensembles else {budget: None})
        for length in lengths if method != BASELINE[0] else ():
            baseline = (BASELINE[0], length)
            ours = _paired(errors.get(baseline), errors.get((method, budget)))
            theirs = _published_gain((row.dataset, row.model), baseline, (method, budget))
            if ours or theirs:
                found.append(Gain(method, budget, length, ours, theirs))
    return found


def _paired(sgd: "pd.Series[float] | None", other: "pd.Series[float] | None") -> Estimate | None:
    if sgd is None or other is None:
        return None
    difference = (sgd - other).dropna()
    if difference.empty:
        return None
    return Estimate(float(difference.mean()), float(difference.std()), len(difference))


def _published_gain(row: tuple[str, str], sgd: Column, other: Column) -> Estimate | None:
    one, two = published().figure((*row, *sgd)), published().figure((*row, *other))
    if not one or not two or one.n is None or two.n is None:  # of a source with another SGD
        return None
    return Estimate(one.mean - two.mean, math.hypot(one.std, two.std), min(one.n, two.n))
