"""Errors of Hydra, OmegaConf and YAML in one or two lines that a user can act on."""

import re
from collections.abc import Sequence

import yaml
from hydra.errors import MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from swa_bench.config.renames import RENAMED
from swa_bench.errors import SwaBenchError

LAUNCHER_EXTRAS = {"ray": "ray", "submitit_slurm": "slurm"}  # of the plugins' launchers


def explain(error: Exception) -> str:
    """The field, the value and the choices."""
    if isinstance(error, SwaBenchError):
        return str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        return f"{error.problem_mark or 'a YAML file'}: {error.problem}".strip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing(error.missing_cfg_file, error.options or [], str(error))
    text = str(error)
    # Hydra's other exceptions carry no facts but their sentences.
    several = re.match(r"Ambiguous value for argument '(.+)'", text)
    if several:
        return f"{several[1]}: several values make a sweep: add -m"
    unknown = re.match(r"Could not override '(.+)'\.", text)
    if unknown:
        now = RENAMED.get(unknown[1])
        all_options = "no such option; swa-train --cfg job shows all"
        return f"{unknown[1]}: {f'is called {now} now' if now else all_options}"
    text = text.removeprefix("Error merging override ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines[1:] = [str(error.__cause__).splitlines()[0]]
    return ": ".join(lines[:2])


def _missing(file: str, options: Sequence[str], text: str) -> str:
    group, _, name = file.rpartition("/")
    if group == "hydra/launcher" and name in LAUNCHER_EXTRAS:
        chosen = re.match(r"In 'hydra/launcher/(\w+)'", text)
        launcher = chosen[1] if chosen else name
        extra = LAUNCHER_EXTRAS[name]
        return f"hydra/launcher={launcher} needs an extra: pip install 'swa-bench[{extra}]'"
    choices = f"choose one of {', '.join(options)}" if options else "swa-train --help lists all"
    return f"{group}={name}: no such option; {choices}"
