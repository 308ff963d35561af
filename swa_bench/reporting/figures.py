"""Records -> curves of error by epoch and by copies. Nothing here imports torch.

`swa-figures --help` lists the command's options.
Text of records is untrusted: `printable` keeps it from being read as mathematics or breaking a
file, `stem` from naming a file elsewhere.
"""

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from swa_bench.commands import errors_in_one_line, find_records, records_options
from swa_bench.files import write_atomically
from swa_bench.labels import DEMONSTRATIONS, LABELS, column_label, in_order
from swa_bench.reporting.copies import KINDS, copies_frame
from swa_bench.results import frames as rows
from swa_bench.results.record import Record
from swa_bench.results.statistics import cells_frame, is_ensemble, summarise

# Okabe and Ito's colours, told apart by the colour-blind; line styles and markers in grey. For
# their yellow, faint on paper, and their black, which is the ink's, stand two others.
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
RATES_TO = 1e-4  # of the highest rate: what is lower, as at the end of a cosine, is not shown
LEGEND_LINE_IN = 0.19
FITS_TWICE = 6.5  # characters an inch of the figure, for two columns of a legend


def captioned(draw: Callable[[Figure, list[Record]], None], records: list[Record]) -> Figure:
    """A figure with its caption, as swa-figures writes it.

    Args:
        draw: draw_learning_curves or draw_copies.
        records: cells of one data set, model and variant.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    draw(figure, records)
    what = "mean over seeds, band ± 1 sample standard deviation"
    figure.suptitle(caption(records, what), fontsize="small")
    return figure


def draw_learning_curves(figure: Figure, records: list[Record]) -> None:
    """A line a method, the mean over seeds: test error above, learning rate below."""
    errors, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    methods = [record["method"] for record in records]
    for (label, runs), (_, line, _) in zip(_curves(records).items(), cycle(STYLES), strict=False):
        color, marker = color_and_marker(runs[0]["method"], methods)
        style = (color, line, marker)
        frames = [rows.read_epochs(run["path"].parent / "epochs.csv") for run in runs]
        kind = result_column(runs[0])
        if frames[0][kind].isna().all():
            kind = "test_error_pct"
        else:
            _draw(errors, frames, "test_error_pct", f"{label}, last weights", style, faint=True)
        _draw(errors, frames, kind, f"{label}, n={len(frames)}", style)
        first = frames[0]
        rates.plot(first["epoch"], first["learning_rate"], linestyle=line, color=color)
    log_if_wide(errors)
    errors.set_ylabel("test error in %")
    rates.set_ylabel("learning rate")
    rates.set_yscale("log")
    rates.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    rates.yaxis.set_minor_formatter(NullFormatter())
    low, high = rates.dataLim.intervaly
    if low < RATES_TO * high:
        rates.set_ylim(bottom=RATES_TO * high)
    rates.set_xlabel("epoch")
    for axes in (errors, rates):
        axes.grid(alpha=0.2)
    _legend_below(figure, errors)


def draw_copies(figure: Figure, records: list[Record]) -> None:
    """Test error against the number of copies, a line a method; SGD's final error beside it.

    Args:
        records: cells of one data set, model and variant.
    """
    axes = figure.subplots()
    methods = [record["method"] for record in records]
    for cell in summarise(cells_frame(records)).to_dict("records"):
        if (cell["method"], cell["budget"]) == ("sgd", 1.0):
            color, _ = color_and_marker("sgd", methods)
            label = f"{column_label('sgd', 1.0)}, n={cell['n']}"
            axes.axhline(cell["error_mean"], color=color, linewidth=1, label=label)
    for runs, (_, line, _) in zip(_curves(records).values(), cycle(STYLES), strict=False):
        method = runs[0]["method"]
        color, marker = color_and_marker(method, methods)
        frame, own = copies_frame(runs), result_column(runs[0])
        for column, kind in KINDS.items():
            frames = [of for _, of in frame.dropna(subset=column).groupby("seed")]
            if not frames or (is_ensemble(runs[0]) and column != own):
                continue
            label = printable(f"{LABELS.get(method, method)}, {kind}, n={len(frames)}")
            style = (color, line, marker)
            _draw(axes, frames, column, label, style, column != own, "n_averaged")
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.set_xlabel("copies of the weights")
    axes.set_ylabel("test error in %")
    axes.grid(alpha=0.2)
    _legend_below(figure, axes)


def result_column(record: Record) -> str:
    """The column of epochs.csv that a method's result comes from, if it collects copies."""
    return "ensemble_test_error_pct" if is_ensemble(record) else "swa_test_error_pct"


def color_and_marker(method: str, methods: Iterable[str]) -> tuple[str, str]:
    """A method's colour and marker among those of a row: the same in all of its figures."""
    place = in_order(["sgd", "swa", *methods]).index(method)
    color, _, marker = STYLES[place % len(STYLES)]
    return color, marker


