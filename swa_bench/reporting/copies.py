"""Test error after so many copies: of their average, and of their ensemble.

Nothing here imports torch.
"""

from typing import Any

import pandas as pd

from swa_bench.labels import LABELS, in_order
from swa_bench.reporting.layout import Table, labelled_rows, titled
from swa_bench.results.frames import has_epochs, longest_cells, read_epochs
from swa_bench.results.record import Record
from swa_bench.results.statistics import Cell, mean_and_std, variant_text

COUNTS = (1, 2, 3, 5, 10, 20, 50, 100)
KINDS = {"swa_test_error_pct": "average", "ensemble_test_error_pct": "ensemble"}
CURVE = ["dataset", "model", "variant", "method", "n_averaged", "identity"]


def copies_frame(records: list[Record]) -> pd.DataFrame:
    """One row a walk and number of copies at which their average or ensemble was tested.

    Where the same copies were tested after several epochs, the first of them counts.

    Returns:
        The columns CURVE, seed and KINDS (test errors in %; nan where not tested).

    Raises:
        SwaBenchError: an epochs.csv is damaged.
    """
    frames = [pd.DataFrame(columns=[*CURVE, "seed", *KINDS])]
    for walk in filter(has_epochs, longest_cells(records)):
        epochs = read_epochs(walk["path"].parent / "epochs.csv")
        if epochs["n_averaged"].max() < 2:  # one copy is no average
            continue
        tested = epochs[epochs["n_averaged"] > 0].groupby("n_averaged")[list(KINDS)].first()
        named: dict[str, Any] = {name: walk[name] for name in ("dataset", "model", "method")}
        named |= {"identity": walk["identity"], "seed": walk["seed"]}
        named["variant"] = variant_text(walk["variant"])
        frames.append(tested.dropna(how="all").reset_index().assign(**named))
    found = pd.concat([frame for frame in frames if len(frame)] or frames)
    return found.astype({"n_averaged": int, **dict.fromkeys(KINDS, float)})


def copies_table(dataset: str, records: list[Record]) -> Table:
    """Test error after k copies, for some k, of each method that collects copies."""
    frame = copies_frame([record for record in records if record["dataset"] == dataset])
    part = mean_and_std(frame[frame["n_averaged"].isin(COUNTS)], CURVE, list(KINDS))
    counts = [count for count in COUNTS if count in set(part["n_averaged"])]
    rows, letters = labelled_rows(part)
    lines = []
    for _, label, cells in rows:
        for method in in_order(cells["method"]):
            of_method = cells[cells["method"] == method].set_index("n_averaged").to_dict("index")
            for column, kind in KINDS.items():
                figures = {
                    count: Cell(cell[f"{column}_mean"], cell[f"{column}_std"], n)
                    for count, cell in of_method.items()
                    if (n := int(cell[f"{column}_count"]))
                }
                if figures:
                    name = f"{LABELS.get(method, method)}, {kind}"
                    lines.append([label, name, *(str(figures.get(c, "-")) for c in counts)])
                    label = ""
    what = ", copies: test error in % after k copies, mean ± sample standard deviation over n seeds"
    header = ["", "", *(f"k={count}" for count in counts)]
    notes = [
        *letters,
        "Average: of the copies' weights. Ensemble: the mean of their softmax outputs. A '-' was "
        "not tested: evaluation.average_every says after how many epochs there is a test.",
    ]
    return Table(f"{dataset}-copies", titled(dataset, what), header, lines, notes, part)
