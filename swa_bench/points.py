"""Measured points beside the published ones: test errors of a row, and the gains of averaging.

Filled markers are ours, hollow diamonds are published, small dots are single seeds.
Nothing here imports torch.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import INK, color_and_marker, printable
from .gains import BASELINE, Gain, columns, gains
from .names import LABELS, column_label
from .records import Record
from .summary import Cell, cells_frame, published, summarise

CROWDED = 5  # more columns than this have upright labels
ASIDE = 0.13  # how far from the middle of its column a marker stands


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
    for x, column in enumerate(shown):
        cells = _at(summary, column)
        seeds = _at(frame, column)["error"]
        axes.plot([x - 2 * ASIDE] * len(seeds), seeds, ".", **_seed_style())
        for cell in cells.to_dict("records"):
            ours = Cell(cell["error_mean"], cell["error_std"], int(cell["n"]))
            _point(axes, x - ASIDE, ours, _our_style(column[0], frame))
        if (*row, *column) in figures:
            _point(axes, x + ASIDE, figures[*row, *column], _published_style())
        n = "no runs" if cells.empty else f"n={', '.join(str(n) for n in cells['n'])}"
        labels.append(f"{column_label(*column)}\n{n}")
    _finish(axes, labels, "test error in %")


def _at(frame: pd.DataFrame, column: tuple[str, float]) -> pd.DataFrame:
    return frame[(frame["method"] == column[0]) & (frame["budget"] == column[1])]


def draw_gains(figure: Figure, records: list[Record]) -> None:
    """Gain of each averaging method and budget over SGD, ours paired by seed, and published."""
    frame = cells_frame(records)
    axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=0.8)
    shown = gains(frame)
    labels = []
    for x, gain in enumerate(shown):
        if gain.ours:
            _point(axes, x - ASIDE, gain.ours, _our_style(gain.method, frame))
        if gain.theirs:
            _point(axes, x + ASIDE, gain.theirs, _published_style())
        labels.append(gain_label(gain) + (f"\nn={gain.ours.n}" if gain.ours else "\nno pairs"))
    _finish(axes, labels, "gain in % points")


def gain_label(gain: Gain) -> str:
    """What is compared, such as SWA 1.25, or SWA 1.5 − SGD 1.5 where SGD is not of one budget."""
    label = column_label(gain.method, gain.budget)
    if gain.baseline_budget == BASELINE[1]:
        return label
    return f"{label} over\n{column_label(BASELINE[0], gain.baseline_budget)}"


def _point(axes: Axes, x: float, cell: Cell, style: dict[str, Any]) -> None:
    """A mean with its deviation; without a bar where one seed has none."""
    spread = None if pd.isna(cell.std) else cell.std
    axes.errorbar(x, cell.mean, spread, capsize=3, linestyle="", **style)


def _our_style(method: str, frame: pd.DataFrame) -> dict[str, Any]:
    color, marker = color_and_marker(method, frame["method"])
    return {"color": color, "marker": marker, "label": lines(LABELS.get(method, method))}


def _published_style() -> dict[str, Any]:
    return {"color": INK, "marker": "D", "markerfacecolor": "none", "label": "published"}


def _seed_style() -> dict[str, Any]:
    return {"color": INK, "alpha": 0.55, "markersize": 4, "label": "one seed"}


def lines(label: str) -> str:
    """A label of several lines, each printable."""
    return "\n".join(printable(line, 16) for line in label.split("\n"))


def _finish(axes: Axes, labels: list[str], unit: str) -> None:
    axes.set_xticks(
        range(len(labels)),
        [lines(label) for label in labels],
        rotation=90 if len(labels) > CROWDED else 0,
    )
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_ylabel(unit)
    axes.grid(axis="y", alpha=0.2)
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    names = sorted(found, key=lambda name: name == "published")  # last; the others as drawn
    axes.legend(
        [found[name] for name in names],
        names,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=min(len(names), 4) or 1,
        columnspacing=1.2,
        handletextpad=0.3,
    )
