"""The record of swa-width: how far along random rays the test error reaches a level."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from swa_bench.config.renames import RENAMED
from swa_bench.errors import SwaBenchError

FORMAT = 2
LEVEL_ABOVE_PCT = 10.0  # the default level: so much above SGD's own test error
CONFIDENCE = 0.95

Width = dict[str, Any]


def read_width(path: Path) -> Width:
    """A record that swa-width has written; one of format 1 under the present names.

    Raises:
        SwaBenchError: it is not there or is damaged.
    """
    try:
        found = json.loads(path.read_bytes())
        if found["format"] not in (1, FORMAT):
            raise ValueError(f"its format is {found['format']}, not {FORMAT}")
        found["networks"][0]["seed"]
        return _from_format_1(found) if found["format"] == 1 else {**found}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SwaBenchError(f"{path} is no record of swa-width: {error}") from error


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
