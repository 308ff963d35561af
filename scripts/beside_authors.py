"""The authors' own program beside ours: the same parts bit for bit, and the same runs by seeds.

    python scripts/beside_authors.py CLONE parts
    python scripts/beside_authors.py CLONE train --seeds 0 1 2 3 4 5
    python scripts/beside_authors.py CLONE compare --records FOLDER

See docs/fidelity.md; authors_program.py says what is done to their program.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from authors_parts import show_parts
from authors_program import mended, train
from scipy import stats
from tabulate import tabulate

from swa_bench.errors import SwaBenchError
from swa_bench.results.frames import cells_frame
from swa_bench.results.record import read_records
from swa_bench.results.references import Estimate

BOUND = 3.0  # points of test error, within which two means are taken as equivalent


def equivalence(
    ours: Sequence[float], theirs: Sequence[float], bound: float
) -> tuple[float, tuple[float, float], float, float]:
    """Compare two means by Welch's test, and by two one-sided tests with a bound on either side.

    Returns:
        The difference ours - theirs; its 90 % interval, which lies within the bounds if the means
        are equivalent at the 5 % level; the p-value of Welch's test; that of the equivalence.
    """
    one, other = np.array(ours), np.array(theirs)
    welch = stats.ttest_ind(one, other, equal_var=False)
    interval = welch.confidence_interval(0.9)
    above = stats.ttest_ind(one + bound, other, equal_var=False, alternative="greater")
    below = stats.ttest_ind(one - bound, other, equal_var=False, alternative="less")
    difference = float(np.mean(ours) - np.mean(theirs))
    ends = (float(interval.low), float(interval.high))
    return difference, ends, float(welch.pvalue), max(float(above.pvalue), float(below.pvalue))


def show_comparison(out: Path, records: Path | None) -> None:
    """Print each cell's errors, ours from records and theirs as `train` left them."""
    if records is None or not (found := read_records([records])):
        raise SwaBenchError(f"--records {records}: no records; they are ours, to compare with")
    if not (out / "errors.csv").is_file():
        raise SwaBenchError(f"--out {out}: no errors.csv there; `train` writes it")
    ours, lines = cells_frame(found), []
    for (method, budget), of_cell in pd.read_csv(out / "errors.csv").groupby(["method", "budget"]):
        same = ours[(ours["method"] == method) & (ours["budget"] == budget)]
        one, other = list(same["error"]), list(of_cell["error"])
        difference, (low, high), p_value, p_equivalent = equivalence(one, other, BOUND)
        means = [str(Estimate(np.mean(of), np.std(of, ddof=1), len(of))) for of in (one, other)]
        interval = f"{low:+.2f} to {high:+.2f}"
        figures = [f"{difference:+.2f}", interval, f"{p_value:.2g}", f"{p_equivalent:.2g}"]
        lines.append([f"{method} {budget:g}", *means, *figures])
        print(f"{method} {budget:g}, theirs:", *(f"{error:.1f}" for error in other))
    header = ["", "ours", "theirs", "difference", "90 % interval", "Welch p", "equivalence p"]
    print(tabulate(lines, header, "github", disable_numparse=True))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="The authors' own program beside ours.")
    parser.add_argument("clone", type=Path, help="a clone of the authors' repository")
    parser.add_argument("action", choices=["parts", "train", "compare"])
    parser.add_argument("--methods", nargs="+", choices=["swa", "sgd"], default=["swa", "sgd"])
    parser.add_argument("--seeds", type=int, nargs="+", default=range(6))
    parser.add_argument("--out", type=Path, default=Path("results/authors_program"))
    parser.add_argument("--processes", type=int, default=1, help="side by side, of one thread each")
    parser.add_argument("--records", type=Path, help="ours, with the same settings, to compare")
    options = parser.parse_args()
    if options.action == "compare":
        show_comparison(options.out, options.records)
        return
    program = mended(options.clone, options.out)
    if options.action == "parts":
        show_parts(program)
    else:
        errors = train(program, options.out, options.methods, options.seeds, options.processes)
        print(errors.groupby(["method", "budget"])["error"].agg(["mean", "std", "count"]))


if __name__ == "__main__":
    try:
        main()
    except SwaBenchError as error:
        sys.exit(f"beside_authors: {error}")
