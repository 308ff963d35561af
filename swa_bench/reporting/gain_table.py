"""The gain of each method over SGD, paired by seed, with its interval."""

from collections.abc import Iterable

import pandas as pd

from swa_bench.labels import signed
from swa_bench.reporting.layout import Recipes, Table, titled
from swa_bench.results.frames import Row
from swa_bench.results.references import Estimate
from swa_bench.results.statistics import gains
from swa_bench.results.student import CONFIDENCE

HEADER = ["", "", "gain", f"{100 * CONFIDENCE:g} % interval", "n"]
NOTE = (
    "Gain: test error of SGD minus that of the method, in percentage points, mean over the seeds "
    "that have both; an ensemble of several runs is paired with the SGD run of its first seed. "
    "SGD 1 has fewer epochs than a method of a larger budget; SGD of the same budget has as many. "
    "Interval: Student."
)


def gain_table(dataset: str, rows: Iterable[Row], recipes: Recipes) -> Table:
    """The gains of a data set's rows over SGD of one budget and of the same length."""
    lines, found, letters = [], [], {}
    of_rows = [(row, gains(row)) for row in rows if row.dataset == dataset]
    published = any(gain.theirs for _, of_row in of_rows for gain in of_row)
    for row, of_row in of_rows:
        label, recipe = recipes.label(row.model, row.recipe_diff), row.recipe_diff
        for gain in of_row:
            if gain.ours is None:
                continue
            theirs = [gain.theirs.gain() if gain.theirs else "-"] * published
            lines.append([label, gain.label, *_cells(gain.ours), *theirs])
            name = [dataset, row.model, recipe, gain.method, gain.budget, gain.baseline_budget]
            found.append([*name, gain.ours.mean, gain.ours.std, *gain.ours.interval(), gain.ours.n])
            label = ""
            if letter := recipes.letter(recipe):
                letters[letter] = f"{letter} {recipes.own(recipe)}"
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
