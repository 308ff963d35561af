"""Networks of torchvision, with or without the weights that it publishes."""

from pathlib import Path

from torch import hub, nn
from torchvision.models import get_model, get_model_weights


def torchvision_model(
    num_classes: int, name: str, weights: str, pretrained: bool = False
) -> nn.Module:
    """Build a network of torchvision.

    Args:
        num_classes: width of the last layer; a pretrained net of another width gets a fresh one.
        name: as in torchvision.models.list_models().
        weights: such as IMAGENET1K_V1, taken if `pretrained` is set: from
            $TORCH_HOME/hub/checkpoints, or downloaded to it.

    Raises:
        ValueError: torchvision knows no such network or weights.
        OSError: the weights could not be downloaded; it says from where, and where to put them.
    """
    if not pretrained:
        random: nn.Module = get_model(name, weights=None, num_classes=num_classes)
        return random
    try:
        model: nn.Module = get_model(name, weights=weights)
    except OSError as error:
        url = get_model_weights(name)[weights].url
        folder = Path(hub.get_dir()) / "checkpoints"
        raise OSError(f"{error}: put {url} into {folder} by hand") from error
    last, layer = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    if layer.out_features != num_classes:
        parent, _, attribute = last.rpartition(".")
        fresh = nn.Linear(layer.in_features, num_classes)
        setattr(model.get_submodule(parent), attribute, fresh)
    return model
