"""How long a run will take on this machine, by past runs or by swa-check."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swa_bench.config.plan import Plan
from swa_bench.config.schema import TrainConfig, to_dict
from swa_bench.labels import counted
from swa_bench.results.machine import THREADS, is_here
from swa_bench.results.record import Record
from swa_bench.results.verdicts import read_verdicts

# A pass without gradients costs about a third of a training pass.
FORWARD_SHARE = 1 / 3
TRAINS_ALIKE = "batch_size precision channels_last compile".split()
CHECKED_SIZE = 32  # pixels on each side of the images of swa-check


@dataclass(frozen=True)
class Speed:
    """Seconds of training on an image, and how that is known."""

    image_s: float
    source: str


def speed(config: TrainConfig, records: Iterable[Record]) -> Speed | None:
    """The speed of past runs that train alike on this machine, or else what swa-check measured.

    Args:
        records: of runs of the network.
    """
    return _recorded(config, records) or _checked(config)


def _recorded(config: TrainConfig, records: Iterable[Record]) -> Speed | None:
    alike = _alike(to_dict(config))
    speeds = {
        record.folder: record.timing.images_per_s
        for record in records
        if record.timing.images_per_s
        and _alike(record.config) == alike
        and all(_is_meant(config, name) for name in _devices(record))
    }
    if not speeds:
        return None
    source = f"by {counted(len(speeds), 'run')} on this device"
    return Speed(1 / statistics.median(speeds.values()), source)


def _devices(record: Record) -> set[str]:
    return {record.device, *(str(segment.get("device")) for segment in record.segments)}


def _is_meant(config: TrainConfig, name: str) -> bool:
    """Whether a device that records know by a name is the one of a configuration."""
    threads = THREADS.search(name)
    fits = config.device in ("auto", "cpu" if threads else "cuda")
    return is_here(name) and fits and (not threads or config.threads in ("auto", int(threads[1])))


def _alike(values: dict[str, Any]) -> dict[str, Any]:
    """What the time of a step depends on, of the options of a run or record."""
    groups = {name: values.get(name) or {} for name in ("model", "dataset", "optimizer")}
    return {name: values.get(name) for name in (*TRAINS_ALIKE, "augmentation")} | {
        "model": [groups["model"].get(name) for name in ("_target_", "arguments")],
        "dataset": [groups["dataset"].get(name) for name in ("resize", "image_size")],
        "optimizer": groups["optimizer"].get("_target_"),
    }


def _checked(config: TrainConfig) -> Speed | None:
    shipped = config.model._target_.startswith("swa_bench.")
    if not shipped or config.dataset.image_size != CHECKED_SIZE:
        return None
    for verdict in read_verdicts(Path(config.results_dir)):
        image_s = verdict.image_s.get(config.model.name, {}).get(config.precision)
        if image_s is not None and _is_meant(config, verdict.device):
            return Speed(image_s, "by swa-check")
    return None


def run_seconds(plan: Plan, image_s: float, epochs: range) -> float:
    """Training and evaluation of some epochs of a run, from the time of one training image.

    Args:
        epochs: from 0.
    """
    config, evaluation = plan.config, plan.config.evaluation
    first = config.method.collect_from
    averages = bool(config.method.predictors)
    test_passes = average_passes = 0
    for epoch in epochs:
        collected = first is not None and epoch + 1 >= first
        test_passes += (epoch + 1) % evaluation.every == 0
        average_passes += (averages or collected) and (epoch + 1) % evaluation.average_every == 0
    train_images = config.dataset.train_images
    tested = (test_passes + average_passes) * config.dataset.test_images
    forward = tested + average_passes * train_images
    return image_s * (len(epochs) * train_images + FORWARD_SHARE * forward)
