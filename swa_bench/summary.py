"""Records -> mean and standard deviation of each cell, compared with the published figures.

Nothing here imports torch.
"""

import importlib.resources
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .records import Record

SIGNIFICANCE = 0.05
COMPARISON = ["published_mean", "published_std", "published_n", "difference", "p_value", "verdict"]


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
