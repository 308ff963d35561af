"""Wide residual network for 32x32 images, with the quirks of the authors' models/wide_resnet.py.

The quirks affected the published figures, so they are kept: every convolution has a bias, the
stride sits on a block's second convolution, the shortcut reads the raw input, the last batch norm
has momentum 0.9, the initialisation is torch's. `standard` is the net without them, as its own
authors published it (arXiv 1605.07146 and their code).
"""

from torch import Tensor, nn
from torch.nn import functional as F


class WideBlock(nn.Module):
    """BN-ReLU-conv3x3, BN-ReLU-conv3x3; the second one is strided, in the standard net the first.

    Where the shape changes, the shortcut is a 1x1 convolution of the raw input, in the standard net
    of the input after the first batch norm and ReLU.
    """

    def __init__(self, in_channels: int, width: int, stride: int, standard: bool) -> None:
        super().__init__()
        strides, bias = ((stride, 1), False) if standard else ((1, stride), True)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, strides[0], padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, strides[1], padding=1, bias=bias)
        changes = stride != 1 or in_channels != width
        self.shortcut: nn.Module = nn.Identity()
        if changes:
            self.shortcut = nn.Conv2d(in_channels, width, kernel_size=1, stride=stride, bias=bias)
        self.shortcut_reads_activation = standard and changes

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, H / stride, W / stride)."""
        activation = F.relu(self.bn1(x), inplace=True)
        out = self.conv2(F.relu(self.bn2(self.conv1(activation)), inplace=True))
        total: Tensor = out + self.shortcut(activation if self.shortcut_reads_activation else x)
        return total


class WideResNet(nn.Module):
    """A 3x3 convolution, three stages of (depth - 4) / 6 wide blocks, a linear layer."""

    def __init__(
        self, num_classes: int, depth: int, widen_factor: int, standard: bool = False
    ) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"depth {depth} is not 6n + 4")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=not standard)
        channels = 16
        stages: list[nn.Module] = []
        for base_width, stride in zip((16, 32, 64), (1, 2, 2), strict=True):
            width = base_width * widen_factor
            stage: list[nn.Module] = []
            for index in range(blocks):
                stage.append(WideBlock(channels, width, stride if index == 0 else 1, standard))
                channels = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(channels, momentum=0.1 if standard else 0.9)
        self.fc = nn.Linear(channels, num_classes)
        if standard:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, num_classes)."""
        features = F.relu(self.bn(self.stages(self.conv1(images))), inplace=True)
        logits: Tensor = self.fc(F.avg_pool2d(features, 8).flatten(1))
        return logits
