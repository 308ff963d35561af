"""How far along random rays the test error reaches a level. Nothing here imports torch."""

import math
from typing import Any

import numpy as np

LEVEL_ABOVE_PCT = 10.0  # the default level: so much above SGD's own test error
CONFIDENCE = 0.95


def reach(rays: dict[str, Any], level_pct: float | None) -> dict[str, Any]:
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
    found: dict[str, Any] = {"level_pct": level_pct}
    for name, of in (*at.items(), ("difference", at["swa"] - at["sgd"])):
        found[name] = _interval(of)
    return found


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


def _interval(values: np.ndarray) -> dict[str, Any]:
    """Mean and interval over directions; none if one of them does not reach the level."""
    reached = int(np.isfinite(values).sum())
    found: dict[str, Any] = {"n": len(values), "reached": reached, "mean": None, "interval": None}
    if reached == len(values):
        found["mean"] = float(values.mean())
        if reached > 1:
            from scipy import stats

            error = stats.sem(values)
            low, high = stats.t.interval(CONFIDENCE, reached - 1, values.mean(), error)
            found["interval"] = [float(low), float(high)]
    return found


def told(found: dict[str, Any]) -> list[str]:
    """The width in words."""
    if "rays" not in found:
        return []
    of = found["rays"]["reach"]
    farthest = found["rays"]["distances"][-1]
    lines = []
    for name, label in (("sgd", "SGD"), ("swa", "SWA"), ("difference", "SWA less SGD")):
        one = of[name]
        if one["mean"] is None:
            what = (
                f"not within {farthest:g} in {one['n'] - one['reached']} of {one['n']} directions"
            )
        else:
            what = f"{one['mean']:.2f}"
            if one["interval"]:
                low, high = one["interval"]
                what += f" (95 % interval {low:.2f} to {high:.2f}, n={one['n']} directions)"
        lines.append(f"distance to a test error of {of['level_pct']:g} %, {label}: {what}")
    return lines
