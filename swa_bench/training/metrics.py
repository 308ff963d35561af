"""Metrics of the user's own: numbers that functions make of a result's predictions."""

import logging
import math
import pkgutil
from collections.abc import Sequence

import torch
from torch import Tensor

from swa_bench.config.schema import TrainConfig, Values
from swa_bench.data.images import load_images
from swa_bench.errors import ConfigError
from swa_bench.results.finished import add_metrics, read_predictions
from swa_bench.results.record import read_record, record_path
from swa_bench.results.same_data import check_data, fix_of

TAKEN = ("n", "error", "loss", "nll", "ece")  # columns of the calibration table

log = logging.getLogger(__name__)


def check_metrics(config: TrainConfig) -> None:
    """Let each metric do its work once, on made-up predictions; ConfigError if it fails."""
    classes = config.dataset.classes
    numbers = torch.rand(2 * classes, classes, generator=torch.Generator().manual_seed(0))
    for name, options in config.metrics.items():
        if name in TAKEN:
            expected = f"stands in the table already ({', '.join(TAKEN)}): choose another name"
            raise ConfigError("metrics", name, expected)
        _measure(name, options, numbers.log_softmax(1), torch.arange(2 * classes) % classes)


def measure(config: TrainConfig, predictions: Tensor, labels: Tensor) -> dict[str, float]:
    """The user's metrics of log-probabilities (N, classes); one that fails is logged, left out."""
    found = {}
    for name, options in config.metrics.items():
        try:
            found[name] = _measure(name, options, predictions, labels)
        except ConfigError as error:  # what was trained is recorded without it
            log.warning("%s: it is not in the record", error)
    return found


def _measure(name: str, options: Values, predictions: Tensor, labels: Tensor) -> float:
    arguments = dict(options)
    target = arguments.pop("_target_", None)
    try:
        function = pkgutil.resolve_name(str(target))
        # Copies on the CPU: the same numbers now and from the stored predictions.
        value = float(function(predictions.cpu().clone(), labels.cpu().clone(), **arguments))
    except Exception as error:  # whatever a user's own function raises is a fault of the setting
        reason = f"fails: {type(error).__name__}: {error}"
        raise ConfigError(f"metrics.{name}", target, reason) from error
    if not math.isfinite(value):
        raise ConfigError(f"metrics.{name}", target, f"gave {value}, which is no finite number")
    return value


def measure_finished(reports: Sequence[TrainConfig]) -> None:
    """Add to finished records the metrics that they lack, from their stored predictions."""
    for config in reports:
        record = read_record(path := record_path(config))
        if record is None or not record.lacks(config.metrics):
            continue
        if (stored := read_predictions(path)) is None:
            log.warning("%s: its predictions are lost: force=true trains it for the metrics", path)
            continue
        images = load_images(config.dataset)
        check_data(path, record, config.dataset, images.identity(), fix_of(record))
        labels = torch.from_numpy(images.test_labels)
        found = measure(config, torch.from_numpy(stored), labels)
        add_metrics(record, config.metrics, found)
        log.info("Measured %s for %s", ", ".join(found) or "no metric", path)
