"""Curves of error by epoch and by collected weights.

Text of records is untrusted: `printable` keeps it from being read as mathematics or breaking a
file, `stem` from naming a file elsewhere.
"""

import io
import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from swa_bench.config.grid import paper_columns
from swa_bench.files import write_atomically
from swa_bench.labels import DEMONSTRATIONS, LABELS, column_label, in_order
from swa_bench.reporting.layout import Recipes, recipes_of
from swa_bench.reporting.tables import predictor_label
from swa_bench.reporting.ticks import log_ticks, rate_ticks
from swa_bench.results.epochs import TESTED, tested_columns
from swa_bench.results.frames import Row, cells_frame, epochs_frame, rows
from swa_bench.results.record import Record
from swa_bench.results.statistics import BASELINE, collected_frame, summarise

# Okabe and Ito's colours, told apart by the colour-blind; line styles and markers in grey. Two
# others replace their yellow, faint on paper, and their black, which is the ink's.
STYLES = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "v"),
    ("#56B4E9", (0, (5, 1)), "P"),
    ("#E69F00", (0, (4, 1, 1, 1, 1, 1)), "X"),
    ("#7F7F7F", (0, (8, 2, 2, 2)), "<"),
    ("#8C564B", (0, (2, 1)), ">"),
)
Style = tuple[str, Any, str]
INK = "#1B1D21"  # of all that is neither a series nor a grid
LOG_FROM = 4  # an axis that spans more than this factor is logarithmic
ALL_COUNTED = 12  # up to so many collected models, each has a tick
LAST = "test_error_pct"  # the column of the trained weights
LEGEND_LINE_IN = 0.19
EM = 0.62  # width of a wide letter, by its size
SMALL = 7.0  # size of what is below a title
TITLE = 1.4  # of a title, by the size of what is below it
LINE = 1.25  # from line to line, by the size
FITS_TWICE = 6.5  # characters per inch of the figure, for two columns of a legend


def draw_learning_curves(figure: Figure, row: Row) -> None:
    """One line per method, the mean over seeds: test error above, learning rate below."""
    errors, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for label, runs, style in _curves(row):
        result = result_column(runs)
        if result == LAST or runs[result].isna().all():
            result = LAST
        else:
            _draw(errors, runs, LAST, f"{label}, last weights", style, faint=True)
        _draw(errors, runs, result, f"{label}, n={runs['run'].nunique()}", style)
        first = runs[runs["run"] == runs["run"].iloc[0]]
        color, line, _ = style
        rates.plot(first["epoch"], first["learning_rate"], linestyle=line, color=color)
    log_if_wide(errors)
    errors.set_ylabel("test error in %")
    rates.set_ylabel("learning rate")
    rate_ticks(rates)
    rates.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    rates.set_xlabel("epoch")
    for axes in (errors, rates):
        axes.grid(alpha=0.2)
    _legend_below(figure, errors)


def draw_collected(figure: Figure, row: Row) -> None:
    """One line per method: test error of k collected models, beside SGD's final error."""
    axes = figure.subplots()
    for cell in summarise(row.cells).to_dict("records"):
        if (cell["method"], cell["budget"]) == BASELINE:
            color, _ = color_and_marker("sgd", row)
            label = f"{column_label(*BASELINE)}, n={cell['n']}"
            axes.axhline(cell["error_mean"], color=color, linewidth=1, label=label)
    collected = collected_frame(row.epochs)
    for _, runs, style in _curves(row):
        method, result = runs["method"].iloc[0], result_column(runs)
        tested = collected[collected["run"].isin(runs["run"])]
        for column in tested_columns(collected):
            of = tested.dropna(subset=column)
            if of.empty or (runs["ensemble"].iloc[0] and column != result):
                continue
            n = of["run"].nunique()
            label = printable(f"{LABELS.get(method, method)}, {predictor_label(column)}, n={n}")
            _draw(axes, of, column, label, style, faint=column != result, x="n_averaged")
    if axes.dataLim.x1 <= ALL_COUNTED:
        axes.xaxis.set_major_locator(MaxNLocator(ALL_COUNTED, integer=True, min_n_ticks=1))
    else:
        axes.set_xscale("log")
        log_ticks(axes.xaxis)
    axes.set_xlabel("collected models")
    axes.set_ylabel("test error in %")
    axes.grid(alpha=0.2)
    _legend_below(figure, axes)


