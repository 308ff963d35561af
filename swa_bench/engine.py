"""One epoch of training, one evaluation, one recomputation of batch-norm statistics."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (natural logarithm) and error in % over a pass."""

    loss: float
    error_pct: float


class _Tally:
    """Sums on the device, so that nothing waits for it until the pass is over."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.wrong = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.loss += loss.detach().double() * len(labels)
        self.wrong += (logits.detach().argmax(1) != labels).sum()
        self.images += len(labels)

    def score(self) -> Score:
        return Score(self.loss.item() / self.images, 100.0 * self.wrong.item() / self.images)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    rates: list[float],
    autocast: torch.autocast,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Score:
    """Take one optimiser step a batch; the score is that of the batches as they were trained on.

    Args:
        batches: images (B, 3, 32, 32) and labels (B,).
        rates: the learning rate of each step.
        autocast: context of the forward pass.
        on_batch: called with the number of images after each step.
    """
    model.train()
    tally = None
    for (images, labels), rate in zip(batches, rates, strict=True):
        tally = tally or _Tally(images.device)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with autocast:
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        tally.add(loss, logits, labels)
        on_batch(len(labels))
    assert tally is not None
    return tally.score()


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, autocast: torch.autocast) -> Score:
    """Score a model in evaluation mode."""
    model.eval()
    tally = None
    for images, labels in batches:
        tally = tally or _Tally(images.device)
        with autocast:
            logits = model(images).float()
        tally.add(F.cross_entropy(logits, labels), logits, labels)
    assert tally is not None
    return tally.score()


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
