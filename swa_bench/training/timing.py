"""Training steps on images of noise, and how long they take on this device."""

import dataclasses
import statistics
import time
from collections.abc import Sequence

import numpy as np

from swa_bench.config.schema import TrainConfig
from swa_bench.data.batches import to_device
from swa_bench.data.images import ImageSet
from swa_bench.training import hardware
from swa_bench.training.states import fresh_state
from swa_bench.training.step import TrainStep, train_epoch

# Epochs of a TrainStep before it is as fast as it gets: on a GPU, the second records graphs.
WARM_UP = {"cpu": 1, "cuda": 2}


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


def usual_seconds(steps: Sequence[TrainStep], warm_up: int = 1, epochs: int = 3) -> float:
    """The median over some epochs, as of `epoch_seconds`, after others that warm up."""
    return statistics.median([epoch_seconds(steps) for _ in range(warm_up + epochs)][warm_up:])
