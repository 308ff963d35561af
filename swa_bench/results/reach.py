"""How wide an optimum is: how far along rays the test error reaches a level."""

import math
from collections.abc import Mapping

import numpy as np

from swa_bench.errors import SwaBenchError
from swa_bench.results.student import half_width
from swa_bench.results.widths import Width, ends

LEVEL_ABOVE_PCT = 10.0  # the default level: so much above SGD's own test error


def check_level(level_pct: float | None, errors_pct: Mapping[str, float]) -> None:
    """Raise SwaBenchError unless a level is above the networks' own errors in %, and up to 100."""
    highest = max(errors_pct.values())
    if level_pct is None or highest < level_pct <= 100:
        return
    own = ", ".join(f"{name} {error:.2f} %" for name, error in errors_pct.items())
    raise SwaBenchError(
        f"--level {level_pct:g}: choose a test error above {highest:.2f} % and up to 100 %; the "
        f"networks themselves have {own}"
    )


def start_errors(rays: Width) -> dict[str, float]:
    """{network, sgd or swa: its test error in % at distance 0}."""
    starts = {name: rays[name]["test_error_pct"][0][0] for name in ("sgd", "swa")}
    return {name: math.nan if error is None else error for name, error in starts.items()}


def reach(rays: Width, level_pct: float | None = None) -> Width:
    """At which distance the test error reaches a level, mean over directions with an interval.

    The interval is Student's at 95 %. The difference is paired: both have the same directions. The
    level is by default 10 points above SGD's error at distance 0, but at most 100.
    """
    if level_pct is None:
        level_pct = min(round(start_errors(rays)["sgd"] + LEVEL_ABOVE_PCT, 2), 100.0)
    distances = np.array(rays["distances"])
    at = {}
    for name in ("sgd", "swa"):
        errors = np.array(rays[name]["test_error_pct"], float)
        at[name] = np.array([first_crossing(distances, ray, level_pct) for ray in errors])
    at["difference"] = at["swa"] - at["sgd"]
    return {"level_pct": level_pct} | {name: _interval(of) for name, of in at.items()}


def first_crossing(distances: np.ndarray, errors_pct: np.ndarray, level_pct: float) -> float:
    """Where an error rises to a level, by linear interpolation; nan if it does not.

    One that starts at the level or above does not rise to it.
    """
    above = np.flatnonzero(errors_pct >= level_pct)
    if not len(above) or above[0] == 0:
        return math.nan
    i = int(above[0])
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
            half = half_width(float(values.std(ddof=1)), reached)
            found["interval"] = [found["mean"] - half, found["mean"] + half]
    return found


def describe(found: Width, level_pct: float | None = None) -> list[str]:
    """The width in words; for `level_pct` see `reach`."""
    lines = _describe_rays(found["rays"], ends(found), level_pct) if "rays" in found else []
    if "plane" in found and _is_lowest_at_the_edge(found["plane"]):
        lines.append("plane: the lowest train loss is at its edge; a larger --margin shows more")
    return lines


def _describe_rays(rays: Width, networks: tuple[str, str], level_pct: float | None) -> list[str]:
    of, starts, lines = reach(rays, level_pct), start_errors(rays), []
    labels = {"sgd": networks[0], "swa": networks[1], "difference": " minus ".join(networks[::-1])}
    for name, label in labels.items():
        one = of[name]
        missing = one["n"] - one["reached"]
        what = f"not within {rays['distances'][-1]:g} in {missing} of {one['n']} directions"
        if starts.get(name, -math.inf) >= of["level_pct"]:
            what = f"none, since it starts at {starts[name]:.2f} %"
        if one["mean"] is not None:
            what = f"{one['mean']:.2f}"
        if one["interval"]:
            low, high = one["interval"]
            what += f" (95 % interval {low:.2f} to {high:.2f}, n={one['n']} directions)"
        lines.append(f"distance to a test error of {of['level_pct']:g} %, {label}: {what}")
    return lines


def _is_lowest_at_the_edge(plane: Width) -> bool:
    losses = np.array(plane["train_loss"], float)
    if np.isnan(losses).all():
        return False
    place = np.unravel_index(np.nanargmin(losses), losses.shape)
    return any(at in (0, n - 1) for at, n in zip(place, losses.shape, strict=True))
