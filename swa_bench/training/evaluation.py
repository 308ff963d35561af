"""How a network is measured: predictions, their loss, error and calibration.

Averaged weights need their batch-norm statistics recomputed first: recompute_batch_norm.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batches = Iterable[tuple[Tensor, Tensor]]
ECE_BINS = 15


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (natural logarithm) and error in % over a pass."""

    loss: float
    error_pct: float


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


def score(predictions: Tensor, labels: Tensor) -> Score:
    """Score log-probabilities (N, classes); the loss is their mean negative log-likelihood."""
    loss = F.nll_loss(predictions.double(), labels)
    wrong = (predictions.argmax(1) != labels).sum()
    return Score(loss.item(), 100.0 * wrong.item() / len(labels))


def evaluate(model: nn.Module, batches: Batches, autocast: torch.autocast) -> Score:
    """Score a model in evaluation mode."""
    return score(*predict(model, batches, autocast))


def calibration_error_pct(predictions: Tensor, labels: Tensor) -> float:
    """Expected calibration error in %, with 15 bins of equal width (arXiv 1706.04599).

    Args:
        predictions: log-probabilities (N, classes).
        labels: int64 (N,).
    """
    # Takes seconds to import: only when a result is recorded.
    from torchmetrics.functional.classification import multiclass_calibration_error

    # On the CPU, where its sums have one order.
    probabilities, classes = predictions.cpu().double().exp(), predictions.shape[1]
    found = multiclass_calibration_error(probabilities, labels.cpu(), classes, ECE_BINS, norm="l1")
    return 100.0 * float(found)


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The model's batch-norm layers."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def recompute_batch_norm(model: nn.Module, batches: Batches, autocast: torch.autocast) -> None:
    """Replace running statistics by their means over one pass, every image weighing the same.

    With b images in a batch and n before it the momentum is b / (n + b) (S: utils.bn_update).
    `torch.optim.swa_utils.update_bn` would weigh every batch the same, the smaller last one too.
    Does nothing to a model without batch norm.
    """
    layers = batch_norms(model)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
    model.train()
    seen = 0
    for images, _ in batches:
        for layer in layers:
            layer.momentum = len(images) / (seen + len(images))
        with autocast:
            model(images)
        seen += len(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
