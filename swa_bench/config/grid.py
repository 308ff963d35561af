"""The grids of conf/grids.yaml: the rows, columns and seeds of their experiments.

The files are read without Hydra, whose composing of a grid's runs takes seconds. The tests compare
what is read with what Hydra composes.
"""

import functools
import importlib.resources
import itertools
import math
import pkgutil
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from swa_bench.config.resolvers import register_resolvers
from swa_bench.labels import Column, in_order

GROUPS = ("dataset", "model", "schedule", "method")  # which decide the lengths and rates of runs


def shipped_yaml(name: str) -> Any:
    """The values of a file of conf/, not resolved."""
    text = (importlib.resources.files("swa_bench.conf") / name).read_text(encoding="utf-8")
    return OmegaConf.create(text)


@functools.cache
def _read(name: str) -> tuple[Any, dict[str, str]]:
    """The values of a file upon those of the files that it names as its defaults.

    Returns:
        The values; and of the groups from which it selects a file, which one.
    """
    values, selected = shipped_yaml(f"{name}.yaml"), {}
    bases = []
    for entry in values.pop("defaults", []):
        if not isinstance(entry, str):
            ((group, choice),) = entry.items()
            selected[re.sub("^override /|@.*", "", group)] = choice
        elif entry != "_self_":
            base, more = _read(f"{name.rpartition('/')[0]}/{entry}")
            bases.append(base)
            selected |= more
    return OmegaConf.merge(*bases, values), selected


@dataclass(frozen=True)
class Experiment:
    """A sweep of some methods over data sets, models and seeds.

    Attributes:
        methods: in the order of the columns: those of also_train come first.
    """

    name: str
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Its data sets and models."""
        return list(itertools.product(self.datasets, self.models))

    @functools.cached_property
    def columns(self) -> tuple[Column, ...]:
        """The methods and budgets that its runs report."""
        found = []
        for method in self.methods:
            cfg = self._options(*self.rows[0], method)
            budgets = sorted({*cfg.report_budgets, cfg.budget})
            found += [(method, float(budget)) for budget in budgets if budget <= cfg.budget]
        return tuple(found)

    def states(self, dataset: str, model: str) -> dict[str, list[int]]:
        """Of each method's run, a name of its state after 1, 2, ... epochs.

        Methods have the names of the epochs that they share in common.
        """
        found = {}
        for method in self.methods:
            cfg = self._options(dataset, model, method)
            values = dict(cfg.schedule)
            schedule = pkgutil.resolve_name(values.pop("_target_"))
            first = cfg.method.collect_from or math.inf
            epochs = (
                (schedule(epoch, 0, 1, **values), epoch + 1 >= first) for epoch in range(cfg.epochs)
            )
            start = "" if method in cfg.checkpoints.keep_for else method
            names = itertools.accumulate(epochs, lambda *of: hash(of), initial=hash(start))
            found[method] = list(names)[1:]
        return found

    def _options(self, dataset: str, model: str, method: str) -> Any:
        """The options of its runs of a method, as far as GROUPS have them, with interpolations."""
        register_resolvers()
        (train, defaults), (own, selected) = _read("train"), _read(f"experiment/{self.name}")
        row = {"dataset": dataset, "model": model, "method": method}
        came_along = _read(f"dataset/{dataset}")[1] | _read(f"method/{method}")[1]
        chosen = defaults | came_along | selected | row
        if method != self.methods[-1]:  # the experiment's changes are of its own method
            own = OmegaConf.masked_copy(own, [name for name in own if name != "method"])
        groups = {group: _read(f"{group}/{chosen[group]}")[0] for group in GROUPS}
        return OmegaConf.merge(train, groups, own)


@functools.cache
def read_experiment(name: str) -> Experiment:
    """An experiment that is a sweep over data sets, models or seeds."""
    values, selected = _read(f"experiment/{name}")
    chosen = _read("train")[1] | selected

    def swept(option: str) -> list[str]:
        listed = values.hydra.sweeper.params.get(option, chosen.get(option))
        return str(listed).replace(" ", "").split(",")

    seeds = map(int, swept("seed"))
    methods = (*values.get("also_train", []), chosen["method"])
    return Experiment(name, tuple(swept("dataset")), tuple(swept("model")), tuple(seeds), methods)


@dataclass(frozen=True)
class Grid:
    """Experiments that belong together.

    Attributes:
        table: whether they are the paper's table of their data sets.
    """

    title: str
    experiments: tuple[Experiment, ...]
    table: bool


@functools.cache
def grids() -> dict[str, Grid]:
    """The grids by name; the first is meant where none is named."""
    return {
        name: Grid(of.title, tuple(map(read_experiment, of.experiments)), of.table)
        for name, of in shipped_yaml("grids.yaml").items()
    }


@functools.cache
def _tabled() -> list[Experiment]:
    return [one for grid in grids().values() if grid.table for one in grid.experiments]


@functools.cache
def paper_columns(dataset: str) -> tuple[Column, ...]:
    """The methods and budgets of the paper's table of a data set; () if there is none."""
    return tuple(column for one in _tabled() if dataset in one.datasets for column in one.columns)


def usual_columns(found: Iterable[Column]) -> tuple[Column, ...]:
    """Those of the paper's table that has most of some columns; of the first if several do."""
    there = set(found)
    return max((one.columns for one in _tabled()), key=lambda columns: len(there & set(columns)))


def paper_models(dataset: str) -> list[str]:
    """The rows of the paper's table of a data set; [] if there is none."""
    return [model for one in _tabled() if dataset in one.datasets for model in one.models]


def paper_datasets(found: Iterable[str]) -> list[str]:
    """Those of the paper's tables that have one of some data sets; without any, of the first."""
    there = set(found)
    shown = [one for one in _tabled() if there & set(one.datasets)] if there else _tabled()[:1]
    return [dataset for one in shown for dataset in one.datasets]


def models_in_order(found: Iterable[str]) -> list[str]:
    """Models without repeats: those of the paper's tables in their order, then the others."""
    return in_order(found, [model for one in _tabled() for model in one.models])
