"""What TAB offers for swa-train, beside what Hydra knows: values, folders of the user's own."""

import argparse
import os
import types
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from swa_bench.commands.command_line import as_arguments, parse
from swa_bench.config.schema import TrainConfig
from swa_bench.errors import SwaBenchError


def is_query(known: argparse.Namespace) -> bool:
    """Whether the shell asks what could be typed, as `swa-train -sc query=bash`."""
    queries = [word for word in known.overrides if word.startswith("query=")]
    return bool(known.shell_completion and queries and "COMP_LINE" in os.environ)


def prepare(known: argparse.Namespace) -> list[str] | None:
    """What to offer; None where Hydra knows, after the line is put into its own order."""
    line = os.environ["COMP_LINE"]
    command, *words = line.split()
    new_word = line.endswith(" ")
    try:
        typed = parse(words)
    except SwaBenchError:  # is said when the line is entered
        return []
    if not new_word and words[-1:] != typed.overrides[-1:]:
        return []  # a flag or its value
    name, equals, _ = words[-1].partition("=") if words else ("", "", "")
    if equals and not new_word and (found := choices(name)):
        return [f"{name}={value}" for value in found]
    known.config_dir = typed.config_dir
    os.environ["COMP_LINE"] = " ".join([command, *as_arguments(typed)]) + " " * new_word
    return None


def choices(name: str) -> list[str]:
    """The values of an option that has a few, such as the precision; [] for others."""
    kind: Any = TrainConfig
    for part in name.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return _values(kind)


def _values(kind: Any) -> list[str]:
    if kind is bool:
        return ["false", "true"]
    if get_origin(kind) is Literal:
        return [str(value).lower() if value in (True, False) else value for value in get_args(kind)]
    if get_origin(kind) in (Union, types.UnionType):
        return [value for one in get_args(kind) for value in _values(one)]
    return []
