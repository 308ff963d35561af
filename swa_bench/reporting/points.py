"""Measured points beside the published ones: test errors of a row, and the gains of averaging.

Filled markers are ours, hollow diamonds are published, small dots are single seeds.
Nothing here imports torch.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swa_bench.labels import column_label
from swa_bench.reporting.figures import INK, color_and_marker, printable
from swa_bench.results.gains import BASELINE, Gain, columns, gains
from swa_bench.results.record import Record
from swa_bench.results.statistics import Cell, cells_frame, published, summarise

LINE_IN = 0.3  # height of a method and budget
AROUND_IN = 1.1  # height of the axis below them and of the legend
ASIDE = 0.13  # how far from the middle of its line a marker stands


def draw_test_errors(figure: Figure, records: list[Record]) -> None:
    """Test error of each method and budget, ours and published, each ± 1 sample std.

    Args:
        records: cells of one data set, model and variant.
    """
    frame = cells_frame(records)
    summary = summarise(frame)
    row = (frame["dataset"].iloc[0], frame["model"].iloc[0])
    figures = published()
    axes = figure.subplots()
    labels = []
    shown = [c for c in columns(frame) if (*row, *c) in figures or _at(summary, c).size]
    for y, column in enumerate(shown):
        cells = _at(summary, column)
        seeds = _at(frame, column)["error"]
        axes.plot(seeds, [y - 2 * ASIDE] * len(seeds), ".", **_seed_style())
        for cell in cells.to_dict("records"):
            ours = Cell(cell["error_mean"], cell["error_std"], int(cell["n"]))
            _point(axes, y - ASIDE, ours, _our_style(column[0], frame))
        if (*row, *column) in figures:
            _point(axes, y + ASIDE, figures[*row, *column], _published_style())
        n = "no runs" if cells.empty else f"n={', '.join(str(n) for n in cells['n'])}"
        labels.append([column_label(*column), n])
    _finish(axes, labels, "test error in %")


def _at(frame: pd.DataFrame, column: tuple[str, float]) -> pd.DataFrame:
    return frame[(frame["method"] == column[0]) & (frame["budget"] == column[1])]


def draw_gains(figure: Figure, records: list[Record]) -> None:
    """Gain of each averaging method and budget over SGD, ours paired by seed, and published."""
    frame = cells_frame(records)
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=0.8)
    shown = gains(frame)
    labels = []
    for y, gain in enumerate(shown):
        if gain.ours:
            _point(axes, y - ASIDE, gain.ours, _our_style(gain.method, frame))
        if gain.theirs:
            _point(axes, y + ASIDE, gain.theirs, _published_style())
        labels.append([gain_label(gain), f"n={gain.ours.n}" if gain.ours else "no pairs"])
    _finish(axes, labels, "gain in % points")


def gain_label(gain: Gain) -> str:
    """What is compared, such as SWA 1.25, or SWA 1.5 − SGD 1.5 where SGD is not of one budget."""
    label = column_label(gain.method, gain.budget)
    if gain.baseline_budget == BASELINE[1]:
        return label
    return f"{label} over {column_label(BASELINE[0], gain.baseline_budget)}"


def _point(axes: Axes, y: float, cell: Cell, style: dict[str, Any]) -> None:
    """A mean with its deviation; without a bar where one seed has none."""
    spread = None if pd.isna(cell.std) else cell.std
    axes.errorbar(cell.mean, y, xerr=spread, capsize=3, linestyle="", **style)


def _our_style(method: str, frame: pd.DataFrame) -> dict[str, Any]:
    color, marker = color_and_marker(method, frame["method"])
    return {"color": color, "marker": marker, "label": "ours"}


def _published_style() -> dict[str, Any]:
    return {"color": INK, "marker": "D", "markerfacecolor": "none", "label": "published"}


def _seed_style() -> dict[str, Any]:
    return {"color": INK, "alpha": 0.55, "markersize": 4, "label": "one seed"}


def _finish(axes: Axes, labels: list[list[str]], unit: str) -> None:
    """Name the lines, from the top down, and make the figure as high as they need."""
    names = [f"{printable(name, 24)}, {printable(n, 12)}" for name, n in labels]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(unit)
    axes.grid(axis="x", alpha=0.2)
    handles, said = axes.get_legend_handles_labels()
    first = dict(zip(reversed(said), reversed(handles), strict=True))
    axes.legend(
        [first[name] for name in sorted(first)],
        sorted(first),
        loc="lower center",
        bbox_to_anchor=(0.4, 1.0),
        ncols=3,
        columnspacing=1.2,
        handletextpad=0.3,
    )
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(AROUND_IN + LINE_IN * len(labels))
