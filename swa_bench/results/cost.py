"""What runs cost: hours of the device, images a second, and the epochs that sharing saved.

Nothing here imports torch.
"""

from dataclasses import dataclass, field

from swa_bench.results.frames import has_epochs, is_trained, longest_cells, read_epochs
from swa_bench.results.record import Record, number

# Two runs hold the same figures, the same seconds even, only where one took over the other's epoch.
SHARED = ["epoch", "learning_rate", "train_loss", "train_error_pct", "seconds"]

Seen = set[tuple[float | str, ...]]


@dataclass
class Cost:
    """Cost of one row's runs; what the records do not say is nan.

    Attributes:
        runs: walks, each counted once however many cells it recorded.
        epochs_by_cell: had every cell been trained alone.
        epochs_by_run: had every walk been trained alone.
        epochs: that were trained.
        hours: of the device as a whole, training and evaluation of the trained epochs.
        images_per_s: of training, mean over the walks of each method.
    """

    runs: int
    epochs_by_cell: float
    epochs_by_run: float
    epochs: float
    hours: float
    images_per_s: dict[str, float] = field(default_factory=dict)


def cost(records: list[Record], seen: Seen) -> Cost:
    """Count what one row's runs cost.

    A walk of 1.5 budgets records three cells, whose seconds all count from its first epoch: the
    longest counts. An epoch that stands in the epochs.csv of several walks of a seed with the same
    rate, training loss, training error and seconds was trained once, and counts for the first;
    without an epochs.csv, all epochs of a walk count. Runs that have no record (killed,
    or repeated with force=true) are not counted, nor are ensembles of several runs, which are
    counted themselves.

    Args:
        records: of one data set, model and variant.
        seen: the epochs counted for earlier rows; those of these runs are added.

    Raises:
        SwaBenchError: an epochs.csv is damaged.
    """
    walks = longest_cells(records)
    trained = filter(is_trained, records)
    cells = {(r["method"], r["identity"], r["seed"], r["budget"]): r for r in trained}
    epochs = sum(number(walk, "epochs") for walk in walks)
    total = Cost(len(walks), sum(number(r, "epochs") for r in cells.values()), epochs, epochs, 0.0)
    speeds: dict[str, list[float]] = {}
    for walk in walks:
        shared, shared_seconds = _shared(walk, seen)
        total.epochs -= shared
        total.hours += (number(walk, "timing", "seconds") - shared_seconds) / 3600
        speeds.setdefault(walk["method"], []).append(number(walk, "timing", "images_per_s"))
    total.images_per_s = {name: sum(of) / len(of) for name, of in sorted(speeds.items())}
    return total


def _shared(walk: Record, seen: Seen) -> tuple[int, float]:
    """Epochs of a walk that were seen before, and their seconds; the others are seen now."""
    if not has_epochs(walk):
        return 0, 0.0
    frame = read_epochs(walk["path"].parent / "epochs.csv")
    frame = frame[~(frame["epoch"] > number(walk, "epochs"))]
    of = tuple(str(walk[name]) for name in ("dataset", "model", "seed"))
    keys = [(*of, *row) for row in frame[SHARED].itertuples(index=False)]
    before = [key for key in keys if key in seen]
    seen.update(keys)
    return len(before), sum(float(key[-1]) for key in before)


def add(costs: list[Cost]) -> Cost:
    """The cost of several rows together; their speeds are left out."""
    names = ("runs", "epochs_by_cell", "epochs_by_run", "epochs", "hours")
    return Cost(*(sum(getattr(of, name) for of in costs) for name in names))
