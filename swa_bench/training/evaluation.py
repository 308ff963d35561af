"""How a network is measured: predictions, their loss, error and calibration.

Averaged weights need their batch-norm statistics recomputed first: see batch_norm.py.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swa_bench.config.schema import TrainConfig
from swa_bench.data.batches import Images
from swa_bench.data.random import random_numbers
from swa_bench.results import locks
from swa_bench.training import hardware

Batches = Iterable[tuple[Tensor, Tensor]]
Found = TypeVar("Found")
ECE_BINS = 15


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (natural logarithm) and error in % over a pass."""

    loss: float
    error_pct: float


class Tally:
    """Sums of loss and errors on the device, so that nothing waits for it until a pass is over."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.wrong = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    def set(self, loss: float = 0.0, wrong: int = 0, images: int = 0) -> None:
        """Begin a pass, or go on in one; what is on the device stays in its place."""
        self.loss.fill_(loss)
        self.wrong.fill_(wrong)
        self.images = images

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch's mean loss and its wrong answers; its images are counted on the host."""
        self.loss.add_(loss.detach(), alpha=len(labels))
        self.wrong += (logits.detach().argmax(1) != labels).sum()

    def sums(self) -> tuple[float, int, int]:
        """What `set` takes; waits for the device."""
        return self.loss.item(), int(self.wrong.item()), self.images

    def score(self) -> Score:
        """Loss and error of the pass; waits for the device."""
        loss, wrong, images = self.sums()
        return Score(loss / images, 100.0 * wrong / images)


@torch.no_grad()
def predict(model: nn.Module, batches: Batches, autocast: torch.autocast) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N, classes), float32, of a model in evaluation mode, and labels (N,)."""
    model.eval()
    found = []
    for images, labels in batches:
        with autocast:
            logits = model(images)
        found.append((F.log_softmax(logits.float(), dim=1), labels))
    predictions, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return predictions, labels


def with_room(attempt: Callable[[int], Found], data: Images, config: TrainConfig) -> Found:
    """What `attempt` gives for evaluation.batch_size, halved until the GPU's memory holds a batch.

    For passes in evaluation mode, where nothing depends on the size but the rounding. To try is
    better than to ask what is free: nobody knows what a pass takes.
    """
    size = min(config.evaluation.batch_size, len(data.test_labels))
    while True:
        try:
            return attempt(size)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        torch.cuda.empty_cache()
        hardware.say_once(f"memory is too small for a test of {size} images at a time: halved")
        size = (size + 1) // 2


def predict_test_images(
    model: nn.Module, data: Images, config: TrainConfig, epoch: int
) -> tuple[Tensor, Tensor]:
    """What `predict` gives for the test images; what the network draws is that epoch's."""

    def attempt(size: int) -> tuple[Tensor, Tensor]:
        with random_numbers(config.seed, epoch, "predict", data.device):
            batches = locks.ending_between(data.test_batches(size))
            return predict(model, batches, hardware.autocast(config))

    return with_room(attempt, data, config)


def score(predictions: Tensor, labels: Tensor) -> Score:
    """Score log-probabilities (N, classes); the loss is their mean negative log-likelihood."""
    loss = F.nll_loss(predictions.double(), labels)
    wrong = (predictions.argmax(1) != labels).sum()
    return Score(loss.item(), 100.0 * wrong.item() / len(labels))


def calibration_error_pct(predictions: Tensor, labels: Tensor) -> float:
    """Expected calibration error in % of log-probabilities (N, classes): arXiv 1706.04599."""
    # On the CPU, where sums have one order.
    probabilities, answers = predictions.cpu().double().exp().max(1)
    confidence, right = probabilities.float(), answers.eq(labels.cpu()).float()
    # The edges begin the bins; those whose confidence is 1 have one of their own.
    edges = torch.linspace(0, 1, ECE_BINS + 1)
    bins = torch.bucketize(confidence, edges, right=True) - 1
    images, confidences, rights = (
        torch.zeros_like(edges).scatter_add_(0, bins, values)
        for values in (torch.ones_like(confidence), confidence, right)
    )
    gaps = (rights / images - confidences / images).nan_to_num().abs()  # 0 in empty bins
    return 100.0 * (gaps * (images / images.sum())).sum().item()
