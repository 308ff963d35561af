"""What a user types after swa-train, in the order and form that Hydra takes it."""

import argparse
import contextlib
import functools
import io
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
from omegaconf import OmegaConf

from swa_bench.config.composing import CONF, compose
from swa_bench.config.renames import flatten
from swa_bench.config.suggestions import did_you_mean
from swa_bench.errors import ConfigError, SwaBenchError

COMMANDS = ("run", "multirun", "cfg", "info", "shell_completion")  # Hydra does one of them
NO_NAMES = (bool, int, float, dict, RangeSweep)  # values that no option of a group can have


class UsageError(SwaBenchError):
    """What was typed is not a command line."""

    exit_code = 2


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags, and the options in `overrides`, in any order; UsageError for a wrong flag."""
    words = list(arguments)
    for i, after in enumerate(words[1:]):
        if words[i] in ("-i", "--info") and "=" in after:  # it would take the option as its value
            words[i] += "=all"
    for i, word in enumerate(words):
        if re.match(r"-[A-Za-z]\w{2,}", word):  # argparse would take -precision=bf16 as -p
            _unknown_flag(words, i)
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    known, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        _unknown_flag(words, words.index(unknown[0]))
    return known


def checked(known: argparse.Namespace) -> list[str]:
    """The arguments for Hydra, of what `parse` found; an error if they do not go together."""
    _check_flags(known)
    # An experiment is an optional group of its own: it works with and without the plus.
    known.overrides = [re.sub(r"^\+(?=experiment=)", "", word) for word in known.overrides]
    one_job = known.cfg or known.info
    if one_job:
        known.multirun = False
    for i, word in enumerate(known.overrides):
        if "=" not in word and not word.startswith("~"):
            _refuse(f"{word}: options are written name=value{_meant(word)}")
        (override,) = OverridesParser.create().parse_overrides([word])
        value, name = override.value(), override.key_or_group
        if one_job and isinstance(value, ChoiceSweep | RangeSweep):  # the sweep's first job
            first = next(override.sweep_string_iterator())
            known.overrides[i] = f"{override.get_key_element()}={first}"
        if name in groups() and not override.is_delete():
            for one in value.list if isinstance(value, ChoiceSweep) else [value]:
                if one is None or isinstance(one, NO_NAMES):
                    leave_out = "leave it out, or choose one: swa-train --help lists all"
                    raise ConfigError(name, one, leave_out)
    return as_arguments(known)


def _check_flags(known: argparse.Namespace) -> None:
    if known.config_dir and not Path(known.config_dir).is_dir():
        raise ConfigError("--config-dir", known.config_dir, "no such folder")
    chosen = [f"--{name.replace('_', '-')}" for name in COMMANDS if getattr(known, name)]
    if len(chosen) > 1 and not (chosen[0] == "--multirun" and chosen[1] in ("--cfg", "--info")):
        _refuse(f"{' and '.join(chosen)} do not go together")
    if known.shell_completion:
        words = [word.partition("=") for word in known.overrides]
        asked = [word for word in words if word[0] in ("install", "uninstall", "query") and word[2]]
        if len(asked) != 1 or (asked[0][0] == "query" and "COMP_LINE" not in os.environ):
            _refuse("--shell-completion goes with install=bash, zsh or fish, or uninstall=...")
    if known.resolve and not (known.cfg or known.help):
        _refuse("--resolve goes with --cfg job")


def as_arguments(known: argparse.Namespace) -> list[str]:
    """Flags first, then options."""
    flags = []
    for name, value in vars(known).items():
        if name != "overrides" and value not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            flags.append(flag if value is True else f"{flag}={value}")
    return [*flags, *known.overrides]


@contextlib.contextmanager
def wrapped(wraps: bool) -> Iterator[None]:
    """Let what is printed inside fit 80 columns, as Hydra's list of groups does not."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text) if wraps else contextlib.nullcontext():
            yield
    finally:
        for line in text.getvalue().splitlines():
            print(textwrap.fill(line, 80, subsequent_indent=" " * 6, break_on_hyphens=False))


@functools.cache
def groups() -> dict[str, list[str]]:
    """The shipped groups, such as model, and what can be chosen of each."""
    found: dict[str, list[str]] = {}
    for file in sorted(CONF.glob("*/*.yaml")):
        found.setdefault(file.parent.name, []).append(file.stem)
    return found


def networks() -> list[str]:
    """The shipped networks."""
    return [name for name in groups()["model"] if name != "own"]


def option_names() -> list[str]:
    """The shipped options and groups, in the order of the help."""
    options = OmegaConf.to_container(compose(()), resolve=False)
    assert isinstance(options, dict)
    return [*groups(), *flatten({str(name): value for name, value in options.items()})]


def _refuse(message: str) -> NoReturn:
    raise UsageError(message)


def _unknown_flag(words: Sequence[str], i: int) -> NoReturn:
    flag = words[i].partition("=")[0]
    meant = did_you_mean(flag.lstrip("-"), option_names()).replace("?", "=...?")
    _refuse(f"{flag}: no such flag; options are written name=value, without dashes{meant}")


def _meant(word: str) -> str:
    """For a word that stands alone: an option of a group, or a name."""
    for group, options in groups().items():
        if word in options:
            return f"; did you mean {group}={word}?"
    return did_you_mean(word, option_names()).replace("?", "=...?")
