"""What runs cost: device hours, images per second, and the epochs that sharing saved."""

from collections.abc import Sequence

import pandas as pd

from swa_bench.results.frames import Row, longest_cells

# Two runs hold the same figures, the same seconds even, only where one took over the other's epoch.
SHARED = ["epoch", "learning_rate", "train_loss", "train_error_pct", "seconds"]


def costs(rows: Sequence[Row]) -> pd.DataFrame:
    """What each row's runs cost, one line per row; nan where the records do not say.

    Of a run that reports several budgets the longest counts, and an epoch in the epochs.csv of
    several runs (SHARED) counts for the first. Runs without a record are not counted, nor are
    ensembles of whole runs, whose runs are.

    Returns:
        runs; epochs_by_cell, had every cell been trained alone; epochs_by_run, had every run;
        epochs that were trained; hours of the device; images_per_s, {method: mean}.
    """
    names = ["runs", "epochs_by_cell", "epochs_by_run", "epochs", "hours", "images_per_s"]
    if not rows:
        return pd.DataFrame(columns=names)
    epochs = pd.concat([row.epochs for row in rows]).dropna(subset=SHARED)
    shared = epochs[epochs.duplicated(["dataset", "model", "seed", *SHARED])]
    lines = []
    for row in rows:
        runs = longest_cells(row.cells)
        again = shared[shared["run"].isin(runs.index)]
        by_run = runs["epochs"].sum(skipna=False)
        seconds = runs["seconds"].sum(skipna=False) - again["seconds"].sum()
        by_cell = row.cells["epochs"][row.cells["trained"]].sum(skipna=False)
        speeds = runs.groupby("method")["images_per_s"].agg(lambda of: of.mean(skipna=False))
        lines.append(
            (len(runs), by_cell, by_run, by_run - len(again), seconds / 3600, speeds.to_dict())
        )
    return pd.DataFrame(lines, columns=names)
