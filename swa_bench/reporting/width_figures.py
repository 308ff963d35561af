"""The record of swa-width -> pictures. Nothing here imports torch."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swa_bench.files import write_atomically
from swa_bench.reporting import figures

Found = dict[str, Any]

LOSS = "train loss, with L2 regularisation"
ERROR = "test error in %"
CONTOURS = 12


def regularised_loss(found: Found, of: Found) -> np.ndarray:
    """The paper's train loss: cross-entropy + weight decay / 2 times the squared norm."""
    decay: float = found["weight_decay"]
    loss = np.array(of["train_loss"], float)
    penalty: np.ndarray = loss + decay / 2 * np.array(of["squared_norm"], float)
    return penalty


def draw_rays(figure: Figure, found: Found) -> None:
    """Mean over directions and a band of one standard deviation; the level as a line."""
    rays = found["rays"]
    distances = np.array(rays["distances"])
    panels = figure.subplots(1, 2)
    for name, style in zip(("sgd", "swa"), figures.STYLES, strict=False):
        of = rays[name]
        error = np.array(of["test_error_pct"], float)
        for axes, values in zip(panels, (error, regularised_loss(found, of)), strict=True):
            _draw_band(
                axes, distances, values, f"{name.upper()}, n={len(values)} directions", style
            )
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


def draw_line(figure: Figure, found: Found) -> None:
    """Along the line from SGD (t = 0) to SWA (t = 1)."""
    line = found["line"]
    ts = np.array(line["t"])
    panels = figure.subplots(1, 2)
    color, style, _ = figures.STYLES[2]
    test = np.array(line["test_error_pct"], float)
    for axes, values in zip(panels, (test, regularised_loss(found, line)), strict=True):
        axes.plot(ts, values, linestyle=style, color=color)
        for t, name, (mark_color, _, marker) in zip(
            (0, 1), "SGD SWA".split(), figures.STYLES, strict=False
        ):
            at = np.interp(t, ts, values)
            axes.plot(t, at, marker, color=mark_color, label=name, linestyle="")
    _finish(panels, f"t on SGD + t (SWA − SGD); distance {line['distance']:.2f}")


def _finish(panels: np.ndarray, x_label: str) -> None:
    for axes, label in zip(panels, (ERROR, LOSS), strict=True):
        axes.set_xlabel(x_label)
        axes.set_ylabel(label)
        axes.grid(alpha=0.2)
        axes.legend(frameon=False)
    figures.log_if_wide(panels[1])


def draw_plane(figure: Figure, found: Found) -> None:
    """Contours of test error and train loss, and the three networks."""
    plane = found["plane"]
    panels = figure.subplots(1, 2)
    test = np.array(plane["test_error_pct"], float)
    for axes, label, values in zip(
        panels, (ERROR, LOSS), (test, regularised_loss(found, plane)), strict=True
    ):
        # Levels by rank: steep walls would otherwise take all the contours.
        levels = np.unique(np.nanquantile(values, np.linspace(0, 1, CONTOURS)))
        drawn = axes.contourf(plane["x"], plane["y"], values, levels, cmap="viridis_r")
        axes.contour(plane["x"], plane["y"], values, levels, colors="white", linewidths=0.4)
        bar = figure.colorbar(drawn, ax=axes, label=label, location="bottom", ticks=levels[::2])
        bar.ax.xaxis.set_major_formatter("{x:.3g}")
        for (x, y), name, (_, _, marker) in zip(
            plane["places"], plane["labels"], figures.STYLES, strict=False
        ):
            axes.plot(x, y, marker, color="white", markeredgecolor=figures.INK, markersize=8)
            axes.annotate(
                figures.printable(name),
                (x, y),
                xytext=(7 if x < np.mean(plane["x"]) else -7, 7),
                ha="left" if x < np.mean(plane["x"]) else "right",
                textcoords="offset points",
                fontsize="small",
                bbox={
                    "boxstyle": "round,pad=0.15",
                    "facecolor": "white",
                    "alpha": 0.8,
                    "linewidth": 0,
                },
            )
        axes.set_aspect("equal")
        axes.set_xlabel("distance in weights")


DRAWINGS: dict[str, tuple[Callable[[Figure, Found], None], float, str]] = {
    "rays": (
        draw_rays,
        3.6,
        "random rays; mean over directions, band ± 1 sample standard deviation",
    ),
    "line": (draw_line, 3.6, "the line through the weights of SGD and SWA"),
    "plane": (draw_plane, 4.0, "the plane through three networks"),
}


def write_figures(found: Found, folder: Path) -> list[Path]:
    """Draw the parts that a record has as PNG; return the files.

    Raises:
        SwaBenchError: a file could not be written.
    """
    written = []
    for part, (draw, height_in, what) in DRAWINGS.items():
        if part not in found:
            continue
        figure = Figure(figsize=(9, height_in + 0.7), layout="constrained")
        draw(figure, found)
        what += f"; statistics and train loss from {found['images']:,} images"
        figure.suptitle(figures.caption([found], what), fontsize="small")
        content = io.BytesIO()
        figure.savefig(content, dpi=120)
        write_atomically(folder / f"{part}.png", content.getvalue())
        written.append(folder / f"{part}.png")
    return written
