"""Shake-Shake networks for 32x32 images (arXiv 1705.07485 and its author's Lua code).

Each block adds two branches, weighted anew for every image: alpha and 1 - alpha in the forward
pass, beta and 1 - beta in the backward pass, both uniform on [0, 1). In evaluation both are 1/2.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .vgg import draw_convolutions


class Shake(torch.autograd.Function):
    """alpha * one + (1 - alpha) * other, whose gradients are weighted by beta instead.

    All are of one dtype; the weights are (N, 1, 1, 1).
    """

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """Mix two tensors (N, C, H, W)."""
        ctx.save_for_backward(beta)
        return torch.lerp(other, one, alpha)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Share the gradient out to both: beta of it to the first."""
        (beta,) = ctx.saved_tensors
        of_one = gradient * beta
        return of_one, gradient - of_one, None, None


class Branch(nn.Module):
    """Conv3x3-BN-ReLU, conv3x3-BN, of an input after ReLU; the stride sits on the first."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, activation: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(activation)), inplace=True)
        normalised: Tensor = self.bn2(self.conv2(out))
        return normalised


class Shortcut(nn.Module):
    """Half of the channels each from two 1x1 convolutions, then batch norm.

    The second one sees the image moved by one pixel to the right and down, so that the two see
    different pixels where they skip every other one.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width // 2, 1, stride, bias=False)
        self.conv2 = nn.Conv2d(in_channels, width // 2, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, activation: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, H / stride, W / stride)."""
        moved = F.pad(activation, (1, -1, 1, -1))
        normalised: Tensor = self.bn(torch.cat([self.conv1(activation), self.conv2(moved)], dim=1))
        return normalised


class ShakeBlock(nn.Module):
    """Two branches of the input after ReLU, and a shortcut.

    The shortcut is the raw input; where the width changes, it reads the input after ReLU.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch1 = Branch(in_channels, width, stride)
        self.branch2 = Branch(in_channels, width, stride)
        self.shortcut = Shortcut(in_channels, width, stride) if in_channels != width else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, H / stride, W / stride)."""
        activation = F.relu(x)
        one, other = self.branch1(activation), self.branch2(activation)
        if self.training:
            # Both at once, so that the order of draws does not depend on autograd's.
            shape = (2, len(x), 1, 1, 1)
            alpha, beta = torch.rand(shape, dtype=one.dtype, device=one.device)
            mixed = Shake.apply(one, other, alpha, beta)
        else:
            mixed = (one + other) / 2
        total: Tensor = mixed + (x if self.shortcut is None else self.shortcut(activation))
        return total


class ShakeShake(nn.Module):
    """A 3x3 convolution, three stages of (depth - 2) / 6 blocks, a linear layer.

    Args:
        base_width: of the first stage; it doubles with each stage.
    """

    def __init__(self, num_classes: int, depth: int, base_width: int) -> None:
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"depth {depth} is not 6n + 2")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        channels = 16
        stages: list[nn.Module] = []
        for factor, stride in ((1, 1), (2, 2), (4, 2)):
            stage: list[nn.Module] = []
            for index in range((depth - 2) // 6):
                stage.append(ShakeBlock(channels, factor * base_width, 1 if index else stride))
                channels = factor * base_width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, num_classes)
        draw_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, num_classes)."""
        features = F.relu(self.stages(self.bn(self.conv1(images))), inplace=True)
        logits: Tensor = self.fc(F.avg_pool2d(features, 8).flatten(1))
        return logits
