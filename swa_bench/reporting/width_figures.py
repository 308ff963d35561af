"""The record of swa-width -> pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swa_bench.reporting import figures
from swa_bench.results.frames import Row, recipe_text
from swa_bench.results.widths import Width

LOSS = "train loss, with L2 regularisation"
ERROR = "test error in %"
CONTOURS = 12
BOX = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}


def errors_and_losses(found: Width, of: Width) -> tuple[np.ndarray, np.ndarray]:
    """Test errors in %, and the paper's training losses, of the points of a part of the record.

    The loss is the cross-entropy + weight decay / 2 times the squared norm of the weights.
    """
    error, loss, norm = (
        np.array(of[name], float) for name in ("test_error_pct", "train_loss", "squared_norm")
    )
    return error, loss + found["weight_decay"] / 2 * norm


def draw_rays(figure: Figure, found: Width) -> None:
    """Mean over directions and a band of one standard deviation; the level as a line."""
    rays = found["rays"]
    distances = np.array(rays["distances"])
    panels = figure.subplots(1, 2)
    for name, style in zip(("sgd", "swa"), figures.STYLES, strict=False):
        for axes, values in zip(panels, errors_and_losses(found, rays[name]), strict=True):
            label = f"{name.upper()}, n={len(values)} directions"
            _draw_band(axes, distances, values, label, style)
    level = rays["reach"]["level_pct"]
    panels[0].axhline(level, color=figures.INK, linewidth=0.8, linestyle=(0, (1, 3)))
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
    ends = list(zip((0, 1), ("SGD", "SWA"), figures.STYLES, strict=False))
    for axes, values in zip(panels, errors_and_losses(found, line), strict=True):
        axes.plot(ts, values, linestyle=style, color=color)
        for t, name, (end_color, _, marker) in ends:
            at = np.interp(t, ts, values)
            axes.plot(t, at, marker, color=end_color, label=name, linestyle="")
    _finish(panels, f"t on SGD + t (SWA − SGD); distance {line['distance']:.2f}")


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
        # Levels by rank: steep walls would otherwise take all the contours.
        finite = values[np.isfinite(values)]
        finite = finite if len(finite) else np.zeros(1)
        levels = np.unique(np.quantile(finite, np.linspace(0, 1, CONTOURS)))
        if len(levels) < 2:  # nothing to tell apart
            levels = levels[0] + np.array([-0.5, 0.5])
        drawn = axes.contourf(plane["x"], plane["y"], values, levels, cmap="viridis_r")
        axes.contour(plane["x"], plane["y"], values, levels, colors="white", linewidths=0.4)
        bar = figure.colorbar(drawn, ax=axes, label=label, location="bottom", ticks=levels[::2])
        bar.ax.xaxis.set_major_formatter("{x:.3g}")
        _mark_networks(axes, plane)
        axes.set_aspect("equal")
        axes.set_xlabel("distance in weights")


def _mark_networks(axes: Axes, plane: Width) -> None:
    """The networks with their names, which point to the middle of the plane."""
    middle = np.mean(plane["x"])
    networks = zip(plane["places"], plane["labels"], figures.STYLES, strict=False)
    for (x, y), name, (_, _, marker) in networks:
        left = x < middle
        axes.plot(x, y, marker, color="white", markeredgecolor=figures.INK, markersize=8)
        text: dict[str, Any] = {"fontsize": "small", "ha": "left" if left else "right", "bbox": BOX}
        aside = (7 if left else -7, 7)
        axes.annotate(
            figures.printable(name), (x, y), xytext=aside, textcoords="offset points", **text
        )


DRAWINGS: dict[str, tuple[Callable[[Figure, Width], None], float, str]] = {
    "rays": (
        draw_rays,
        4.3,
        "random rays; mean over directions, band ± 1 sample standard deviation",
    ),
    "line": (draw_line, 4.3, "the line through the weights of SGD and SWA"),
    "plane": (draw_plane, 4.7, "the plane through three networks"),
}


def write_figures(found: Width, folder: Path) -> list[Path]:
    """Draw the parts that a record has as PNG; return the files.

    Raises:
        SwaBenchError: a file could not be written.
    """
    row = Row(found["dataset"], found["model"], recipe_text(found["recipe_diff"]), found["device"])
    written = []
    for part in [part for part in DRAWINGS if part in found]:
        draw, height_in, what = DRAWINGS[part]
        figure = Figure(figsize=(9, height_in), layout="constrained")
        draw(figure, found)
        what += f"; statistics and train loss from {found['images']:,} images"
        figures.write_captioned(figure, row, what, folder / f"{part}.png")
        written.append(folder / f"{part}.png")
    return written
