"""RunSpec: the options of one run, composed and checked, and other runs that follow from it.

It holds the options twice: as Hydra composed them, with interpolations, and resolved. So another
budget, seed or method is one `replace` away, and whatever follows from it is computed again.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from swa_bench.config.composing import CONF, chosen, compose, method_file, of_method
from swa_bench.config.renames import flatten, lookup
from swa_bench.config.resolvers import register_resolvers
from swa_bench.config.schema import TrainConfig, from_dict, require, shaping, to_dict
from swa_bench.config.seeds import disjoint_blocks, seed_block
from swa_bench.errors import ConfigError, SwaBenchError

SELECTED = ("schedule", "optimizer", "augmentation")  # groups of which a method may select one
FOLLOWS = re.compile(r"\$\{(method\.[\w.]+|epochs|budget)\}")
NAMED_ELSEWHERE = ("model.name", "dataset.name")  # by the row and the title of a table


@dataclass(frozen=True)
class RunSpec:
    """The options of one run: `cfg` with interpolations, never changed, and `config` resolved."""

    cfg: DictConfig
    config: TrainConfig

    @classmethod
    def of(cls, cfg: DictConfig) -> "RunSpec":
        """Resolve and check; ConfigError names the first option that is wrong."""
        config = from_dict(_resolved(cfg))
        # No rule of the schema: a record is restored with init=random, and fetches no weights.
        expected = f"choose pretrained or a .safetensors file: method={config.method.name} tests it"
        trained = config.method.table_budget or config.init != "random"
        require("init", config.init, bool(trained), expected)
        return cls(cfg, config)

    def replace(self, **options: Any) -> "RunSpec":
        """The same with other values of top-level options, and all that follows from them."""
        cfg = self.cfg.copy()
        cfg.update(options)
        return RunSpec.of(cfg)

    def with_method(self, method: str) -> "RunSpec":
        """The same with another method, and with what it selects where the user chose nothing."""
        other = of_method(method)
        options: dict[str, Any] = {"method": other.method}
        if not other.method.table_budget:  # which trains nothing, whatever the budget of this one
            options["budget"] = 0
        for group in SELECTED:
            mine, its = (cfg[group].get("_target_") for cfg in (self.cfg, other))
            came_along = mine == of_method(self._method_file)[group].get("_target_")
            if mine != its and came_along and not chosen(group):
                options[group] = other[group]
        return self.replace(**options)

    @property
    def _method_file(self) -> str:
        """The method that this one came from, which another name may have been typed for."""
        method = self.config.method
        return method_file(method.name) or ("sgd" if method.collect_from is None else "swa")

    @property
    def is_ensemble_of_runs(self) -> bool:
        """Whether it is put together from the predictions of other runs, and trains only these."""
        method = self.config.method
        whole_runs = method.ensemble_of is not None
        return whole_runs and (method.ensemble_of != method.name or self.config.budget > 1)

    def members(self) -> list["RunSpec"]:
        """The runs of an ensemble of k budgets: those of the block of k seeds that holds its seed.

        Any other run is the only one of itself.
        """
        method = self.config.method
        if method.ensemble_of is None or not self.is_ensemble_of_runs:
            return [self]
        of_itself = method.ensemble_of == method.name
        other = self if of_itself else self.with_method(method.ensemble_of)
        block = seed_block(self.config.seed, int(self.config.budget))
        return [other.replace(seed=seed, budget=1.0) for seed in block]

    def ensembles(self) -> list["RunSpec"]:
        """The ensembles that its members make: of k budgets, and of fewer, not asked for or not.

        A run alone is one if the records of the members are of another method.
        """
        method = self.config.method
        if not self.is_ensemble_of_runs:
            return []
        blocks = disjoint_blocks(self.config.seed, int(self.config.budget))
        alone = method.ensemble_of != method.name
        return [
            self.replace(seed=block.start, budget=float(len(block)))
            for block in blocks
            if alone or len(block) > 1
        ]

    def block(self) -> list["RunSpec"]:
        """The specs of the seeds that train together with this one's, itself among them."""
        own, together = self.config.seed, self.config.seeds_together
        block = seed_block(own, 1 if together == "auto" else together)
        return [self if seed == own else self.replace(seed=seed) for seed in block]

    def recipe_diff(self) -> dict[str, Any]:
        """How the recipe differs from the published one, as {option: value}; {} if it does not.

        The published recipe is the shipped one of that name, and that of the experiment which has
        the name of the data set, if there is one. A method of the user's own is compared
        with its own file, as the column names it; an own model or data set with the file of conf/
        that it came from. Of a schedule whose value follows from the method or the length, the
        option that it follows from is said, since the value differs from column to column.
        """
        config = self.config
        names = [_shipped("model", config.model.name, "own"), f"method={self._method_file}"]
        folder = config.dataset._target_ == "swa_bench.data.folder.load_folder"
        own = "image_folder" if folder else "cifar10"
        names.append(_shipped("dataset", config.dataset.name, own))
        if (CONF / "experiment" / f"{config.dataset.name}.yaml").is_file():
            names.append(f"experiment={config.dataset.name}")
        mine, published = (flatten(shaping(_raw(cfg))) for cfg in (self.cfg, compose(names)))
        differs = [name for name, value in mine.items() if value != published.get(name)]
        resolved, found = to_dict(config), {}
        for name in differs:
            if name not in NAMED_ELSEWHERE:
                follows = FOLLOWS.fullmatch(str(mine[name])) if name.startswith(SELECTED) else None
                found[name] = follows[1] if follows else lookup(resolved, name)
        return found


def import_from_here() -> None:
    """Make modules in the working folder importable: the user's own networks and images."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


def compose_spec(*overrides: str) -> RunSpec:
    """The spec that swa-train would have with these overrides."""
    register_resolvers()
    return RunSpec.of(compose(overrides))


def _shipped(group: str, name: str, own: str) -> str:
    shipped = (CONF / group / f"{name}.yaml").is_file()
    return f"{group}={name if shipped else own}"


def _raw(cfg: DictConfig) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(cfg, resolve=False)
    return dict(values)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    """Plain values, with interpolations resolved; Hydra's own part is left out."""
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        said: BaseException | None = error
        while said is not None and not isinstance(said, SwaBenchError):
            said = said.__cause__ or said.__context__
        if said is not None:  # a resolver of ours says what is wrong
            raise said from None
        field = error.full_key or "config"
        if isinstance(error, MissingMandatoryValue):
            example = "module.Class" if field.endswith("_target_") else "VALUE"
            raise ConfigError(field, "???", f"has no default: add {field}={example}") from error
        message = str(error.msg or error).splitlines()[0]
        if lacking := re.match(r"Interpolation key '([\w.]+)' not found", message):
            group = lacking[1].partition(".")[0]
            begins = f"a file of your own begins with its defaults, such as my/{group}/*.yaml with"
            examples = {"model": "own", "method": "swa", "dataset": "cifar10"}
            if group in examples and lacking[1].count(".") == 1:
                expected = f"has no value; {begins} `defaults: [{examples[group]}]`"
                raise ConfigError(lacking[1], "???", expected) from error
        raise ConfigError(field, "(unresolved)", message) from error
    return dict(values)
