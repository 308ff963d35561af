"""Other configurations beside the one that runs: of another method, and the published recipe."""

import functools
import importlib.resources
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from swa_bench.config import schema as configs
from swa_bench.config.plan import Plan, divergence, make_plan
from swa_bench.config.schema import TrainConfig
from swa_bench.errors import ConfigError

# The shipped ones.
METHODS = ("sgd", "sgd_bn", "swa", "swa_cyclic", "swa_fge", "fge", "snapshot", "independent")


def variant(cfg: DictConfig, config: TrainConfig) -> dict[str, Any]:
    """How a run's recipe differs from the published one, as {option: value}; {} if it does not.

    The published recipe is the shipped one of that name, also where a user has an own file for it;
    a method of the user's own is held against SWA if it takes copies and against SGD if not, an own
    model or data set against the file of conf/ that it came from.
    """
    method = config.method.name
    if method not in METHODS:
        method = "sgd" if config.method.combine is configs.Combine.none else "swa"
    names = [_shipped_option("model", config.model.name, "own")]
    names += [_shipped_option("dataset", config.dataset.name, "image_folder"), f"method={method}"]
    raw = configs.shaping(_raw(cfg)) | {"precision": config.precision.value}
    found = configs.differences(raw, configs.shaping(_raw(compose(names))))
    resolved = configs.plain(config)
    named = ("model.name", "dataset.name")  # by the row and the table
    return {name: _lookup(resolved, name) for name in found if name not in named}


def _shipped_option(group: str, name: str, own: str) -> str:
    shipped = importlib.resources.files("swa_bench.conf") / group / f"{name}.yaml"
    return f"{group}={name if shipped.is_file() else own}"


def _lookup(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values


def branches(cfg: DictConfig, plan: Plan) -> frozenset[int]:
    """After how many epochs the unfinished methods of cfg.share_with leave this walk.

    A checkpoint is kept there, so that they start from it, whichever is trained first.
    """
    found = set()
    for method in cfg.share_with:
        for budget in {1.0, plan.config.budget}:
            other = with_method(cfg, method)
            other.budget, other.seed = budget, plan.config.seed
            try:
                config = configs.to_config(other)
                config.precision, config.device = plan.config.precision, plan.config.device
                other_plan = make_plan(other, config)
            except ConfigError:  # such as a budget that ends before the first copy
                continue
            if over_runs(config):  # walks nothing itself
                continue
            leaves = divergence(plan, other_plan)
            if leaves and other_plan.missing():  # not at epoch 0, not never, and not done
                found.add(leaves)
    return frozenset(found)


def with_method(cfg: DictConfig, method: str) -> DictConfig:
    """The same with a shipped method, and with its schedule if cfg's came with its own method."""
    other, default = cfg.copy(), _shipped(method)
    other.method = default.method
    own = cfg.method.name
    if own in METHODS:
        function, its = cfg.schedule.get("_target_"), _shipped(own).schedule._target_
        if function == its != default.schedule._target_:
            other.schedule = default.schedule
    return other


def over_runs(config: TrainConfig) -> bool:
    """Whether a run is an ensemble of other runs, and trains nothing itself."""
    method = config.method
    return method.runs_of is not None and (method.runs_of != method.name or config.budget > 1)


@functools.cache
def _shipped(method: str) -> DictConfig:
    return compose([f"method={method}"])


def compose(overrides: list[str]) -> DictConfig:
    """Compose another configuration beside the running one, from the shipped files alone."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module("swa_bench.conf", version_base="1.3"):
            return hydra.compose("train", overrides)
    finally:
        if running is not None:
            GlobalHydra.instance().initialize(running)


def _raw(cfg: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}
