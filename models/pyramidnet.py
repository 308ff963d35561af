"""PyramidNet with bottlenecks for 32x32 images (arXiv 1610.02915 and its authors' Lua code).

Every block is wider than the one before it, by the same share of `widening`. The depth is 9n + 2,
with n blocks a stage: 272 is n = 30.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from .vgg import draw_convolutions

FIRST_WIDTH = 16
EXPANSION = 4


class PyramidBlock(nn.Module):
    """BN-conv1x1, BN-ReLU-conv3x3, BN-ReLU-conv1x1-BN; the stride sits on the 3x3.

    The shortcut has no weights: 2x2 averages where the stride is 2, and zeros for the channels
    that the input lacks.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * EXPANSION, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(width * EXPANSION)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 * width, H / stride, W / stride)."""
        out = self.conv1(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        out = self.conv3(F.relu(self.bn3(out), inplace=True))
        out = self.bn4(out)
        shortcut = x if self.stride == 1 else F.avg_pool2d(x, 2, ceil_mode=True)
        missing = out.shape[1] - shortcut.shape[1]
        total: Tensor = out + F.pad(shortcut, (0, 0, 0, 0, 0, missing))
        return total


class PyramidNet(nn.Module):
    """A 3x3 convolution, three stages (32x32, 16x16, 8x8), a last batch norm, a linear layer.

    Args:
        widening: by how much wider the last block is than the first convolution.
    """

    def __init__(self, num_classes: int, depth: int, widening: int) -> None:
        super().__init__()
        if (depth - 2) % 9:
            raise ValueError(f"depth {depth} is not 9n + 2")
        blocks = (depth - 2) // 9
        self.conv1 = nn.Conv2d(3, FIRST_WIDTH, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(FIRST_WIDTH)
        channels = FIRST_WIDTH
        stages: list[nn.Module] = []
        for number, stride in enumerate((1, 2, 2)):
            stage: list[nn.Module] = []
            for index in range(blocks):
                share = (number * blocks + index + 1) / (3 * blocks)
                width = round(FIRST_WIDTH + widening * share)
                stage.append(PyramidBlock(channels, width, 1 if index else stride))
                channels = width * EXPANSION
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.bn2 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        draw_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, num_classes)."""
        features = F.relu(self.bn2(self.stages(self.bn1(self.conv1(images)))), inplace=True)
        logits: Tensor = self.fc(F.avg_pool2d(features, 8).flatten(1))
        return logits
