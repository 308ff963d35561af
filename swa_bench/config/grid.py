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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from swa_bench.config.renames import flatten
from swa_bench.config.resolvers import register_resolvers
from swa_bench.config.schema import shaping
from swa_bench.config.seeds import disjoint_blocks
from swa_bench.labels import Column, in_order, plain_recipe, recipe_options, recipe_text

# Which decide the lengths and rates of runs, and their recipe.
GROUPS = ("optimizer", "augmentation", "dataset", "model", "schedule", "method")


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
        name: of one file, or of several that are composed, with commas between them.
        also_train: methods that its jobs train after their own one.
        own: methods of its jobs.
    """

    name: str
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    also_train: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def option(self) -> str:
        """As it is typed: experiment=NAME or experiment=[ONE,OTHER]."""
        return f"experiment=[{self.name}]" if "," in self.name else f"experiment={self.name}"

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order of the columns."""
        return (*(method for method in self.also_train if method not in self.own), *self.own)

    @property
    def members(self) -> tuple[str, ...]:
        """The methods whose runs its ensembles are of."""
        of = (_options(self, *self.rows[0], method).method.ensemble_of for method in self.methods)
        return tuple(dict.fromkeys(method for method in of if method))

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Its data sets and models."""
        return list(itertools.product(self.datasets, self.models))

    @functools.cached_property
    def columns(self) -> tuple[Column, ...]:
        """The methods and budgets that its runs report."""
        return tuple(dict.fromkeys((method, budget) for method, budget, _ in self.cells))

    @functools.cached_property
    def cells(self) -> tuple[tuple[str, float, int], ...]:
        """Method, budget and seed of its records; of k runs, the first of k seeds."""
        return tuple(cell for method in self.methods for cell in sorted({*self._cells(method)}))

    def _cells(self, method: str) -> Iterator[tuple[str, float, int]]:
        cfg = _options(self, *self.rows[0], method).copy()
        longest, passed = cfg.budget, _values(cfg)
        if cfg.method.ensemble_of:
            for block in itertools.chain(*(disjoint_blocks(s, int(longest)) for s in self.seeds)):
                yield method, float(len(block)), block.start
            return
        for budget in {*cfg.report_budgets, longest}:
            cfg.budget = budget
            if budget <= longest and _values(cfg) == passed:  # whose epochs the run passes
                yield from ((method, float(budget), seed) for seed in self.seeds)

    def epochs(self, dataset: str, model: str) -> set[tuple[int, int]]:
        """Seed and state of each epoch that its runs have; epochs that runs share are one."""
        runs = {(method, seed) for method, _, seed in self.cells}
        return {
            (seed, state) for method, seed in runs for state in self.states(dataset, model, method)
        }

    def states(self, dataset: str, model: str, method: str, epochs: int | None = None) -> list[int]:
        """A name of the state of a method's run after each of its epochs; of an ensemble, of a run.

        Runs have the names of the epochs that they share in common, also those of two experiments.

        Args:
            epochs: the length of the run, if it is not the experiment's.
        """
        return _states(self, dataset, model, method, epochs)

    def recipe(self, dataset: str, model: str, method: str) -> str:
        """The options in which its recipe differs from the published one, but for arithmetic."""
        return _recipe(self, dataset, model, method)


def _own(experiment: Experiment, method: str) -> Any:
    """An experiment's own values; a method that is also trained keeps its options."""
    own, _ = _read_all(experiment.name)
    hidden = {"hydra"} | ({"method"} if method not in experiment.own else set())
    return OmegaConf.masked_copy(own, [name for name in own if name not in hidden])


@functools.cache
def _base(experiment: Experiment, dataset: str, model: str, method: str) -> Any:
    """The options of its runs of a method without the experiment's own."""
    (train, defaults), (_, selected) = _read("train"), _read_all(experiment.name)
    row = {"dataset": dataset, "model": model, "method": method}
    came_along = _read(f"dataset/{dataset}")[1] | _read(f"method/{method}")[1]
    chosen = defaults | came_along | selected | row
    groups = {group: _read(f"{group}/{chosen[group]}")[0] for group in GROUPS}
    return OmegaConf.merge(train, groups)


