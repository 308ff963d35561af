"""VGG for 32x32 images (authors' models/vgg.py).

The published rows are the nets without batch norm; the variants with it are not in the tables.
"""

import math

from torch import Tensor, nn

# Widths of the 3x3 convolutions between two max pools.
STAGES = {
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    19: ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}


class VGG(nn.Module):
    """13 or 16 convolutions with bias, five max pools, three linear layers with dropout."""

    def __init__(self, num_classes: int, depth: int, batch_norm: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(*_feature_layers(depth, batch_norm))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Linear(512, num_classes),
        )
        draw_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, num_classes)."""
        features: Tensor = self.features(images)  # (N, 512, 1, 1)
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


def draw_convolutions(network: nn.Module) -> None:
    """Give convolutions the authors' first weights; linear layers keep torch's default."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _feature_layers(depth: int, batch_norm: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for widths in STAGES[depth]:
        for width in widths:
            layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return layers
