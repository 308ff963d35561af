"""The source files of a user's own code that a run uses, each known by a digest.

Known is the file of the module that defines a class or function, and no module that it imports.
Installed packages are not looked at, nor this program: their versions stand in the records.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Mapping
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
    found = {option: _source_of(target) for option, target in _targets(config)}
    return {option: source for option, source in found.items() if source}


def _targets(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """The options that name code whose source is looked at, and what they name."""
    for option, target in flatten(to_dict(config)).items():
        group, _, name = option.partition(".")
        if name.endswith("_target_") and group not in KNOWN_BY_RESULT:
            yield option, str(target)


def changed(known: Mapping[str, str], config: TrainConfig) -> str | None:
    """Which own source has another digest than is known: mynet.py (model._target_=mynet.Net)."""
    for option, source in (own_code(config) if known else {}).items():
        if known.get(option, source.sha256) != source.sha256:
            return f"{source.file.name} ({option}={flatten(to_dict(config))[option]})"
    return None


def unchanged(known: Mapping[str, str], config: TrainConfig) -> bool:
    """Whether own code is surely what a record knows, as far as that shows without an import."""
    found = {option: source_file(target) for option, target in _targets(config)}
    return known == {option: source.sha256 for option, source in found.items() if source}


def source_file(target: str) -> Source | None:
    """The source of the module that a target names, unless it is installed or of this program.

    Nothing is imported, so a class is looked for where it is named, not where it is defined.
    """
    package, *names = target.replace(":", ".").split(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    while path.name == "__init__.py" and names:
        folder = path.with_name(names.pop(0))
        inside = [
            one for one in (folder.with_suffix(".py"), folder / "__init__.py") if one.exists()
        ]
        if not inside:
            break
        path = inside[0]
    return _read_file(package, path)


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
    return _read_file(module.__name__.split(".")[0], Path(getattr(module, "__file__", None) or ""))


def _read_file(package: str, file: Path) -> Source | None:
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