def _curves(records: list[Record]) -> dict[str, list[Record]]:
    """The walks of each line of the figure, by its label: one method, identity and length."""
    lines: dict[tuple[str, str], list[Record]] = {}
    for record in rows.longest_cells(records):
        lines.setdefault((record["method"], record["identity"]), []).append(record)
    curves = {}
    methods = in_order(method for method, _ in lines)
    for method, identity in sorted(lines, key=lambda line: (methods.index(line[0]), line[1])):
        walks = lines[method, identity]
        label = printable(column_label(method, max(walk["budget"] for walk in walks)))
        curves[f"{label}, {printable(identity)}" if label in curves else label] = walks
    return curves


def _draw(
    axes: Axes,
    frames: list[pd.DataFrame],
    column: str,
    label: str,
    style: Style,
    faint: bool = False,
    x: str = "epoch",
) -> None:
    """The mean over seeds and, around it, a band of one sample standard deviation."""
    color, line, marker = style
    by_x = pd.concat(frames).groupby(x)[column]
    mean, std = by_x.mean().dropna(), by_x.std()
    if faint:
        axes.plot(mean.index, mean, ":", color=color, label=label, alpha=0.6)
        return
    every = max(1, len(mean) // 8)
    axes.plot(
        mean.index,
        mean,
        linestyle=line,
        color=color,
        label=label,
        marker=marker,
        markersize=4,
        markevery=every,
    )
    if len(frames) > 1:
        band = std.loc[mean.index]
        axes.fill_between(
            mean.index, mean - band, mean + band, color=color, alpha=0.15, linewidth=0
        )


def log_if_wide(axes: Axes) -> None:
    """A logarithmic axis where a linear one would press the end of the curves together."""
    low, high = axes.dataLim.intervaly
    if low > 0 and LOG_FROM * low < high:
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)


def _plain_ticks(axis: Axis) -> None:
    """Plain numbers at 1, 2, 5, 10 and so on of a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend_below(figure: Figure, axes: Axes) -> None:
    """The legend of some axes below all, where it hides no curve; the figure grows by it."""
    handles, labels = axes.get_legend_handles_labels()
    fits = max(map(len, labels), default=0) < FITS_TWICE * figure.get_figwidth()
    columns = 2 if fits else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2)
    lines = math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE_IN * lines)


def caption(records: list[Record], what: str, width: int = 100) -> str:
    """What a figure of one row must state to be read alone, in lines of `width` characters."""
    lines = [f"{rows.title(records)}: {what}"]
    if records[0]["dataset"] in DEMONSTRATIONS:
        lines.append("A demonstration: NOT comparable with the paper")
    lines += [rows.recipe(records), rows.devices(records)]
    wrapped = (textwrap.wrap(printable(line, 4 * width), width) for line in lines)
    return "\n".join("\n".join(part) for part in wrapped)


def printable(text: object, at_most: int = 40) -> str:
    """Text that matplotlib prints as it is: no mathematics between dollars, no control codes.

    What is longer than `at_most` characters is cut, so that no label pushes out the axes.
    """
    characters = "".join(char if char.isprintable() else " " for char in str(text))
    if len(characters) > at_most:
        characters = characters[: at_most - 1] + "…"
    return characters.replace("$", r"\$")


def stem(records: list[Record], what: str, taken: Sequence[str]) -> str:
    """Name of a row's figure without its suffix; rows of one model are counted."""
    parts = (records[0]["dataset"], records[0]["model"], what)
    name = (
        "-".join(re.sub(r"[^A-Za-z0-9_]+", "_", str(part))[:40] for part in parts[:2]) + f"-{what}"
    )
    count = sum(re.fullmatch(rf"{name}(-\d+)?", other) is not None for other in taken)
    return f"{name}-{count + 1}" if count else name


def write_figures(records: list[Record], folder: Path) -> list[Path]:
    """Draw each data set, model and variant as PNG: learning curves, copies; return the files.

    Raises:
        SwaBenchError: a file could not be written, or an epochs.csv is damaged.
    """
    written: list[Path] = []
    for group in rows.groups(records):
        curves = [record for record in group if rows.has_epochs(record)]
        copies = [] if copies_frame(group).empty else group
        for name, draw, of in (
            ("learning-curves", draw_learning_curves, curves),
            ("copies", draw_copies, copies),
        ):
            if of:
                picture = io.BytesIO()
                captioned(draw, of).savefig(picture, dpi=120)
                path = folder / f"{stem(group, name, [path.stem for path in written])}.png"
                write_atomically(path, picture.getvalue())
                written.append(path)
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """The command swa-figures."""
    options = records_options("swa-figures", "Draw figures from records.", arguments)
    with errors_in_one_line("swa-figures"):
        records, where = find_records(options.records)
        paths = write_figures(records, Path(options.out))
    for path in paths:
        print(path)
    if not paths:
        print(f"No runs in {where}: nothing to draw.")
