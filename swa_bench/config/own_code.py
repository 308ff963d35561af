"""The source files of a user's own code that a run uses, each known by a digest.

Known is the file of the module that defines a class or function, and no module that it imports.
Installed packages are not looked at, nor this program: their versions stand in the records.
"""

import ast
import contextlib
import functools
import hashlib
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from swa_bench.config.renames import flatten
from swa_bench.config.schema import TrainConfig, to_dict

# A data set is known by its images, a schedule by its rates.
KNOWN_BY_RESULT = ("dataset", "schedule")


@dataclass(frozen=True)
class Source:
    """A source file as it was when this process first looked at it.

    Attributes:
        sha256: of what Python makes of it; comments, docstrings and layout do not count.
    """

    file: Path
    sha256: str


def own_code(config: TrainConfig) -> dict[str, Source]:
    """The source of a user's own network, augmentation, optimiser and predictors.

    It imports their modules. What cannot be imported is left out: the rehearsal says why.

    Returns:
        {option: source}, such as that of model._target_.
    """
    found: dict[str, Source] = {}
    for option, target in flatten(to_dict(config)).items():
        group, _, name = option.partition(".")
        if name.endswith("_target_") and group not in KNOWN_BY_RESULT:
            source = _source_of(str(target))
            found |= {option: source} if source else {}
    return found


def changed(known: Mapping[str, str], config: TrainConfig) -> str | None:
    """Which of a user's own sources is another now, such as mynet.py (model._target_=mynet.Net).

    Args:
        known: the digest of each option, as a record or a segment of it has them.
    """
    for option, source in (own_code(config) if known else {}).items():
        if known.get(option, source.sha256) != source.sha256:
            return f"{source.file.name} ({option}={flatten(to_dict(config))[option]})"
    return None


def _source_of(target: str) -> Source | None:
    try:
        found = pkgutil.resolve_name(target)
    except (Exception, SystemExit):  # whatever a user's own module raises
        return None
    names = target.replace(":", ".").split(".")
    # What has no module of its own, such as a functools.partial, is in the one that names it.
    modules = [getattr(found, "__module__", None)]
    modules += [".".join(names[:end]) for end in range(len(names) - 1, 0, -1)]
    sources = (_read(sys.modules[name]) for name in modules if name in sys.modules)
    return next(filter(None, sources), None)


@functools.cache  # an edit after the module was imported is not what runs
def _read(module: ModuleType) -> Source | None:
    package, file = module.__name__.split(".")[0], Path(getattr(module, "__file__", None) or "")
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    ours = package == "swa_bench" or package in sys.stdlib_module_names
    if ours or installed or not file.is_file():
        return None
    return Source(file, digest(file.read_bytes()))


def digest(source: bytes) -> str:
    """SHA-256 of a source file without what changes nothing: comments, docstrings, layout."""
    with contextlib.suppress(SyntaxError, ValueError, RecursionError):  # of what is no Python text
        source = repr(_plain(ast.parse(source))).encode()
    return hashlib.sha256(source).hexdigest()


def _plain(node: Any) -> Any:
    """A syntax tree as lists and dicts, the same in all versions of Python: no empty fields."""
    if isinstance(node, list):
        return [_plain(one) for one in node if not _does_nothing(one)]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: _plain(value) for name, value in ast.iter_fields(node)}
    return [type(node).__name__, {n: v for n, v in fields.items() if v is not None and v != []}]


def _does_nothing(statement: Any) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
