"""Pre-activation residual networks for 32x32 images (authors' models/preresnet.py).

With bottleneck blocks the depth is 9n + 2 (n blocks per stage): 110 is n = 12 and 164 is n = 18.
With basic blocks it is 6n + 2: 20 is n = 3.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from .vgg import draw_convolutions

STAGE_WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """BN-ReLU-conv3x3, BN-ReLU-conv3x3; the stride sits on the first convolution."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv(in_channels, width, kernel_size=3, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, kernel_size=3)
        self.shortcut = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out channels, H / stride, W / stride)."""
        out = self.conv1(F.relu(self.bn1(x), inplace=True))
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        total: Tensor = out + self.shortcut(x)
        return total


class Bottleneck(nn.Module):
    """BN-ReLU-conv1x1, BN-ReLU-conv3x3, BN-ReLU-conv1x1; the stride sits on the 3x3.

    The shortcut reads the block's raw input, before the first batch norm and ReLU.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv(in_channels, width, kernel_size=1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, kernel_size=3, stride=stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, out_channels, kernel_size=1)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out channels, H / stride, W / stride)."""
        out = self.conv1(F.relu(self.bn1(x), inplace=True))
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        out = self.conv3(F.relu(self.bn3(out), inplace=True))
        total: Tensor = out + self.shortcut(x)
        return total


class PreResNet(nn.Module):
    """A 3x3 convolution, three stages (32x32, 16x16, 8x8), a last batch norm, a linear layer."""

    def __init__(self, num_classes: int, depth: int, bottleneck: bool) -> None:
        super().__init__()
        layers_per_block = 9 if bottleneck else 6
        if (depth - 2) % layers_per_block:
            raise ValueError(f"depth {depth} is not {layers_per_block}n + 2")
        blocks = (depth - 2) // layers_per_block
        block = Bottleneck if bottleneck else BasicBlock
        self.conv1 = _conv(3, STAGE_WIDTHS[0], kernel_size=3)
        channels = STAGE_WIDTHS[0]
        stages: list[nn.Module] = []
        for width, stride in zip(STAGE_WIDTHS, (1, 2, 2), strict=True):
            stage: list[nn.Module] = []
            for index in range(blocks):
                stage.append(block(channels, width, stride if index == 0 else 1))
                channels = width * block.expansion
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        draw_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, num_classes)."""
        features = F.relu(self.bn(self.stages(self.conv1(images))), inplace=True)
        logits: Tensor = self.fc(F.avg_pool2d(features, 8).flatten(1))
        return logits


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
    )


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return _conv(in_channels, out_channels, kernel_size=1, stride=stride)
