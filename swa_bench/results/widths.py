"""The record of swa-width: its schema, and how far along rays the test error reaches a level."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from swa_bench.config.renames import RENAMED
from swa_bench.config.schema import Count, FolderName, NonNegative, NonNegativeInt
from swa_bench.errors import SwaBenchError
from swa_bench.results.foreign import NewerFormatError, check_format, parse_json, read_file
from swa_bench.results.record import Number, Part

FORMAT = 2
LEVEL_ABOVE_PCT = 10.0  # the default level: so much above SGD's own test error
CONFIDENCE = 0.95

Width = dict[str, Any]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
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


class Interval(Part):
    """Of how many directions, how many reached the level, and where."""

    n: Count
    reached: NonNegativeInt
    mean: Number | None
    interval: Pair | None


class Reach(Part):
    """See `reach`."""

    level_pct: Number
    sgd: Interval
    swa: Interval
    difference: Interval


class Rays(Part):
    """Measures (directions, distances) from the weights of SGD and of SWA."""

    distances: Annotated[list[Number], Field(min_length=2)]
    sgd: Measured
    swa: Measured
    reach: Reach

    @model_validator(mode="after")
    def _check(self) -> "Rays":
        for measured in (self.sgd, self.swa):
            measured.check_shape([len(measured.test_error_pct), len(self.distances)])
        return self


class Line(Measured):
    """Measures (points) from SGD to SWA."""

    t: Annotated[list[Number], Field(min_length=2)]
    distance: Number

    @model_validator(mode="after")
    def _check(self) -> "Line":
        self.check_shape([len(self.t)])
        return self


class Plane(Measured):
    """Measures (y, x) around three networks."""

    x: Annotated[list[Number], Field(min_length=2)]
    y: Annotated[list[Number], Field(min_length=2)]
    places: Annotated[list[Pair], Field(min_length=3, max_length=3)]
    labels: Annotated[list[str], Field(min_length=3, max_length=3)]

    @model_validator(mode="after")
    def _check(self) -> "Plane":
        self.check_shape([len(self.y), len(self.x)])
        return self


class WidthRecord(Part):
    """All that a width.json holds, of format 2."""

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


def read_width(path: Path) -> Width:
    """A record that swa-width has written; one of format 1 under the present names.

    Raises:
        SwaBenchError: it is not there or is damaged.
    """
    try:
        found: Width = parse_json(read_file(path))
        check_format(found, FORMAT)
        translated = _from_format_1(found) if found["format"] == 1 else found
        WidthRecord.model_validate(translated)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise SwaBenchError(f"{path} is no record of swa-width: {reason}") from error
    except NewerFormatError as error:
        raise SwaBenchError(f"{path} {error.what} ({error})") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SwaBenchError(f"{path} is no record of swa-width: {error}") from error
    return {name: value for name, value in translated.items() if value is not None}


def _from_format_1(found: Width) -> Width:
    diff = {RENAMED.get(name, name): value for name, value in found["variant"].items()}
    names = {"identity": "recipe_hash"}
    networks = [{names.get(k, k): value for k, value in net.items()} for net in found["networks"]]
    rest = {name: value for name, value in found.items() if name != "variant"}
    return rest | {"format": FORMAT, "recipe_diff": diff, "networks": networks}


def reach(rays: Width, level_pct: float | None) -> Width:
    """At which distance the test error reaches a level, mean over directions with an interval.

    The interval is Student's at 95 %. The difference is paired: both have the same directions.
    """
    distances = np.array(rays["distances"])
    errors = {name: np.array(rays[name]["test_error_pct"], float) for name in ("sgd", "swa")}
    if level_pct is None:
        level_pct = round(float(errors["sgd"][0, 0]) + LEVEL_ABOVE_PCT, 2)
    at = {
        name: np.array([first_crossing(distances, ray, level_pct) for ray in of])
        for name, of in errors.items()
    }
    at["difference"] = at["swa"] - at["sgd"]
    return {"level_pct": level_pct} | {name: _interval(of) for name, of in at.items()}


def first_crossing(distances: np.ndarray, errors_pct: np.ndarray, level_pct: float) -> float:
    """Where an error reaches a level, by linear interpolation; nan if it does not."""
    above = np.flatnonzero(errors_pct >= level_pct)
    if not len(above):
        return math.nan
    i = int(above[0])
    if i == 0:
        return float(distances[0])
    low, high = errors_pct[i - 1], errors_pct[i]
    part = (level_pct - low) / (high - low)
    return float(distances[i - 1] + part * (distances[i] - distances[i - 1]))


def _interval(values: np.ndarray) -> Width:
    """Mean and interval over directions; none if one of them does not reach the level."""
    reached = int(np.isfinite(values).sum())
    found: Width = {"n": len(values), "reached": reached, "mean": None, "interval": None}
    if reached == len(values):
        found["mean"] = float(values.mean())
        if reached > 1:
            from scipy import stats

            half = stats.sem(values) * stats.t.ppf((1 + CONFIDENCE) / 2, reached - 1)
            found["interval"] = [found["mean"] - float(half), found["mean"] + float(half)]
    return found


def describe(found: Width) -> list[str]:
    """The width in words."""
    if "rays" not in found:
        return []
    of, farthest = found["rays"]["reach"], found["rays"]["distances"][-1]
    lines = []
    for name, label in (("sgd", "SGD"), ("swa", "SWA"), ("difference", "SWA minus SGD")):
        one = of[name]
        missing = one["n"] - one["reached"]
        what = f"not within {farthest:g} in {missing} of {one['n']} directions"
        if one["mean"] is not None:
            what = f"{one['mean']:.2f}"
        if one["interval"]:
            low, high = one["interval"]
            what += f" (95 % interval {low:.2f} to {high:.2f}, n={one['n']} directions)"
        lines.append(f"distance to a test error of {of['level_pct']:g} %, {label}: {what}")
    return lines
