"""What a run leaves behind: one CSV of its epochs, one JSON record for each budget that it reports.

A record (class `Record`) holds
- which cell it is: format, dataset, model, method, budget, epochs, seed;
- its recipe: recipe_hash, schedule_sha256, recipe_diff, and config with every option;
- result (class `Result`): errors, losses and ECE of the last epoch, and digests; timing;
- where it comes from: device, versions, segments, data_sha256, initial_weights_sha256;
- class_names of a user's own images, warnings, and runs of an ensemble.

Every path in the results folder is named here. Nothing here imports torch.
"""

import contextlib
import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from swa_bench.config.identity import DataIdentity, recipe_hash
from swa_bench.config.plan import Plan
from swa_bench.config.renames import RENAMED, to_present
from swa_bench.config.schema import TrainConfig, to_dict
from swa_bench.files import find, write_atomically

log = logging.getLogger(__name__)

FORMAT = 2
# Columns of epochs.csv. A method's own predictor adds <name>_test_loss and <name>_test_error_pct.
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
Percent = Annotated[FiniteFloat, Field(ge=0, le=100)]
Row = dict[str, Any]


class Part(BaseModel):
    """A part of a record: any fields that are not named here are kept too."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Result(Part):
    """Errors and losses of a run's last epoch, never of its best, and digests of what gave them.

    Attributes:
        n_averaged: how many weights were collected.
        last_weights: error and loss of the trained weights; for SWA they are not a baseline,
            since their rate never decays to 1 %.
        weights_sha256: None for an ensemble, which has no weights of its own.
    """

    test_error_pct: Percent
    test_loss: FiniteFloat | None = None
    test_ece_pct: Percent | None = None
    train_error_pct: Percent | None = None
    train_loss: FiniteFloat | None = None
    n_averaged: int | None = None
    last_weights: dict[str, float | None] | None = None
    weights_sha256: str | None = None
    predictions_sha256: str | None = None


class Timing(Part):
    """Seconds of all epochs of a run, and images per second while training."""

    seconds: FiniteFloat | None = None
    images_per_s: FiniteFloat | None = None


class Record(Part):
    """One finished run at one budget.

    Attributes:
        recipe_hash: of all that affects the run but its seed and length (config/identity.py).
        schedule_sha256: of all learning rates and collections.
        recipe_diff: how the recipe differs from the published one, as {option: value}.
        segments: where the epochs were computed: from which epoch, device, versions.
        warnings: what the run could not do quite rightly, a sentence each.
        runs: for an ensemble of whole runs, the digest of the predictions of each.
        path: of the file, where it was read from one.
    """

    format: int
    dataset: str
    model: str
    method: str
    budget: FiniteFloat
    epochs: int | None = None
    seed: int
    recipe_hash: str
    schedule_sha256: str
    result: Result
    recipe_diff: dict[str, Any]
    device: str
    data_sha256: str | None = None
    initial_weights_sha256: str | None = None
    versions: dict[str, Any] = {}
    segments: list[dict[str, Any]] = []
    class_names: list[str] | None = None
    warnings: list[str] = []
    runs: dict[str, str] | None = None
    timing: Timing = Timing()
    config: dict[str, Any] = {}
    path: Path = Field(default=Path(), exclude=True)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.path.parent

    def is_of(self, data: DataIdentity | None) -> bool:
        """Whether it is of these images, with these classes; what it does not say may be."""
        if data is None or self.data_sha256 is None:
            return True
        names = data.class_names if self.class_names is None else tuple(self.class_names)
        return (self.data_sha256, names) == (data.sha256, data.class_names)

    def option(self, group: str, name: str) -> Any:
        """The value of an option such as method.result, or None if the record does not say."""
        return self.config.get(group, {}).get(name)


def run_folder(config: TrainConfig) -> Path:
    """The folder of a run: the same for every command that does the same run."""
    name = f"{config.method.name}-seed{config.seed}-{recipe_hash(config)}"
    return _row_folder(config) / name


def checkpoint_folder(config: TrainConfig) -> Path:
    """The folder of the states that the runs of one model and data set share."""
    return _row_folder(config) / "checkpoints"


def record_path(config: TrainConfig) -> Path:
    """The record of the run that ends with config.budget."""
    return run_folder(config) / f"cell-{config.budget:g}.json"


def _row_folder(config: TrainConfig) -> Path:
    return Path(config.results_dir) / config.dataset.name / config.model.name


def epoch_columns(predictors: Iterable[str]) -> list[str]:
    """The columns of epochs.csv for a method with predictors of its own."""
    own = [f"{name}_test_{what}" for name in predictors for what in ("loss", "error_pct")]
    place = EPOCH_COLUMNS.index("n_averaged")
    return [*EPOCH_COLUMNS[:place], *own, *EPOCH_COLUMNS[place:]]


def write_epochs(folder: Path, rows: list[Row], predictors: Iterable[str] = ()) -> None:
    """Write epochs.csv: one row per epoch, empty where nothing was measured.

    Rows of later epochs that the file already holds stay: a shorter run, or one that is trained
    again, removes nothing from a longer one.
    """
    path = folder / "epochs.csv"
    later: list[Row] = []
    if path.exists():
        with contextlib.suppress(ValueError, KeyError, TypeError), path.open(newline="") as file:
            later = [row for row in csv.DictReader(file) if int(row["epoch"]) > len(rows)]
    text = io.StringIO()
    columns = epoch_columns(predictors)
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, *later])
    write_atomically(path, text.getvalue().encode())


def predictions_path(record: Path) -> Path:
    """The predictions beside a record: cell-1.json -> predictions-1.npy."""
    return record.with_name(f"predictions-{record.stem.removeprefix('cell-')}.npy")


def write_predictions(config: TrainConfig, predictions: np.ndarray) -> str:
    """Write the log-probabilities (M, classes) of the test images; return their SHA-256."""
    content = io.BytesIO()
    np.save(content, predictions)
    write_atomically(predictions_path(record_path(config)), content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def read_predictions(path: Path) -> np.ndarray | None:
    """The predictions of a record, float32 (M, classes), or None if they are lost or damaged."""
    record = read_record(path)
    try:
        content = predictions_path(path).read_bytes()
    except OSError:
        return None
    known = record and record.result.predictions_sha256
    if known != hashlib.sha256(content).hexdigest():
        return None
    predictions: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return predictions


def write_record(
    config: TrainConfig,
    schedule_sha256: str,
    result: dict[str, Any],
    timing: dict[str, float],
    provenance: dict[str, Any],
) -> Path:
    """Write the record of a finished run.

    Args:
        config: resolved for the budget that is reported.
        schedule_sha256: see plan.Plan.
        result, timing: fields of Result and Timing.
        provenance: recipe_diff, data_sha256, device, versions and what else Record names.
    """
    record = Record(
        format=FORMAT,
        dataset=config.dataset.name,
        model=config.model.name,
        method=config.method.name,
        budget=config.budget,
        epochs=config.epochs,
        seed=config.seed,
        recipe_hash=recipe_hash(config),
        schedule_sha256=schedule_sha256,
        result=Result(**result),
        timing=Timing(**timing),
        config=to_dict(config),
        **provenance,
    )
    path = record_path(config)
    write_atomically(path, (record.model_dump_json(indent=1, exclude_unset=True) + "\n").encode())
    return path


def missing(plan: Plan) -> list[TrainConfig]:
    """What a plan reports that has no sound record with its rates, collections and data on disk."""
    found = []
    for report in plan.reports:
        path = record_path(report)
        record = read_record(path)
        schedule = plan.schedule_sha256(report.epochs)
        same = record and record.schedule_sha256 == schedule and record.is_of(plan.data)
        if not same or (plan.with_predictions and read_predictions(path) is None):
            found.append(report)
    return found


def parse_record(values: Any, path: Path = Path()) -> Record:
    """Check the values of a record; those of format 1 are translated.

    Raises:
        ValueError: it is of a later format, or a value is missing or of the wrong kind.
    """
    if not isinstance(values, dict) or values.get("format") not in (1, FORMAT):
        known = values.get("format") if isinstance(values, dict) else None
        raise ValueError(f"its format is {known}, not {FORMAT}")
    translated = _from_format_1(values) if values["format"] == 1 else values
    try:
        return Record.model_validate({**translated, "path": path})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """A record of version 0.1, under the present names."""
    renamed = {
        "identity": "recipe_hash",
        "path_sha256": "schedule_sha256",
        "variant": "recipe_diff",
        "origins": "segments",
    }
    found = {renamed.get(name, name): value for name, value in values.items()}
    with contextlib.suppress(AttributeError, KeyError):  # it is no dict: the schema says so
        diff = found["recipe_diff"]
        found["recipe_diff"] = {RENAMED.get(name, name): value for name, value in diff.items()}
    if isinstance(found.get("config"), dict):
        found["config"] = to_present(found["config"])
    return found | {"format": FORMAT}


def read_record(path: Path) -> Record | None:
    """A record, or None if there is none or it is damaged, which the log says."""
    if not path.exists():
        return None
    try:
        return parse_record(json.loads(path.read_bytes()), path)
    except (OSError, ValueError) as error:
        log.warning("Record %s is damaged (%s): left out.", path, error)
        return None


def read_records(folders: Iterable[Path]) -> list[Record]:
    """All sound records below the folders, in the order of their paths."""
    paths = (path for folder in folders for path in find(folder, "cell-*.json"))
    return [record for path in paths if (record := read_record(path)) is not None]
