"""The grid of the paper's CIFAR tables, as conf/experiment/paper_tables.yaml has it."""

import importlib.resources
from typing import Any

from omegaconf import OmegaConf

Column = tuple[str, float]  # a method and a budget


def shipped_yaml(name: str) -> Any:
    """The values of a file of conf/, not resolved."""
    text = (importlib.resources.files("swa_bench.conf") / name).read_text(encoding="utf-8")
    return OmegaConf.create(text)


def _columns(methods: tuple[str, ...], budgets: list[float]) -> tuple[Column, ...]:
    """A run of a method's table_budget reports all smaller budgets too."""
    longest = {method: shipped_yaml(f"method/{method}.yaml").table_budget for method in methods}
    return tuple((m, float(b)) for m in methods for b in budgets if b <= longest[m])


_EXPERIMENT = shipped_yaml("experiment/paper_tables.yaml")
_PARAMS = _EXPERIMENT.hydra.sweeper.params
PAPER_DATASETS = tuple(_PARAMS.dataset.split(","))
PAPER_MODELS = tuple(_PARAMS.model.split(","))
PAPER_SEEDS = tuple(int(seed) for seed in str(_PARAMS.seed).split(","))
_TRAIN = shipped_yaml("train.yaml")
_METHOD = next(one.method for one in _TRAIN.defaults if "method" in one)
PAPER_METHODS = (*_EXPERIMENT.also_train, _METHOD)  # the baseline first
PAPER_COLUMNS = _columns(PAPER_METHODS, _TRAIN.report_budgets)
