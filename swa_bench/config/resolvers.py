"""The resolvers of conf/*.yaml: values that follow from others."""

import math

from omegaconf import OmegaConf

from swa_bench.config.schema import whole_epochs
from swa_bench.errors import ConfigError


def register_resolvers() -> None:
    """Make the resolvers of conf/*.yaml known."""
    for resolver in (whole_epochs, default_budget, ratio, split, mid_cycle, gpu_count):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def default_budget(table_budget: float, ensemble_of: str | None, most: float = math.inf) -> float:
    """The budget that fills a method's row, within `most`; of an ensemble that of one run."""
    return min(table_budget, most) if ensemble_of is None else 1


def ratio(part: float, whole: float) -> float | None:
    """Part over whole; None where that is not defined, so that the checks of both can say so."""
    numbers = all(isinstance(value, int | float) for value in (part, whole))
    return part / whole if numbers and whole else None


def split(epochs: int, cycles: int) -> int:
    """Length in epochs of each of `cycles` equal cycles."""
    if not isinstance(epochs, int) or cycles < 1 or epochs % cycles:
        expected = f"must be a multiple of {cycles}, so that a cycle is of whole epochs"
        raise ConfigError("model.budget_epochs", epochs, expected)
    return epochs // cycles


def mid_cycle(start: int, cycle_epochs: int) -> int:
    """Epochs done in the middle of the first cycle that begins after `start` epochs."""
    if not isinstance(cycle_epochs, int) or cycle_epochs < 2 or cycle_epochs % 2:
        expected = "must be even: a member is taken in the middle of a cycle, after a whole epoch"
        raise ConfigError("method.cycle_epochs", cycle_epochs, expected)
    return start + cycle_epochs // 2


def gpu_count() -> int:
    """GPUs that this process may use: see conf/hydra/launcher/local_gpus.yaml."""
    import torch

    count: int = torch.cuda.device_count()
    if not count:  # every job would wait for one forever
        raise ConfigError("hydra.launcher.ray.init.num_gpus", 0, "no GPU was found on this machine")
    return count
