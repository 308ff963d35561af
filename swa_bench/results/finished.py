"""What a run writes when a budget is finished, and which budgets are not: records, predictions."""

import hashlib
import io
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swa_bench.config.identity import recipe_hash
from swa_bench.config.own_code import unchanged
from swa_bench.config.plan import Plan, make_plan
from swa_bench.config.schema import TrainConfig, Values, to_dict
from swa_bench.config.spec import RunSpec
from swa_bench.errors import SwaBenchError
from swa_bench.files import write_atomically
from swa_bench.results.foreign import NewerFormatError, read_file, set_aside
from swa_bench.results.record import (
    FORMAT,
    Record,
    Result,
    Timing,
    load_record,
    read_record,
    read_records,
    record_path,
    run_folder,
)
from swa_bench.text import printable

if TYPE_CHECKING:  # a plan, and a finished run, are answered without its import
    import numpy as np

log = logging.getLogger(__name__)

FINISHED = "Finished already, on this or another device (force=true trains again): %s"


def predictions_path(record: Path) -> Path:
    """The predictions beside a record: cell-1.json -> predictions-1.npy."""
    return record.with_name(f"predictions-{record.stem.removeprefix('cell-')}.npy")


def write_predictions(config: TrainConfig, predictions: "np.ndarray") -> str:
    """Write the log-probabilities (M, classes) of the test images; return their SHA-256."""
    import numpy as np

    content = io.BytesIO()
    np.save(content, predictions)
    write_atomically(predictions_path(record_path(config)), content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def read_predictions(path: Path) -> "np.ndarray | None":
    """The predictions of a record, float32 (M, classes), or None if they are lost or damaged."""
    record = read_record(path)
    try:
        content = read_file(predictions_path(path), math.inf)  # its size is that of the test set
    except (OSError, ValueError):
        return None
    known = record and record.result.predictions_sha256
    if known != hashlib.sha256(content).hexdigest():
        return None
    import numpy as np

    try:
        found: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception:  # what numpy raises of a file that somebody made up
        return None
    sound = isinstance(found, np.ndarray) and found.dtype == np.float32 and found.ndim == 2
    return found if sound and not np.isnan(found).any() else None


def write_record(
    config: TrainConfig,
    schedule_sha256: str,
    result: dict[str, Any],
    timing: dict[str, float],
    provenance: dict[str, Any],
) -> Path:
    """Write the record of a finished run; a damaged one in its place is moved aside.

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
        **printable(provenance),
    )
    path = record_path(config)
    if isinstance(before := _load_own(path), ValueError):
        set_aside(path, before)
    _write(record, path)
    return path


def add_metrics(
    record: Record, definitions: Mapping[str, Values], found: Mapping[str, float]
) -> None:
    """Write a record again with more metrics, which were made of its stored predictions."""
    result = record.result.model_copy(update={"metrics": {**record.result.metrics, **found}})
    defined = {**record.config.get("metrics", {}), **{name: definitions[name] for name in found}}
    config = {**record.config, "metrics": defined}
    _write(record.model_copy(update={"result": result, "config": config}), record.path)


def _write(record: Record, path: Path) -> None:
    write_atomically(path, (record.model_dump_json(indent=1, exclude_unset=True) + "\n").encode())


def missing(plan: Plan) -> list[TrainConfig]:
    """What a plan reports without a sound record of its rates, collections and data on disk."""
    found = []
    for report in plan.reports:
        path = record_path(report)
        record = _load_own(path)
        same = (
            isinstance(record, Record)
            and record.schedule_sha256 == plan.schedule_sha256(report.epochs)
            and record.is_of(plan.data)
        )
        if not same or (plan.with_predictions and read_predictions(path) is None):
            found.append(report)
    return found


def finished_reports(spec: RunSpec) -> list[TrainConfig] | None:
    """What a run reports, if all of it is surely recorded; None if only training can tell.

    Sure are records of published images, and of code that is the same without doubt.
    """
    config = spec.config
    own_images = not config.dataset.is_published
    if config.force or own_images or spec.is_ensemble_of_runs or config.precision == "auto":
        return None
    try:
        plans = {plan.config.seed: plan for plan in map(make_plan, spec.block())}
        if any(map(missing, plans.values())):
            return None
    except SwaBenchError:  # training says what is wrong
        return None
    for record in read_records(run_folder(plan.config) for plan in plans.values()):
        if not unchanged(record.source_sha256, config) or record.lacks(config.metrics):
            return None
    log.info(FINISHED, run_folder(config))
    return plans[config.seed].reports


def _load_own(path: Path) -> Record | ValueError | None:
    """The record that a run would write, or what is wrong with it, or None if there is none."""
    try:
        return load_record(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NewerFormatError as error:
        raise SwaBenchError(
            f"{path} was written by a newer version of the program ({error}): use that version, or "
            "another results_dir"
        ) from error
    except OSError as error:
        raise SwaBenchError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        return error
