"""Networks that people have and that ask more of a run than the shipped ones do."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Base(nn.Module):
    """Two convolutions with batch norm and a linear layer; `extra` is what a subclass puts in."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, stride=4), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, num_classes)

    def extra(self, features: Tensor) -> Tensor:
        """(N, 6, H, W) to the same."""
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, S, S) to logits (N, num_classes)."""
        features = self.extra(F.relu(self.bn1(self.conv1(images))))
        features = F.relu(self.bn2(self.conv2(features)))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


class Frozen(Base):
    """Its batch norms stay in evaluation mode, as in fine-tuning with frozen statistics."""

    def train(self, mode: bool = True) -> "Frozen":
        """Everything but the batch norms."""
        super().train(mode)
        self.bn1.eval()
        self.bn2.eval()
        return self


class Skipping(Base):
    """Stochastic depth: each of two blocks is skipped in half of the batches."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)) for _ in range(2)
        )

    def extra(self, features: Tensor) -> Tensor:
        """Add each block's output, or not."""
        for block in self.blocks:
            if not self.training or torch.rand(()) < 0.5:
                features = features + block(features)
        return features


class OneScriptedBlock(Base):
    """A scripted block inside."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.block = torch.jit.script(nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)))

    def extra(self, features: Tensor) -> Tensor:
        """Through the block."""
        through: Tensor = self.block(features)
        return through


class OwnNorm(nn.Module):
    """A hand-written layer that keeps a running scale in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Divide by the running scale."""
        if self.training:
            self.scale: Tensor = 0.9 * self.scale + 0.1 * features.detach().float().std()
        return features / self.scale


class HandWritten(Base):
    """With such a layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.own = OwnNorm()

    def extra(self, features: Tensor) -> Tensor:
        """Through the layer."""
        normed: Tensor = self.own(features)
        return normed


class Drawing(Base):
    """Draws with torch, numpy and Python, in training and in evaluation."""

    def extra(self, features: Tensor) -> Tensor:
        """Noise from three generators."""
        features = F.dropout(features, 0.3, self.training)
        noise = random.uniform(0.9, 1.1) + 0.1 * float(np.random.normal())
        return features * noise + 0.1 * torch.rand_like(features)


def scripted(num_classes: int) -> Any:
    """A network that is scripted as a whole."""
    return torch.jit.script(Base(num_classes))
