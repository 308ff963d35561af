"""How long a run will take on this device, from a few timed steps."""

import dataclasses
import time

import numpy as np
import torch

from swa_bench.config.plan import Plan
from swa_bench.config.schema import Device, TrainConfig
from swa_bench.data.batches import to_device
from swa_bench.data.images import Arrays
from swa_bench.training.checkpoints import State
from swa_bench.training.network import fresh_model
from swa_bench.training.run import fresh_optimizer, make_trainer
from swa_bench.training.step import Trainer, train_epoch

# A pass without gradients costs about a third of a training pass.
FORWARD_SHARE = 1 / 3


def random_arrays(config: TrainConfig, images: int) -> Arrays:
    """A training set of noise, for timing; its test set is empty."""
    random = np.random.default_rng(0)
    size = config.dataset.resize
    pixels = random.integers(256, size=(images, size, size, 3), dtype=np.uint8)
    labels = random.integers(config.dataset.classes, size=images)
    return Arrays(pixels, labels, pixels[:0], labels[:0])


def trainer_on_noise(config: TrainConfig, steps: int) -> Trainer:
    """A fresh trainer as a run of this configuration has it, with an epoch of so many steps."""
    target = torch.device(config.device.value)
    data = to_device(random_arrays(config, steps * config.optimizer.batch_size), config, target)
    # A step takes as long from whatever weights, and pretrained ones may have to be fetched.
    model = fresh_model(dataclasses.replace(config, init="random"), target)
    return make_trainer(config, State(model, fresh_optimizer(config, model)), data)


def epoch_seconds(trainers: list[Trainer]) -> float:
    """How long an epoch of all of them together takes, at a rate near zero."""
    started = time.perf_counter()
    for trainer in trainers:
        draws = trainer.feed.data.draw(0, 0, "train")
        trainer.begin_epoch(draws, [1e-6] * len(trainer.sizes), dropout_seed=0)
    train_epoch(trainers)  # waits for the device
    return time.perf_counter() - started


def seconds_per_image(config: TrainConfig) -> float:
    """Time training steps on noise, the first ones not counted.

    A CPU is timed with a quarter of the batch, so that the largest net answers within seconds; of
    two images at least, which batch norm needs.
    """
    on_gpu = config.device is Device.cuda
    size = config.optimizer.batch_size if on_gpu else max(2, config.optimizer.batch_size // 4)
    optimizer = dataclasses.replace(config.optimizer, batch_size=size)
    steps = 30 if on_gpu else 1
    trainers = [trainer_on_noise(dataclasses.replace(config, optimizer=optimizer), steps)]
    epoch_seconds(trainers)
    return epoch_seconds(trainers) / (steps * size)


def run_seconds(plan: Plan, image_s: float) -> float:
    """Training and evaluation of a whole run, from the time of one training image."""
    config = plan.config
    evaluation = config.evaluation
    test_passes = config.epochs // evaluation.every
    collecting = sum(plan.collects(epoch) for epoch in range(config.epochs))
    average_passes = collecting // evaluation.average_every
    train_images = config.dataset.train_images
    tested = (test_passes + average_passes) * config.dataset.test_images
    forward = tested + average_passes * train_images
    return image_s * (config.epochs * train_images + FORWARD_SHARE * forward)