def result_column(runs: pd.DataFrame) -> str:
    """The column of epochs.csv that a method's result comes from."""
    column = f"{runs['predictor'].iloc[0]}{TESTED}"
    return column if column in runs else LAST


def color_and_marker(method: str, row: Row) -> tuple[str, str]:
    """A method's colour and marker among those of a row: the same in all of its figures."""
    place = in_order(["sgd", "swa", *row.cells["method"]]).index(method)
    color, _, marker = STYLES[place % len(STYLES)]
    return color, marker


def _curves(row: Row) -> Iterator[tuple[str, pd.DataFrame, Style]]:
    """The label, epochs and style of each line of a figure: of one method and recipe hash."""
    lines = {
        tuple(map(str, key)): runs for key, runs in row.epochs.groupby(["method", "recipe_hash"])
    }
    methods = in_order(row.epochs["method"])
    labels: set[str] = set()
    order = sorted(lines, key=lambda key: (methods.index(key[0]), key[1]))
    for key, (_, line, _) in zip(order, cycle(STYLES), strict=False):
        runs, (method, recipe_hash) = lines[key], key
        label = printable(column_label(method, runs["budget"].max()))
        label += f", {printable(recipe_hash)}" * (label in labels)
        labels.add(label)
        color, marker = color_and_marker(method, row)
        yield label, runs, (color, line, marker)


def _draw(
    axes: Axes,
    runs: pd.DataFrame,
    column: str,
    label: str,
    style: Style,
    faint: bool = False,
    x: str = "epoch",
) -> None:
    """The mean over seeds and, around it, a band of one sample standard deviation."""
    color, line, marker = style
    by_x = runs.groupby(x)[column]
    mean = by_x.mean().dropna()
    if faint:
        axes.plot(mean.index, mean, ":", color=color, label=label, alpha=0.6)
        return
    marks: dict[str, Any] = {"marker": marker, "markersize": 4}
    marks["markevery"] = max(1, len(mean) // 8)
    axes.plot(mean.index, mean, linestyle=line, color=color, label=label, **marks)
    if runs["run"].nunique() > 1:
        band = by_x.std().loc[mean.index]
        low, high = mean - band, mean + band
        axes.fill_between(mean.index, low, high, color=color, alpha=0.15, linewidth=0)


def log_if_wide(axes: Axes) -> None:
    """A logarithmic axis where a linear one would press the end of the curves together."""
    low, high = axes.dataLim.intervaly
    if low > 0 and LOG_FROM * low < high:
        axes.set_yscale("log")
        log_ticks(axes.yaxis)


def _legend_below(figure: Figure, axes: Axes) -> None:
    """The legend of some axes below all, where it hides no curve; the figure grows by it."""
    handles, labels = axes.get_legend_handles_labels()
    fits = max(map(len, labels), default=0) < FITS_TWICE * figure.get_figwidth()
    columns = 2 if fits else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2)
    lines = math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE_IN * lines)


def spread(runs: pd.DataFrame, shown_as: str = "band") -> str:
    """What a figure shows of runs (method, recipe_hash, seed), if some have several seeds."""
    several = (runs.groupby(["method", "recipe_hash"])["seed"].nunique() > 1).any()
    said = f"mean over n seeds, {shown_as} ± s (s: sample standard deviation)"
    return said if several else "one seed"


