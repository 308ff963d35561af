"""The record of swa-width -> pictures."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from swa_bench.labels import recipe_text
from swa_bench.reporting import figures
from swa_bench.results.frames import Row
from swa_bench.results.reach import reach
from swa_bench.results.widths import Width, ends

LOSS = "train loss, with L2 regularisation"
ERROR = "test error in %"
RANKS = (0, 0.05, 0.15, 0.3, 0.45, 0.6, 0.8, 1)  # of contours: the best 5 % stand out
BOX = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}


def errors_and_losses(found: Width, of: Width) -> tuple[np.ndarray, np.ndarray]:
    """Test errors in %, and the paper's training losses, of the points of a part of the record.

    The loss is the cross-entropy + weight decay / 2 times the squared norm of the weights.
    """
    error, loss, norm = (
        np.array(of[name], float) for name in ("test_error_pct", "train_loss", "squared_norm")
    )
    return error, loss + found["weight_decay"] / 2 * norm


def draw_rays(figure: Figure, found: Width, level_pct: float | None = None) -> None:
    """Mean over directions and a band of one standard deviation; the level as a line."""
    rays = found["rays"]
    distances = np.array(rays["distances"])
    panels = figure.subplots(1, 2)
    for name, label, style in zip(("sgd", "swa"), ends(found), figures.STYLES, strict=False):
        for axes, values in zip(panels, errors_and_losses(found, rays[name]), strict=True):
            _draw_band(axes, distances, values, label, style)
    level_pct = reach(rays, level_pct)["level_pct"]
    line: dict[str, Any] = {"linewidth": 0.8, "linestyle": (0, (1, 3)), "color": figures.INK}
    panels[0].axhline(level_pct, label=f"level {level_pct:g} %", **line)
    _finish(panels, "distance from the weights")


def _draw_band(
    axes: Axes, x: np.ndarray, values: np.ndarray, label: str, style: figures.Style
) -> None:
    color, line, marker = style
    mean = values.mean(0)
    axes.plot(x, mean, linestyle=line, color=color, marker=marker, markersize=3.5, label=label)
    if len(values) > 1:
        std = values.std(0, ddof=1)
        axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.18, linewidth=0)


def draw_line(figure: Figure, found: Width) -> None:
    """Along the line from SGD (t = 0) to SWA (t = 1)."""
    line = found["line"]
    ts = np.array(line["t"])
    panels = figure.subplots(1, 2)
    color, style, _ = figures.STYLES[2]
    marks = list(zip((0, 1), ends(found), figures.STYLES, strict=False))
    for axes, values in zip(panels, errors_and_losses(found, line), strict=True):
        axes.plot(ts, values, linestyle=style, color=color)
        for t, name, (end_color, _, marker) in marks:
            at = np.interp(t, ts, values)
            axes.plot(t, at, marker, color=end_color, label=name, linestyle="")
    first, last = ends(found)
    _finish(panels, f"t on {first} + t ({last} − {first}); distance {line['distance']:.2f}")


def _finish(panels: np.ndarray, x_label: str) -> None:
    for axes, label in zip(panels, (ERROR, LOSS), strict=True):
        axes.set_xlabel(x_label)
        axes.set_ylabel(label)
        axes.grid(alpha=0.2)
        axes.legend(frameon=False)
    figures.log_if_wide(panels[1])


def draw_plane(figure: Figure, found: Width) -> None:
    """Contours of test error and training loss, and the three networks."""
    plane = found["plane"]
    panels = figure.subplots(1, 2)
    parts = zip(panels, (ERROR, LOSS), errors_and_losses(found, plane), strict=True)
    for axes, label, values in parts:
        levels = round_levels(values)
        norm = BoundaryNorm(levels, 256)  # each band is as unlike the next
        drawn = axes.contourf(plane["x"], plane["y"], values, levels, cmap="viridis_r", norm=norm)
        axes.contour(plane["x"], plane["y"], values, levels, colors="white", linewidths=0.4)
        bar = figure.colorbar(drawn, ax=axes, label=label, location="bottom", ticks=levels)
        bar.ax.xaxis.set_major_formatter("{x:g}")
        bar.ax.tick_params(labelsize="small")
        _mark_networks(axes, plane)
        axes.set_aspect("equal")
        axes.set_xlabel("distance in weights")


def round_levels(values: np.ndarray) -> np.ndarray:
    """Round numbers that all finite values lie between.

    They are near RANKS, since steep walls would otherwise take all the contours.
    """
    finite = values[np.isfinite(values)]
    finite = finite if len(finite) else np.zeros(1)
    ranks = np.unique(np.quantile(finite, RANKS))
    if len(ranks) < 2:  # nothing to tell apart
        return np.array([ranks[0] - 0.5, ranks[0] + 0.5])
    gaps = np.diff(ranks)
    steps = [_round_step(gap) for gap in np.minimum([gaps[0], *gaps], [*gaps, gaps[-1]])]
    levels = np.round(ranks / steps) * steps
    levels[0] = np.floor(ranks[0] / steps[0]) * steps[0]
    levels[-1] = np.ceil(ranks[-1] / steps[-1]) * steps[-1]
    return np.unique(levels)


def _round_step(gap: float) -> float:
    """The largest of 1, 2 and 5, times a power of 10, that is not larger."""
    power = 10.0 ** math.floor(math.log10(gap))
    return max(step * power for step in (1, 2, 5) if step * power <= gap or step == 1)


def _mark_networks(axes: Axes, plane: Width) -> None:
    """The networks with their names, outside of their triangle.

    The first two are the ends of its lower side, from left to right, and the third is above.
    """
    sides: tuple[dict[str, Any], ...]
    sides = ({"ha": "right", "va": "top"}, {"ha": "left", "va": "top"}, {"ha": "center"})
    asides = ((2, -7), (-2, -7), (0, 8))
    networks = zip(plane["places"], plane["labels"], figures.STYLES, sides, asides, strict=False)
    for (x, y), name, (_, _, marker), side, aside in networks:
        axes.plot(x, y, marker, color="white", markeredgecolor=figures.INK, markersize=8)
        text: dict[str, Any] = {"fontsize": "small", "bbox": BOX, "textcoords": "offset points"}
        axes.annotate(figures.printable(name), (x, y), xytext=aside, **text, **side)


def _plane_height_in(found: Width) -> float:
    """The height of the plane's figure: that of its frames, and what is below them."""
    if "plane" not in found:
        return 0.0
    xs, ys = found["plane"]["x"], found["plane"]["y"]
    shape: float = (ys[-1] - ys[0]) / (xs[-1] - xs[0])
    return 1.5 + 3.9 * min(max(shape, 0.4), 1.2)


