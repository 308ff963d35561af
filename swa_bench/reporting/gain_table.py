"""The gain of each method over SGD, paired by seed, with its interval."""

import pandas as pd

from swa_bench.labels import signed
from swa_bench.reporting.layout import Recipes, Table, titled
from swa_bench.results.frames import Row
from swa_bench.results.references import COVERAGE, Estimate
from swa_bench.results.statistics import gains

HEADER = ["", "", "gain", f"{100 * COVERAGE:g} % interval", "n"]
NOTE = (
    "Gain: test error of SGD minus that of the method, in percentage points, mean over the seeds "
    "that have both; an ensemble of several runs is paired with the SGD run of its first seed. "
    "SGD 1 has fewer epochs than a method of a larger budget; SGD of the same budget has as many. "
    "Interval: Student."
)


def gain_table(dataset: str, rows: list[Row], recipes: Recipes) -> Table:
    """The gains of a data set's rows over SGD of one budget and of the same length."""
    lines, found, letters = [], [], {}
    published = any(gain.theirs for row in rows if row.dataset == dataset for gain in gains(row))
    for row in (row for row in rows if row.dataset == dataset):
        label = recipes.label(row.model, row.recipe_diff)
        for gain in gains(row):
            if gain.ours is None:
                continue
            lines.append([label, gain.label, *_cells(gain.ours)])
            if published:
                lines[-1].append(gain.theirs.gain() if gain.theirs else "-")
            low, high = gain.ours.interval()
            name = [row.dataset, row.model, row.recipe_diff, gain.method, gain.budget]
            figures = [gain.ours.mean, gain.ours.std, low, high, gain.ours.n]
            found.append([*name, gain.baseline_budget, *figures])
            label = ""
            if letter := recipes.letter(row.recipe_diff):
                letters[letter] = f"{letter} {recipes.own(row.recipe_diff)}"
    columns = "dataset model recipe_diff method budget baseline_budget gain_mean gain_std".split()
    frame = pd.DataFrame(found, columns=[*columns, "interval_low", "interval_high", "n"])
    frame["recipe_diff"] = frame["recipe_diff"].astype(str)
    header = [*HEADER, *["published"] * published]
    title = titled(dataset, ", gain over SGD in percentage points of test error, paired by seed")
    above, below = recipes.shared, list(letters.values())
    return Table(f"{dataset}-gains", title, header, lines, [NOTE], frame, above, below)


def _cells(gain: Estimate) -> list[str]:
    low, high = gain.interval()
    between = "-" if gain.n == 1 else f"{signed(low)} to {signed(high)}"
    return [signed(gain.mean), between, str(gain.n)]
