"""The networks of the paper's CIFAR experiments, plain modules: a name gives a constructor."""

from collections.abc import Callable

from torch import nn

from .preresnet import PreResNet
from .pyramidnet import PyramidNet
from .shakeshake import ShakeShake
from .vgg import VGG
from .wide_resnet import WideResNet

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "vgg16": lambda num_classes: VGG(num_classes, depth=16),
    "vgg16_bn": lambda num_classes: VGG(num_classes, depth=16, batch_norm=True),
    "vgg19": lambda num_classes: VGG(num_classes, depth=19),
    "vgg19_bn": lambda num_classes: VGG(num_classes, depth=19, batch_norm=True),
    "preresnet20": lambda num_classes: PreResNet(num_classes, depth=20, bottleneck=False),
    "preresnet110": lambda num_classes: PreResNet(num_classes, depth=110, bottleneck=True),
    "preresnet164": lambda num_classes: PreResNet(num_classes, depth=164, bottleneck=True),
    "wrn28_10": lambda num_classes: WideResNet(num_classes, depth=28, widen_factor=10),
    "wrn28_10_standard": lambda num_classes: WideResNet(
        num_classes, depth=28, widen_factor=10, standard=True
    ),
    "shakeshake26_2x64d": lambda num_classes: ShakeShake(num_classes, depth=26, base_width=64),
    "pyramidnet272_a200": lambda num_classes: PyramidNet(num_classes, depth=272, widening=200),
}


def build_model(name: str, num_classes: int) -> nn.Module:
    """Build a freshly initialised network.

    Args:
        name: one of `MODELS`.
        num_classes: width of the last layer.

    Returns:
        A module that maps float images (N, 3, 32, 32) to logits (N, num_classes).
        Its initial weights come from torch's global generator.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in MODELS:
        raise ValueError(f"model name {name!r} is unknown; choose one of {', '.join(MODELS)}")
    return MODELS[name](num_classes)