def _what(part: str, found: Width) -> str:
    """What the figure of a part shows: its kind, and details."""
    images = f"statistics and train loss from {found['images']:,} images"
    if part == "line":
        return f"the line through the weights of {' and '.join(ends(found))}; {images}"
    if part == "plane":
        return f"the plane through three networks; {images}"
    directions = len(found["rays"]["sgd"]["test_error_pct"])
    if directions == 1:
        return f"a random ray; one direction; {images}"
    mean = f"mean over {directions} directions, band ± 1 sample standard deviation"
    return f"random rays; {mean}; {images}"


def write_figures(found: Width, folder: Path, level_pct: float | None = None) -> list[Path]:
    """Draw the parts that a record has as PNG; a level that is given stands in a file's name."""
    row = Row(found["dataset"], found["model"], recipe_text(found["recipe_diff"]), found["device"])
    level = "" if level_pct is None else f"-level-{level_pct:g}"
    drawings: dict[str, tuple[Callable[[Figure, Width], None], float, str]] = {
        "rays": (functools.partial(draw_rays, level_pct=level_pct), 4.3, f"rays{level}.png"),
        "line": (draw_line, 4.3, "line.png"),
        "plane": (draw_plane, _plane_height_in(found), "plane.png"),
    }
    written = []
    for part in [part for part in drawings if part in found]:
        draw, height_in, name = drawings[part]
        figure = Figure(figsize=(9, height_in), layout=ConstrainedLayoutEngine(w_pad=0.12))
        draw(figure, found)
        figures.write_captioned(figure, row, _what(part, found), folder / name)
        written.append(folder / name)
    return written
