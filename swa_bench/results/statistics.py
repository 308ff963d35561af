"""Records -> mean and standard deviation of each cell, compared with the published figures.

Nothing here imports torch.
"""

import importlib.resources
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from swa_bench.labels import ENSEMBLES
from swa_bench.results.record import Record, number, value

SIGNIFICANCE = 0.05
SOURCES = ("authors", "fge_authors")  # of the published figures that ours are compared with
COMPARISON = ["published_mean", "published_std", "published_n", "difference", "p_value", "verdict"]
CELL = ["dataset", "model", "variant", "method", "ensemble", "budget", "identity"]


@dataclass(frozen=True)
class Cell:
    """Mean over the seeds of one cell: of the test error in %, if nothing else is said.

    Attributes:
        std: sample standard deviation (n - 1 below the line); nan for one seed or if unpublished.
        n: number of seeds; None if unpublished.
        draft: whether its source hides it as a draft.
    """

    mean: float
    std: float
    n: int | None
    draft: bool = False

    def text(self, decimals: int = 2) -> str:
        """Mean ± standard deviation, without n."""
        spread = "" if math.isnan(self.std) else f" ± {self.std:.{decimals}f}"
        return f"{self.mean:.{decimals}f}{spread}"

    def __str__(self) -> str:
        n = "" if self.n is None else f" (n={self.n})"
        return self.text() + n + " (draft)" * self.draft


def published() -> dict[tuple[str, str, str, float], Cell]:
    """The authors' figures, of SWA and of FGE: (dataset, model, method, budget) -> test error."""
    path = importlib.resources.files("swa_bench.published") / "published.csv"
    with path.open() as file:
        frame = pd.read_csv(file)
    found = {}
    for row in frame[frame["source_id"].isin(SOURCES)].to_dict("records"):
        method = row["method"].removesuffix("_ensemble")
        n = None if math.isnan(row["n_seeds"]) else int(row["n_seeds"])
        cell = Cell(
            100.0 - row["accuracy_mean"], row["accuracy_std"], n, "draft" in str(row["note"])
        )
        found[row["dataset"], row["model"], method, float(row["budget"])] = cell
    return found


def is_ensemble(record: Record) -> bool:
    """Whether a cell's result is the mean prediction of several networks, not that of one."""
    combine = value(record, "config", "method", "combine")
    return record["method"] in ENSEMBLES or combine == "predictions"


def cells_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record, nan where it lacks a figure: error and ECE in %, NLL the mean an image.

    A seed that is recorded twice counts once: the later path wins.
    """
    rows = [
        {
            "dataset": record["dataset"],
            "model": record["model"],
            "variant": variant_text(record["variant"]),
            "method": record["method"],
            "ensemble": is_ensemble(record),
            "budget": float(record["budget"]),
            "identity": f"{record['identity']}/{record['path_sha256'][:6]}",
            "seed": record["seed"],
            "error": float(record["result"]["test_error_pct"]),
            "nll": number(record, "result", "test_loss"),
            "ece": number(record, "result", "test_ece_pct"),
        }
        for record in records
    ]
    frame = pd.DataFrame(rows, columns=[*CELL, "seed", "error", "nll", "ece"])
    frame = frame.astype({"ensemble": bool})
    return frame.drop_duplicates([*CELL, "seed"], keep="last")


def variant_text(variant: dict[str, Any]) -> str:
    """How a recipe differs from the published one, as options of swa-train."""
    return " ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in sorted(variant.items())
    )


def mean_and_std(frame: pd.DataFrame, keys: list[str], figures: list[str]) -> pd.DataFrame:
    """Of each figure over the seeds: <figure>_mean, <figure>_std (sample) and <figure>_count.

    Rows are never averaged over variants or identities. Where one variant has two identities in a
    column (a default was changed between two versions), each keeps a row, named by its identity.

    Args:
        keys: columns of a cell's name, its identity the last.
    """
    found = frame.groupby(keys, sort=False)[figures].agg(["mean", "std", "count"])
    found.columns = found.columns.map("_".join)
    found = found.reset_index()
    clash = found.duplicated(keys[:-1], keep=False)
    named = found["variant"] + " identity=" + found["identity"]
    found["variant"] = found["variant"].mask(clash, named.str.strip())
    return found


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Test error of each cell over its seeds, compared with the published."""
    figures = published()
    rows = []
    for row in mean_and_std(frame, CELL, ["error"]).to_dict("records"):
        ours = Cell(row["error_mean"], row["error_std"], int(row["error_count"]))
        theirs = figures.get((row["dataset"], row["model"], row["method"], row["budget"]))
        rows.append(
            {name: row[name] for name in CELL}
            | {"error_mean": ours.mean, "error_std": ours.std, "n": ours.n}
            | compare(ours, theirs)
        )
    columns = [*CELL, *["error_mean", "error_std", "n"], *COMPARISON]
    return pd.DataFrame(rows, columns=columns).astype({"ensemble": bool})


def compare(ours: Cell, theirs: Cell | None) -> dict[str, Any]:
    """Difference and Welch's t-test (two-sided, unequal variances) of two cells."""
    if theirs is None:
        return dict.fromkeys(COMPARISON, math.nan) | {"verdict": "nothing published"}
    p_value = math.nan
    if ours.n and ours.n > 1 and theirs.n:
        from scipy import stats

        p_value = float(
            stats.ttest_ind_from_stats(
                ours.mean, ours.std, ours.n, theirs.mean, theirs.std, theirs.n, equal_var=False
            ).pvalue
        )
    if theirs.n is None:
        verdict = "no n: no test"
    elif math.isnan(p_value):
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
