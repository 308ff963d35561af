"""A network of your own, for images of any size: see docs/own.md."""

from torch import Tensor, nn


class Net(nn.Module):
    """Three convolutions with batch norm, the mean over the picture, and a linear layer."""

    def __init__(self, num_classes: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for wider in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(wider), nn.ReLU()]
            channels = wider
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map float images (N, 3, S, S) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits
