"""The grid of the paper's CIFAR tables, as conf/experiment/paper_tables.yaml has it.

Its files are read without Hydra, whose composing of 16 runs takes seconds.
"""

import functools
import importlib.resources
import pkgutil
from typing import Any

from omegaconf import OmegaConf

from swa_bench.config.resolvers import register_resolvers
from swa_bench.labels import Column


def shipped_yaml(name: str) -> Any:
    """The values of a file of conf/, not resolved."""
    text = (importlib.resources.files("swa_bench.conf") / name).read_text(encoding="utf-8")
    return OmegaConf.create(text)


@functools.cache
def _options(group: str, name: str) -> Any:
    """The values of a file of a group that builds upon no others, or upon plain ones."""
    values = shipped_yaml(f"{group}/{name}.yaml")
    bases = values.pop("defaults", [])
    return OmegaConf.merge(*(_options(group, base) for base in bases), values)


_EXPERIMENT, _TRAIN = map(shipped_yaml, ("experiment/paper_tables.yaml", "train.yaml"))
_PARAMS = _EXPERIMENT.hydra.sweeper.params
_DEFAULTS = OmegaConf.merge(*(one for one in _TRAIN.defaults if one != "_self_"))
PAPER_DATASETS = tuple(_PARAMS.dataset.split(","))
PAPER_MODELS = tuple(_PARAMS.model.split(","))
PAPER_SEEDS = tuple(int(seed) for seed in str(_PARAMS.seed).split(","))
PAPER_METHODS = (*_EXPERIMENT.also_train, _DEFAULTS.method)  # the baseline first
# A run of a method's table_budget reports all smaller budgets too.
PAPER_COLUMNS: tuple[Column, ...] = tuple(
    (method, float(budget))
    for method in PAPER_METHODS
    for budget in _TRAIN.report_budgets
    if budget <= _options("method", method).table_budget
)


@functools.cache
def lengths(dataset: str, model: str) -> tuple[dict[str, int], int]:
    """Epochs of the grid's run of each method, and after how many of them the two part."""
    register_resolvers()
    epochs, rates = {}, []
    for method in PAPER_METHODS:
        chosen = {"dataset": dataset, "model": model, "method": method}
        groups = {**chosen, "schedule": _DEFAULTS.schedule}
        cfg = OmegaConf.merge(_TRAIN, {key: _options(key, groups[key]) for key in groups})
        values = dict(cfg.schedule)
        schedule = pkgutil.resolve_name(values.pop("_target_"))
        epochs[method] = cfg.epochs
        rates.append([schedule(epoch, 0, 1, **values) for epoch in range(cfg.epochs)])
    both = zip(*rates, strict=False)
    return epochs, next(epoch for epoch, (one, other) in enumerate(both) if one != other)
