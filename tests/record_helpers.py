"""Made records of runs, as swa-train writes them, for the tests of tables, figures and the page."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from swa_bench.results.epochs import write_epochs

RUNS = {"runs": {"some": "a", "other": "b"}}  # of an ensemble of two runs


def write_record(folder: Path, **changes: Any) -> Path:
    """A record of VGG16's SGD on CIFAR-10 with some fields changed; `error` is its test error."""
    record: dict[str, Any] = {
        "format": 2,
        "dataset": "cifar10",
        "model": "vgg16",
        "method": "sgd",
        "budget": 1.0,
        "epochs": 200,
        "seed": 0,
        "recipe_hash": "0123456789ab",
        "schedule_sha256": "f" * 64,
        "result": {"test_error_pct": changes.pop("error", 6.75)} | changes.pop("result", {}),
        "recipe_diff": {},
        "device": "a made device",
    }
    record |= changes
    run = "{dataset}/{model}/{method}-seed{seed}-{recipe_hash}".format(**record)
    path = folder / run / f"cell-{record['budget']:g}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def write_run(folder: Path, errors: dict[float, float], rates: list[float], **changes: Any) -> None:
    """A run with a record a budget (of 4 epochs, an hour each) and, of its rates, epochs.csv.

    A method other than SGD collects weights after every epoch.
    """
    method = changes.setdefault("method", "sgd")
    changes.setdefault("recipe_hash", f"{len(method):012}")
    made = {"device": "a made GPU", "config": {"device": "cuda"}} | changes
    for budget, error in errors.items():
        epochs = int(4 * budget)
        timing = {"seconds": 3600.0 * epochs, "images_per_s": 1000.0 * budget}
        cell = {"budget": budget, "epochs": epochs, "schedule_sha256": f"{budget:<64g}"}
        path = write_record(folder, error=error, **({"timing": timing} | cell | made))
    figures = {"train_error_pct": 50, "test_loss": 1, "swa_test_loss": 1, "seconds": 3600}
    rows = [
        figures
        | {"epoch": epoch, "learning_rate": rate, "train_loss": 10 * rate}
        | {"test_error_pct": 100 / epoch, "swa_test_error_pct": 60 / epoch}
        | {"n_averaged": epoch * (method != "sgd")}
        for epoch, rate in enumerate(rates, start=1)
    ]
    if rows:
        write_epochs(path.parent, rows)


def write_collected(
    folder: Path, tested: list[tuple[int, Any, Any]], own: Iterable[str] = (), **changes: Any
) -> Path:
    """A run of cifar10_mini with epochs after which so many weights were collected.

    Args:
        tested: number, test error of the average, and of the ensemble and each of `own`.
        own: the method's own predictors.
    """
    path = write_record(folder, **({"dataset": "cifar10_mini"} | changes))
    epochs = [
        {"epoch": epoch, "learning_rate": 0.1, "test_error_pct": 50, "n_averaged": n, "seconds": 1}
        | {"swa_test_error_pct": average, "ensemble_test_error_pct": ensemble}
        | {f"{name}_test_error_pct": ensemble for name in own}
        for epoch, (n, average, ensemble) in enumerate(tested, start=1)
    ]
    write_epochs(path.parent, epochs, own)
    return path