@functools.cache
def _options(experiment: Experiment, dataset: str, model: str, method: str) -> Any:
    """The options of its runs of a method, as far as GROUPS have them, with interpolations."""
    register_resolvers()
    base = _base(experiment, dataset, model, method)
    return OmegaConf.merge(base, _own(experiment, method))


def _values(cfg: Any) -> tuple[dict[str, Any], int | None]:
    """What the rates of a run depend on, and when it first collects."""
    return dict(cfg.schedule), cfg.method.collect_from


@functools.cache
def _read_all(names: str) -> tuple[Any, dict[str, str]]:
    """As `_read`, of an experiment, or of several in their order."""
    read = [_read(f"experiment/{name}") for name in names.split(",")]
    selected = {group: choice for _, groups in read for group, choice in groups.items()}
    return OmegaConf.merge(*(values for values, _ in read)), selected


@functools.cache
def _recipe(experiment: Experiment, dataset: str, model: str, method: str) -> str:
    if experiment.name == dataset:  # the experiment is the published recipe of its data set
        return ""
    own, base = (
        flatten(shaping(OmegaConf.to_container(values, resolve=False)))  # type: ignore[arg-type]
        for values in (_own(experiment, method), _base(experiment, dataset, model, method))
    )
    differs = {name: value for name, value in own.items() if value != base.get(name)}
    return plain_recipe(recipe_text(differs))


@functools.cache
def _states(
    experiment: Experiment, dataset: str, model: str, method: str, epochs: int | None
) -> list[int]:
    cfg = _options(experiment, dataset, model, method)
    if cfg.method.ensemble_of:
        method = cfg.method.ensemble_of
        cfg = _options(experiment, dataset, model, method).copy()
        cfg.budget = 1
    if epochs is not None and epochs != cfg.epochs:
        cfg = cfg.copy()
        cfg.epochs = epochs
    values, collect_from = _values(cfg)
    schedule = pkgutil.resolve_name(values.pop("_target_"))
    first = collect_from or math.inf
    passed = ((schedule(epoch, 0, 1, **values), epoch + 1 >= first) for epoch in range(cfg.epochs))
    apart = "" if method in cfg.checkpoints.keep_for else method
    recipe = [
        one
        for one in recipe_options(experiment.recipe(dataset, model, method))
        if not one.startswith("method.")
    ]
    start = hash((apart, *recipe))
    return list(itertools.accumulate(passed, lambda *of: hash(of), initial=start))[1:]


@functools.cache
def read_experiment(name: str) -> Experiment:
    """An experiment that is a sweep over data sets, models, methods or seeds."""
    values, selected = _read_all(name)
    chosen = _read("train")[1] | selected

    def swept(option: str) -> list[str]:
        listed = values.hydra.sweeper.params.get(option, chosen.get(option))
        return str(listed).replace(" ", "").split(",")

    seeds = map(int, swept("seed"))
    datasets, models, methods = (tuple(swept(option)) for option in ("dataset", "model", "method"))
    also_train = tuple(values.get("also_train", []))
    return Experiment(name, datasets, models, tuple(seeds), also_train, methods)


@dataclass(frozen=True)
class Grid:
    """Experiments that belong together.

    Attributes:
        table: whether they are the paper's table of their data sets.
        for_cpu: whether a CPU is enough.
        shipped: folder of the records that come with the project; "" if there are none.
    """

    title: str
    experiments: tuple[Experiment, ...]
    table: bool
    for_cpu: bool = False
    shipped: str = ""


@functools.cache
def grids() -> dict[str, Grid]:
    """The grids by name; the first is meant where none is named."""
    found = {}
    for name, of in shipped_yaml("grids.yaml").items():
        experiments = tuple(map(read_experiment, of.pop("experiments")))
        found[name] = Grid(experiments=experiments, **of)
    return found


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
