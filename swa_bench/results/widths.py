"""The record of swa-width: its schema, place, reader and writer."""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from swa_bench.config.identity import digest
from swa_bench.config.renames import RENAMED
from swa_bench.config.schema import Count, FolderName, NonNegative, NonNegativeInt
from swa_bench.errors import SwaBenchError
from swa_bench.files import write_atomically
from swa_bench.results.foreign import (
    NewerFormatError,
    check_format,
    first_fault,
    parse_json,
    read_file,
)
from swa_bench.results.record import Number, Part

FORMAT = 3
Width = dict[str, Any]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
Options = Annotated[dict[str, Any], Field(default_factory=dict)]
# In the order of the last axis of what is measured at points.
MEASURED = ("train_loss", "train_error_pct", "test_loss", "test_error_pct", "squared_norm")


class Network(Part):
    """A network that took part."""

    label: str
    seed: NonNegativeInt


class Measured(Part):
    """What was measured at points: nested lists, None where a value is not finite."""

    train_loss: list[Any]
    train_error_pct: list[Any]
    test_loss: list[Any]
    test_error_pct: list[Any]
    squared_norm: list[Any]

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ValueError unless each measure holds numbers, or None, of this shape."""
        for name in MEASURED:
            found = np.array(getattr(self, name), dtype=object)
            if found.shape != tuple(shape):
                raise ValueError(f"{name} is not of shape {tuple(shape)}")
            top = 100 if name.endswith("_pct") else math.inf
            for value in found.flat:
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if value is not None and not (number and 0 <= value <= top):
                    raise ValueError(f"{name} holds {value!r:.40}")


class Rays(Part):
    """Measures (directions, distances) from the weights of SGD and of SWA."""

    options: Options
    distances: Annotated[list[Number], Field(min_length=2)]
    sgd: Measured
    swa: Measured

    @model_validator(mode="after")
    def _check(self) -> "Rays":
        directions = len(self.sgd.test_error_pct)
        if not directions:
            raise ValueError("there are no directions")
        for measured in (self.sgd, self.swa):
            measured.check_shape([directions, len(self.distances)])
        return self


class Line(Measured):
    """Measures (points) from SGD to SWA."""

    options: Options
    t: Annotated[list[Number], Field(min_length=2)]
    distance: Number

    @model_validator(mode="after")
    def _check(self) -> "Line":
        self.check_shape([len(self.t)])
        return self


class Plane(Measured):
    """Measures (y, x) around three networks."""

    options: Options
    x: Annotated[list[Number], Field(min_length=2)]
    y: Annotated[list[Number], Field(min_length=2)]
    places: Annotated[list[Pair], Field(min_length=3, max_length=3)]
    labels: Annotated[list[str], Field(min_length=3, max_length=3)]

    @model_validator(mode="after")
    def _check(self) -> "Plane":
        self.check_shape([len(self.y), len(self.x)])
        if not all(np.all(np.diff(along) > 0) for along in (self.x, self.y)):
            raise ValueError("x or y does not rise")
        return self


class WidthRecord(Part):
    """All that a width.json holds, of the present format.

    The options of a part are those that it was measured with, as swa-width names them.
    """

    dataset: FolderName
    model: FolderName
    recipe_diff: dict[str, Any]
    weight_decay: NonNegative
    images: Count
    networks: Annotated[list[Network], Field(min_length=1)]
    device: str
    rays: Rays | None = None
    line: Line | None = None
    plane: Plane | None = None


def ends(found: Width) -> tuple[str, str]:
    """What the two networks of the rays and the line are called."""
    labels = [network["label"] for network in found.get("networks", [])[:2]]
    return (labels[0], labels[1]) if len(labels) == 2 else ("SGD", "SWA")


def read_width(path: Path) -> Width:
    """A record of swa-width under the present names; SwaBenchError if it is not sound."""
    try:
        found: Width = parse_json(read_file(path))
        check_format(found, FORMAT)
        translated = _from_earlier(found) if found["format"] < FORMAT else found
        WidthRecord.model_validate(translated)
    except ValidationError as error:
        raise SwaBenchError(f"{path} is no record of swa-width: {first_fault(error)}") from error
    except NewerFormatError as error:
        raise SwaBenchError(f"{path} {error.what} ({error})") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SwaBenchError(f"{path} is no record of swa-width: {error}") from error
    return {name: value for name, value in translated.items() if value is not None}


def _from_earlier(found: Width) -> Width:
    """Format 1 has other names, and format 2 a level among what was measured."""
    if found["format"] == 1:
        diff = {RENAMED.get(name, name): value for name, value in found["variant"].items()}
        names = {"identity": "recipe_hash"}
        nets = [{names.get(k, k): value for k, value in net.items()} for net in found["networks"]]
        rest = {name: value for name, value in found.items() if name != "variant"}
        found = rest | {"recipe_diff": diff, "networks": nets}
    if found.get("rays") is not None:
        rays = {name: value for name, value in found["rays"].items() if name != "reach"}
        found = found | {"rays": rays}
    return found | {"format": FORMAT}


def width_path(folder: Path, found: Width) -> Path:
    """Where a record lies below the folder of all: a place for each choice of networks."""
    networks = digest({"networks": found["networks"]})[:8]
    seed = found["networks"][0]["seed"]
    name = f"{found['dataset']}-{found['model']}-seed{seed}-{networks}"
    return folder / name / "width.json"


def go_on(path: Path, fresh: Width, parts: Width, force: bool) -> Width:
    """The record to add parts to: the one at its place if it was measured alike, or a fresh one.

    Args:
        fresh: what a record says before anything is measured.
        parts: {part: the options that it is measured with}.
        force: whether one that is there is replaced.
    """
    if force or not path.exists():
        return fresh
    before = read_width(path)
    named = [name for name in fresh if name != "versions"]  # any version may add a part
    pairs = [(name, before.get(name), fresh[name]) for name in named]
    for part, options in parts.items():
        if part in before:
            measured = before[part].get("options", {})
            pairs += [(f"--{name}", measured.get(name), options[name]) for name in options]
    if other := [f"{name.replace('_', '-')} {old}" for name, old, new in pairs if old != new]:
        raise SwaBenchError(
            f"{path} was measured with {', '.join(other)}: --force replaces it, another --out "
            "keeps both"
        )
    return before


def write_width(path: Path, found: Width) -> None:
    """Write a record; SwaBenchError if that fails, and it is in a temporary folder then."""
    content = (json.dumps(found, allow_nan=False) + "\n").encode()
    try:
        write_atomically(path, content)
    except SwaBenchError as error:
        spare = Path(tempfile.mkdtemp(prefix="swa-width-")) / path.name
        write_atomically(spare, content)
        raise SwaBenchError(f"{error}; what was measured is in {spare}") from error
