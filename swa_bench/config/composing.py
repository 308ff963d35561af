"""Composing options from the shipped files and, in a running swa-train, from the user's own.

Hydra looks in conf/ first and then where `--config-dir` or `hydra.searchpath` say.
"""

import functools
import importlib.resources
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from swa_bench.errors import ConfigError, SwaBenchError

CONF = Path(str(importlib.resources.files("swa_bench.conf")))
FOR_ANY = ("own", "image_folder")  # names that any network or folder may have
METHODS = tuple(sorted(path.stem for path in (CONF / "method").glob("*.yaml")))  # the shipped ones


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose a configuration; beside another program's Hydra, from the shipped files alone."""
    if _own_loader():
        return hydra.compose("train", [*_search_path(), *overrides])
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module("swa_bench.conf", version_base="1.3"):
            return hydra.compose("train", list(overrides))
    finally:
        if running is not None:
            GlobalHydra.instance().initialize(running)


def of_method(method: str) -> DictConfig:
    """The default options with a method and all that it selects; ConfigError for a bad file."""
    try:
        cfg = _of_method(method, GlobalHydra.instance().hydra)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError("method", method, str(error).splitlines()[0]) from error
    check_name(method, cfg.method.name)
    return cfg


@functools.lru_cache(maxsize=64)
def _of_method(method: str, running: object) -> DictConfig:
    return compose([f"method={method}"])


def check_name(method: str, name: str) -> None:
    """Raise ConfigError if a method of the user's own is not called as its file."""
    if method not in METHODS and name != method:
        expected = f"must be {method}, as its file is called: that names its folders and columns"
        raise ConfigError("method.name", name, expected)


def methods() -> list[str]:
    """All methods that can be chosen, the user's own included."""
    loader = _own_loader()
    return list(METHODS) if loader is None else _listed(loader, tuple(_search_path()))


@functools.lru_cache(maxsize=1)  # listing reads train.yaml and all that it names
def _listed(loader: ConfigLoader, search_path: tuple[str, ...]) -> list[str]:
    return loader.get_group_options("method", config_name="train", overrides=list(search_path))


def method_file(name: str) -> str | None:
    """The file of a method, where another name was typed that of the one chosen; None: unknown."""
    if name in methods():
        return name
    return HydraConfig.get().runtime.choices["method"] if _in_job() else None


def chosen(group: str) -> bool:
    """Whether the user chose a group's option, and it did not come with the method."""
    overrides = HydraConfig.get().overrides.task if _in_job() else []
    return any(option.startswith(f"{group}=") for option in overrides)


def check_own_code(group: str, name: str, target: str) -> None:
    """Raise ConfigError if a network or data set of the user's has the name of a shipped one."""
    shipped = (CONF / group / f"{name}.yaml").is_file() and name not in FOR_ANY
    if shipped and not target.startswith("swa_bench."):
        expected = f"names a shipped {group}, which {target} is not: give it a name of its own"
        raise ConfigError(f"{group}.name", name, expected)


def check_own_files(name: str) -> None:
    """Check that a method is called as its file, and that all of the user's own files are read."""
    runtime = HydraConfig.get().runtime
    check_name(runtime.choices["method"], name)
    for source in runtime.config_sources:
        for path in CONF.rglob("*.yaml") if source.schema == "file" else ():
            own = Path(source.path) / path.relative_to(CONF)
            if own.is_file() and own.read_bytes() != path.read_bytes():
                raise SwaBenchError(
                    f"{own}: is never read, since a file of swa_bench has its name: rename it"
                )


def _own_loader() -> ConfigLoader | None:
    """The loader of a running swa-train, if one is running."""
    running = GlobalHydra.instance().hydra
    if running is None:
        return None
    paths = {element.path for element in running.config_loader.get_search_path().get_path()}
    return running.config_loader if "pkg://swa_bench.conf" in paths else None


def _in_job() -> bool:
    """Whether a job of swa-train is running, whose options Hydra holds."""
    return _own_loader() is not None and HydraConfig.initialized()


def _search_path() -> list[str]:
    """What the command line says on where else to look, beside --config-dir."""
    overrides = HydraConfig.get().overrides.hydra if _in_job() else []
    return [option for option in overrides if option.startswith("hydra.searchpath=")]
