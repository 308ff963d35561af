"""Errors of Hydra, OmegaConf and YAML in one or two lines that a user can act on."""

import re
import shlex
from collections.abc import Sequence

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from swa_bench.commands.command_line import option_names
from swa_bench.config.renames import RENAMED
from swa_bench.config.suggestions import did_you_mean
from swa_bench.errors import in_a_line, needs_extra

LAUNCHER_EXTRAS = {"ray": "ray", "submitit_slurm": "slurm"}  # of the plugins' launchers
TEXTS = ("results_dir=", "dataset.root=", "init=")  # options whose values may hold commas
SETTINGS = (HydraException, OmegaConfBaseException, yaml.YAMLError)  # errors in what was typed


def explain(error: Exception) -> str | None:
    """The field, the value and the choices; None for an error that needs a traceback."""
    if type(error).__name__ == "TerminatedWorkerError":  # joblib's
        return (
            "the process of a job was killed, as it is where memory runs out, and the sweep ended: "
            "start it again to go on (hydra.launcher.n_jobs=1 runs one job at a time)"
        )
    if not isinstance(error, SETTINGS):
        return in_a_line(error)
    if isinstance(error, yaml.MarkedYAMLError):
        return f"{error.problem_mark or 'a YAML file'}: {error.problem}".strip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing(error.missing_cfg_file, error.options or [], str(error))
    if isinstance(error, OverrideParseException) and (quoted := _quoted(error.override)):
        return f"{error.override}: cannot be read; if the value is one text, quote it: {quoted}"
    text = str(error)
    # Hydra's other exceptions carry no facts but their sentences.
    several = re.match(r"Ambiguous value for argument '(.+)'", text)
    if several:
        one = several[1].startswith(TEXTS)
        quote = f"; or, if it is one, quote it: {_quoted(several[1])}" if one else ""
        return f"{several[1]}: several values make a sweep: add -m{quote}"
    unknown = re.match(r"Could not override '(.+)'\.", text)
    if unknown and unknown[1] in RENAMED:
        return f"{unknown[1]}: is called {RENAMED[unknown[1]]} now"
    if unknown:
        meant = did_you_mean(unknown[1], option_names()) or "; swa-train --cfg job shows all"
        return f"{unknown[1]}: no such option{meant}"
    text = text.removeprefix("Error merging override ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines[1:] = [str(error.__cause__).splitlines()[0]]
    return ": ".join(lines[:2])


def _quoted(override: str) -> str | None:
    """An option whose value is one text, as it is typed in a shell; None if it cannot be one."""
    name, _, value = override.partition("=")
    escaped = value.strip("\"'").replace('"', '\\"')
    return shlex.quote(f'{name}="{escaped}"') if name and value[:1] not in ("", "[", "{") else None


def _missing(file: str, options: Sequence[str], text: str) -> str:
    group, _, name = file.rpartition("/")
    if group == "hydra/launcher" and name in LAUNCHER_EXTRAS:
        chosen = re.match(r"In 'hydra/launcher/(\w+)'", text)
        launcher = chosen[1] if chosen else name
        extra = LAUNCHER_EXTRAS[name]
        return f"hydra/launcher={launcher} {needs_extra(extra)}"
    choices = f"choose one of {', '.join(options)}" if options else "swa-train --help lists all"
    typed = f"{group}={name}" if group else f"--config-name {name}"
    return f"{typed}: no such option{did_you_mean(name, options)}; {choices}".replace("?;", "?")
