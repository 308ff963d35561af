"""How long a run will take on this device, from a few timed steps."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from swa_bench.config.identity import digest
from swa_bench.config.plan import Plan
from swa_bench.config.schema import TrainConfig, to_dict
from swa_bench.data.batches import to_device
from swa_bench.data.images import ImageSet
from swa_bench.training import hardware
from swa_bench.training.states import fresh_state
from swa_bench.training.step import TrainStep, train_epoch

# A pass without gradients costs about a third of a training pass.
FORWARD_SHARE = 1 / 3
TRAINS_ALIKE = "model augmentation optimizer batch_size precision device channels_last".split()
TRAINS_ALIKE += ["compile", "cuda_graphs"]
_timed: dict[str, float] = {}  # seconds per image by what they depend on


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


def seconds_per_image(config: TrainConfig) -> float:
    """Time of training on an image; configurations that train alike are timed once."""
    values = to_dict(config)
    alike = {name: values[name] for name in TRAINS_ALIKE}
    key = digest(alike | {"size": [config.dataset.resize, config.dataset.image_size]})
    if key not in _timed:
        _timed[key] = _time_steps(config)
    return _timed[key]


def _time_steps(config: TrainConfig) -> float:
    """Time some steps on noise, after as many that are not counted.

    A CPU is timed with a quarter of the batch, so that the largest network answers within seconds,
    but with two images at least, which batch norm needs.
    """
    on_gpu = config.device == "cuda"
    size = config.batch_size if on_gpu else max(2, config.batch_size // 4)
    count = 30 if on_gpu else 1
    steps = [step_on_noise(dataclasses.replace(config, batch_size=size), count)]
    epoch_seconds(steps)
    return epoch_seconds(steps) / (count * size)


def run_seconds(plan: Plan, image_s: float) -> float:
    """Training and evaluation of a whole run, from the time of one training image."""
    config, evaluation = plan.config, plan.config.evaluation
    test_passes = config.epochs // evaluation.every
    collecting = sum(plan.collects(epoch) for epoch in range(config.epochs))
    averaging = config.epochs if config.method.predictors else collecting
    average_passes = averaging // evaluation.average_every
    train_images = config.dataset.train_images
    tested = (test_passes + average_passes) * config.dataset.test_images
    forward = tested + average_passes * train_images
    return image_s * (config.epochs * train_images + FORWARD_SHARE * forward)
