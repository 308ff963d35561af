"""Measured points beside the published ones: test errors of a row, and the gains of averaging.

Filled markers are ours, hollow diamonds are published, small dots are single seeds.
"""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swa_bench.labels import Column, column_label
from swa_bench.reporting.figures import INK, color_and_marker, printable
from swa_bench.results.frames import Row
from swa_bench.results.references import Estimate, published
from swa_bench.results.statistics import (
    columns,
    estimate,
    gains,
    summarise,
)

LINE_IN = 0.3  # height of a method and budget
AROUND_IN = 1.1  # height of the axis below them and of the legend
ASIDE = 0.13  # how far from the middle of its line a marker stands
PUBLISHED = {"color": INK, "marker": "D", "markerfacecolor": "none", "label": "published"}
ONE_SEED: dict[str, Any] = {"color": INK, "alpha": 0.55, "markersize": 4, "label": "one seed"}


def draw_test_errors(figure: Figure, row: Row) -> None:
    """Test error of each method and budget, ours and published, each ± 1 sample std."""
    summary = summarise(row.cells)
    axes = figure.subplots()
    labels: list[list[str]] = []
    for column in columns(row):
        cells, theirs = _at(summary, column), published().figure((row.dataset, row.model, *column))
        if cells.empty and not theirs:
            continue
        y = len(labels)
        seeds = _at(row.cells, column)["error"]
        if len(seeds) > 1:
            axes.plot(seeds, [y - 2 * ASIDE] * len(seeds), ".", **ONE_SEED)
        for cell in cells.to_dict("records"):
            _point(axes, y - ASIDE, estimate(cell), _our_style(column[0], row))
        _point(axes, y + ASIDE, theirs, PUBLISHED)
        n = "no runs" if cells.empty else f"n={', '.join(map(str, cells['n']))}"
        labels.append([column_label(*column), n])
    _finish(axes, labels, "test error in %")


def _at(frame: pd.DataFrame, column: Column) -> pd.DataFrame:
    return frame[(frame["method"] == column[0]) & (frame["budget"] == column[1])]


def draw_gains(figure: Figure, row: Row) -> None:
    """Gain of each averaging method and budget over SGD, ours paired by seed, and published."""
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=0.8)
    labels = []
    for y, gain in enumerate(gains(row)):
        _point(axes, y - ASIDE, gain.ours, _our_style(gain.method, row))
        _point(axes, y + ASIDE, gain.theirs, PUBLISHED)
        labels.append([gain.short_label, f"n={gain.ours.n}" if gain.ours else "no pairs"])
    _finish(axes, labels, "gain in % points")


def _point(axes: Axes, y: float, figure: Estimate | None, style: dict[str, Any]) -> None:
    """A mean, if there is one, with its deviation; without a bar where one seed has none."""
    if figure:
        spread = None if math.isnan(figure.std) else figure.std
        axes.errorbar(figure.mean, y, xerr=spread, capsize=3, linestyle="", **style)


def _our_style(method: str, row: Row) -> dict[str, Any]:
    color, marker = color_and_marker(method, row)
    return {"color": color, "marker": marker, "label": "ours"}


def _finish(axes: Axes, labels: list[list[str]], unit: str) -> None:
    """Name the lines, from the top down, and make the figure as high as they need."""
    names = [f"{printable(name, 27)}, {printable(n, 12)}" for name, n in labels]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(unit)
    axes.grid(axis="x", alpha=0.2)
    handles, said = axes.get_legend_handles_labels()
    first = dict(zip(reversed(said), reversed(handles), strict=True))
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.4, 1.0), "ncols": 3}
    names = sorted(first)
    handles = [first[name] for name in names]
    axes.legend(handles, names, columnspacing=1.2, handletextpad=0.3, **place)
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(AROUND_IN + LINE_IN * len(labels))
