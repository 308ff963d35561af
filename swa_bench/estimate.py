"""How long a run will take on this device, from a few timed steps."""

import time

import torch

from . import device, engine
from .config import TrainConfig
from .plan import Plan
from .walk import fresh_model, fresh_optimizer

# A pass without gradients costs about a third of a training pass.
FORWARD_SHARE = 1 / 3


def seconds_per_image(config: TrainConfig) -> float:
    """Time training steps on random images, the first ones not counted.

    A CPU is timed with a quarter of the batch, so that the largest net answers within seconds.
    """
    target = torch.device(config.device.value)
    on_gpu = target.type == "cuda"
    size = config.optimizer.batch_size if on_gpu else max(1, config.optimizer.batch_size // 4)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    images = torch.randn(size, 3, 32, 32, device=target).contiguous(memory_format=layout)
    labels = torch.randint(config.dataset.classes, (size,), device=target)
    model = fresh_model(config, target)
    optimizer = fresh_optimizer(config, model)

    def train(steps: int) -> float:
        started = time.perf_counter()
        batches = [(images, labels)] * steps
        rates = [1e-4] * steps
        engine.train_epoch(model, optimizer, batches, rates, device.autocast(config))
        return time.perf_counter() - started

    steps = 30 if on_gpu else 1
    train(steps=10 if on_gpu else 1)
    return train(steps) / (steps * size)


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
