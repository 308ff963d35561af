"""What a run leaves behind: one CSV of its epochs, one write-once JSON a finished cell.

Every path in the results folder is named here. Nothing here imports torch.
"""

import contextlib
import csv
import hashlib
import importlib.metadata
import io
import json
import logging
import math
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from swa_bench.config.schema import TrainConfig, identity, plain
from swa_bench.files import write_atomically

log = logging.getLogger(__name__)

RECORD_FORMAT = 1
EPOCH_COLUMNS = [
    "epoch",
    "learning_rate",
    "train_loss",
    "train_error_pct",
    "test_loss",
    "test_error_pct",
    "swa_test_loss",
    "swa_test_error_pct",
    "ensemble_test_loss",
    "ensemble_test_error_pct",
    "n_averaged",
    "seconds",
]

# What tables and figures read of a record, beside its result.
NEEDED = "dataset model method budget seed identity path_sha256 variant device".split()

Record = dict[str, Any]


def run_folder(config: TrainConfig) -> Path:
    """The folder of a walk: the same for every command that walks the same path."""
    name = f"{config.method.name}-seed{config.seed}-{identity(config)}"
    return _row_folder(config) / name


def checkpoint_folder(config: TrainConfig) -> Path:
    """The folder of the states that the runs of one model and data set share."""
    return _row_folder(config) / "checkpoints"


def cell_path(config: TrainConfig) -> Path:
    """The record of the cell that ends with config.budget."""
    return run_folder(config) / f"cell-{config.budget:g}.json"


def _row_folder(config: TrainConfig) -> Path:
    return Path(config.results_dir) / config.dataset.name / config.model.name


def write_epochs(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write epochs.csv: a row an epoch, empty where nothing was measured.

    Rows of later epochs that the file holds already stay: a shorter run of the same walk, or one
    that trains it again, takes nothing away from a longer one.
    """
    path = folder / "epochs.csv"
    later: list[dict[str, Any]] = []
    if path.exists():
        with contextlib.suppress(ValueError, KeyError, TypeError), path.open(newline="") as file:
            later = [row for row in csv.DictReader(file) if int(row["epoch"]) > len(rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, EPOCH_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, *later])
    write_atomically(path, text.getvalue().encode())


def predictions_path(record: Path) -> Path:
    """The predictions of a cell, beside its record: cell-1.json -> predictions-1.npy."""
    return record.with_name(f"predictions-{record.stem.removeprefix('cell-')}.npy")


def write_predictions(config: TrainConfig, predictions: np.ndarray) -> str:
    """Write a cell's log-probabilities (M, classes) of the test images; return their SHA-256."""
    content = io.BytesIO()
    np.save(content, predictions)
    write_atomically(predictions_path(cell_path(config)), content.getvalue())
    return _sha256(content.getvalue())


def read_predictions(path: Path) -> np.ndarray | None:
    """The predictions of a record, float32 (M, classes), or None if they are lost or damaged."""
    record = read_cell(path)
    try:
        content = predictions_path(path).read_bytes()
    except OSError:
        return None
    if record is None or record["result"].get("predictions_sha256") != _sha256(content):
        return None
    predictions: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return predictions


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_cell(
    config: TrainConfig,
    path_sha256: str,
    result: dict[str, Any],
    timing: dict[str, float],
    provenance: dict[str, Any],
) -> Path:
    """Write the record of a finished cell.

    Args:
        config: the cell's own configuration, resolved for its budget.
        path_sha256: of the cell's rates and copies: plan.path_sha256.
        result: errors and losses of the last epoch, and what identifies the weights.
        timing: `seconds` of all its epochs, and `images_per_s` of their training.
        provenance: variant, data, device, versions: see walk.py.
    """
    record: Record = {
        "format": RECORD_FORMAT,
        "dataset": config.dataset.name,
        "model": config.model.name,
        "method": config.method.name,
        "budget": config.budget,
        "epochs": config.epochs,
        "seed": config.seed,
        "identity": identity(config),
        "path_sha256": path_sha256,
        "result": result,
        **provenance,
        "timing": timing,
        "config": plain(config),
    }
    path = cell_path(config)
    write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    return path


def read_cell(path: Path) -> Record | None:
    """A record, or None if there is none or it is damaged (which the log says)."""
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != RECORD_FORMAT:
            raise ValueError(f"its format is {record['format']}, not {RECORD_FORMAT}")
        float(record["result"]["test_error_pct"])
        for name in NEEDED:
            record[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("Record %s is damaged (%s): left out.", path, error)
        return None
    assert isinstance(record, dict)
    return record


def read_cells(folders: Iterable[Path]) -> list[Record]:
    """All sound records below the folders, in the order of their paths; each knows its `path`."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("cell-*.json")):
            record = read_cell(path)
            if record is not None:
                found.append({**record, "path": path})
    return found


def value(record: Record, *names: str) -> Any:
    """What a record says under nested names, or None: not all that is printed is needed."""
    found: Any = record
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def number(record: Record, *names: str) -> float:
    """A figure of a record, or nan where it has none."""
    found = value(record, *names)
    return float(found) if isinstance(found, int | float) else math.nan


def code_version() -> dict[str, Any]:
    """Version of the package, and the git commit if it runs from a checkout ('+' if changed)."""
    code = Path(__file__).parent.parent
    commit = None
    if (code.parent / ".git").exists():
        git = ["git", "-C", str(code)]
        head = _output([*git, "rev-parse", "HEAD"])
        changed = _output([*git, "status", "--porcelain", "--untracked-files=no"])
        commit = head and head + ("+" if changed else "")
    return {"swa_bench": importlib.metadata.version("swa-bench"), "commit": commit}


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
