"""Training as the authors' code does it, for the benchmark to compare with.

Loader processes that augment one PIL image after another, eager float32, and the loss and the
number of correct answers read back from the device at every step.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from swa_bench.config.schema import TrainConfig
from swa_bench.training import hardware
from swa_bench.training.network import fresh_model
from swa_bench.training.timing import random_images

LOADER_WORKERS = 4  # the authors' default

Turn = Callable[[], float]  # takes some steps; the seconds of one


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Single PIL images through torchvision's transforms, as the authors load them."""

    def __init__(self, config: TrainConfig) -> None:
        noise = random_images(config, 4096)
        self.images, self.labels = noise.train_images, noise.train_labels
        normalisation = config.model.normalisation
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=config.augmentation["padding"]),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(normalisation.mean, normalisation.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def plain_step(config: TrainConfig) -> Callable[[Tensor, Tensor], None]:
    """A step on images and labels as anybody would write it, the loss read back each time."""
    model = fresh_model(config, torch.device(config.device)).train()
    optimizer = torch.optim.SGD(
        model.parameters(), 1e-6, config.optimizer["momentum"], weight_decay=5e-4, foreach=False
    )

    def step(images: Tensor, labels: Tensor) -> None:
        with hardware.autocast(config):
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()
        (logits.argmax(1) == labels).sum().item()

    return step


def reference(config: TrainConfig, steps: int) -> Turn:
    """The plain way: loader processes, eager float32, the loss read back at every step."""
    target = torch.device(config.device)
    dataset = AugmentedImages(config)
    workers = min(LOADER_WORKERS, os.cpu_count() or 1)
    loader = DataLoader(
        dataset,
        config.batch_size,
        sampler=RandomSampler(dataset, replacement=True, num_samples=10**9),
        num_workers=workers,
        pin_memory=target.type == "cuda",
    )
    batches: Iterator[list[Tensor]] = iter(loader)
    step = plain_step(replace(config, channels_last=False))

    def turn() -> float:
        hardware.prepare(config)
        for _ in range(2 * workers):  # what the loader has made while others had their turn
            next(batches)
        started = time.perf_counter()
        for _ in range(steps):
            step(*(part.to(target, non_blocking=True) for part in next(batches)))
        return (time.perf_counter() - started) / steps

    return turn