def add_caption(figure: Figure, title: str, said: Iterable[str], size: float = SMALL) -> None:
    """Put a title of one line above a figure and, in small type, what it needs to be read alone.

    The figure grows by the small type.
    """
    fits = int(72 * figure.get_figwidth() / (EM * size))
    lines = [line for text in said for line in textwrap.wrap(printable(text, 4 * fits), fits)]
    title_size = TITLE * size
    heading: dict[str, Any] = {"x": 0.01, "ha": "left", "fontsize": title_size}
    figure.suptitle(printable(title, int(fits / TITLE)), **heading)
    added_in = (len(lines) + 0.5) * LINE * size / 72
    height_in = figure.get_figheight() + added_in
    figure.set_figheight(height_in)
    below_in = 0.08 + LINE * title_size / 72
    small: dict[str, Any] = {"ha": "left", "va": "top", "fontsize": size, "linespacing": LINE}
    figure.text(0.01, 1 - below_in / height_in, "\n".join(lines), **small)
    engine = figure.get_layout_engine()
    if engine is not None:  # leaves this room free
        engine.set(rect=(0, 0, 1, 1 - added_in / height_in))  # type: ignore[call-arg]


def caption(row: Row, details: str) -> list[str]:
    """What is below the title of a row's figure: what it shows, its recipe and devices."""
    demonstration = "A demonstration: NOT comparable with the paper"
    said = [details, *[demonstration] * (row.dataset in DEMONSTRATIONS)]
    said += [row.recipe] * bool(row.recipe_diff or paper_columns(row.dataset))
    return [*filter(None, said), row.devices]


def printable(text: object, at_most: int = 40) -> str:
    """Text that matplotlib prints as it is: no mathematics between dollars, no control codes.

    Text longer than `at_most` characters is cut, so that no label pushes out the axes.
    """
    characters = "".join(char if char.isprintable() else " " for char in str(text))
    if len(characters) > at_most:
        characters = characters[: at_most - 1] + "…"
    return characters.replace("$", r"\$")


def stem(row: Row, what: str, taken: Iterable[str]) -> str:
    """Name of a row's figure without its suffix; rows of one model are counted."""
    parts = [re.sub(r"[^A-Za-z0-9_]+", "_", part)[:40] for part in (row.dataset, row.model)]
    name = "-".join([*parts, what])
    count = sum(re.fullmatch(rf"{name}(-\d+)?", other) is not None for other in taken)
    return f"{name}-{count + 1}" if count else name


def write_figures(records: Iterable[Record], folder: Path) -> list[Path]:
    """Draw learning curves and collected models of each row as PNG; return the files."""
    cells = cells_frame(records)
    recipes = recipes_of(cells)
    written: list[Path] = []
    for row in rows(cells, epochs_frame(cells)):
        drawings = [
            ("learning-curves", "learning curves", draw_learning_curves, row.epochs),
            ("collected", "collected models", draw_collected, collected_frame(row.epochs)),
        ]
        for name, title, draw, of in drawings:
            if len(of):
                figure = Figure(figsize=(8, 6), layout="constrained")
                draw(figure, row)
                path = folder / f"{stem(row, name, [path.stem for path in written])}.png"
                write_captioned(figure, row, f"{title}; {spread(of)}", path, recipes)
                written.append(path)
    return written


def write_captioned(
    figure: Figure, row: Row, what: str, path: Path, recipes: Recipes | None = None
) -> None:
    """Write a figure as PNG; `what` is its kind and, after a semicolon, details of the caption."""
    kind, _, details = what.partition("; ")
    title = recipes.title(row) if recipes else row.title
    add_caption(figure, f"{title}: {kind}", caption(row, details))
    write_atomically(path, saved(figure, "png", 120))


def saved(figure: Figure, kind: str, dpi: float = 72) -> bytes:
    """A figure as PNG or SVG, the same bytes on every day.

    It is drawn once; `Figure.savefig` draws what has a layout twice.
    """
    content = io.BytesIO()
    figure.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(figure) if kind == "png" else FigureCanvasSVG(figure)
    if kind == "png":
        canvas.print_png(content)
    else:
        canvas.print_svg(content, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return content.getvalue()
