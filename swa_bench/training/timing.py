"""How long a run will take on this device: by past runs, or by a few timed steps."""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swa_bench.config.identity import digest
from swa_bench.config.plan import Plan
from swa_bench.config.schema import TrainConfig, to_dict
from swa_bench.data.batches import to_device
from swa_bench.data.images import ImageSet
from swa_bench.labels import counted
from swa_bench.results.record import Record, read_records
from swa_bench.training import hardware
from swa_bench.training.states import fresh_state
from swa_bench.training.step import TrainStep, train_epoch

# A pass without gradients costs about a third of a training pass.
FORWARD_SHARE = 1 / 3
TRAINS_ALIKE = "batch_size precision device channels_last compile".split()
ENOUGH_S = 1.0  # of a timed step on a CPU
BY_STEPS = "by timing a few steps"


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds of training on an image, and how that is known."""

    image_s: float
    source: str


_known: dict[str, Speed] = {}  # by what they depend on


def random_images(config: TrainConfig, images: int, seed: int = 0) -> ImageSet:
    """A training set of noise; its test set is empty."""
    random = np.random.default_rng(seed)
    size = config.dataset.resize
    pixels = random.integers(256, size=(images, size, size, 3), dtype=np.uint8)
    labels = random.integers(config.dataset.classes, size=images)
    return ImageSet(pixels, labels, pixels[:0], labels[:0])


def step_on_noise(config: TrainConfig, steps: int) -> TrainStep:
    """A fresh TrainStep as a run of this configuration has it, whose epoch has `steps` steps."""
    # A step takes as long from any weights, and pretrained ones may have to be fetched.
    config = dataclasses.replace(config, init="random")
    images = random_images(config, steps * config.batch_size)
    data = to_device(images, config, hardware.prepare(config))
    return TrainStep(config, fresh_state(config, data), data)


def epoch_seconds(steps: Sequence[TrainStep]) -> float:
    """How long an epoch of all of them together takes, at a rate near zero."""
    started = time.perf_counter()
    for one in steps:
        draws = one.inputs.data.draw(0, 0, "train")
        one.begin_epoch(draws, [1e-6] * len(one.sizes), seed=0, epoch=0)
    train_epoch(steps)  # waits for the device
    return time.perf_counter() - started


def speed(config: TrainConfig) -> Speed:
    """The speed of past runs that train alike on this device, or else of a few steps, timed once.

    Args:
        config: with precision and device decided.
    """
    alike = _alike(to_dict(config))
    key = digest(alike | {"results_dir": config.results_dir})
    if key not in _known:
        _known[key] = _recorded(config, alike) or Speed(_time_steps(config), BY_STEPS)
    return _known[key]


def _alike(values: dict[str, Any]) -> dict[str, Any]:
    """What the time of a step depends on, of the options of a run or record."""
    groups = {name: values.get(name) or {} for name in ("model", "dataset", "optimizer")}
    return {name: values.get(name) for name in (*TRAINS_ALIKE, "augmentation")} | {
        "model": [groups["model"].get(name) for name in ("_target_", "arguments")],
        "dataset": [groups["dataset"].get(name) for name in ("resize", "image_size")],
        "optimizer": groups["optimizer"].get("_target_"),
    }


def _recorded(config: TrainConfig, alike: dict[str, Any]) -> Speed | None:
    """The median speed of the recorded runs that train alike."""
    name = hardware.device_name(hardware.prepare(config))

    def fits(record: Record) -> bool:
        devices = {record.device, *(segment.get("device") for segment in record.segments)}
        return devices == {name} and _alike(record.config) == alike

    folders = Path(config.results_dir).glob(f"*/{config.model.name}")
    runs = {
        record.folder: record.timing.images_per_s
        for record in read_records(folders)
        if record.timing.images_per_s and fits(record)
    }
    if not runs:
        return None
    source = f"by {counted(len(runs), 'run')} on this device"
    return Speed(1 / statistics.median(runs.values()), source)


def _time_steps(config: TrainConfig) -> float:
    """Seconds an image of a step on noise, after as many steps that are not counted.

    A CPU is timed with as few images as take a moment, so that the largest network answers within
    seconds, but with two at least, which batch norm needs.
    """
    on_gpu = config.device == "cuda"
    size, count = (config.batch_size, 30) if on_gpu else (2, 1)
    while True:
        steps = [step_on_noise(dataclasses.replace(config, batch_size=size), count)]
        epoch_seconds(steps)
        seconds = epoch_seconds(steps)
        if on_gpu or seconds > ENOUGH_S or size >= config.batch_size:
            return seconds / (count * size)
        size = min(4 * size, config.batch_size)


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
