"""Records -> pictures. Nothing here imports torch. `swa-figures --help` lists the options.

Text of records is untrusted: `printable` keeps it from being read as mathematics or breaking a
file, `stem` from naming a file elsewhere.
"""

import argparse
import io
import logging
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from . import rows, tables
from .errors import SwaBenchError
from .files import write_atomically
from .records import Record

# Okabe and Ito's colours, told apart by the colour-blind; line styles and markers in grey.
STYLES = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "v"),
)
INK = "#1B1D21"  # of all that is neither a series nor a grid
LOG_FROM = 4  # an axis that spans more than this factor is logarithmic


def learning_curves(records: list[Record]) -> Figure:
    """Test error and learning rate by epoch, with a caption, as swa-figures writes it.

    Args:
        records: cells of one data set, model and variant.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    draw_learning_curves(figure, records)
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
        averages = frames[0]["swa_test_error_pct"].notna().any()
        kind = "swa_test_error_pct" if averages else "test_error_pct"
        if averages:
            _draw(errors, frames, "test_error_pct", f"{label}, last weights", style, faint=True)
        _draw(errors, frames, kind, f"{label}, n={len(frames)}", style)
        rates.plot(frames[0]["epoch"], frames[0]["learning_rate"], line, color=color)
    log_if_wide(errors)
    errors.set_ylabel("test error in %")
    errors.legend()
    rates.set_ylabel("learning rate")
    rates.set_yscale("log")
    rates.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    rates.yaxis.set_minor_formatter(NullFormatter())
    rates.set_xlabel("epoch")
    for axes in (errors, rates):
        axes.grid(alpha=0.2)


def color_and_marker(method: str, methods: Iterable[str]) -> tuple[str, str]:
    """A method's colour and marker among those of a row: the same in all of its figures."""
    place = sorted({"sgd", "swa", *methods}).index(method)
    color, _, marker = STYLES[place % len(STYLES)]
    return color, marker


def _curves(records: list[Record]) -> dict[str, list[Record]]:
    """The walks of each line of the figure, by its label: one method, identity and length."""
    lines: dict[tuple[str, str], list[Record]] = {}
    for record in rows.longest_cells(records):
        lines.setdefault((record["method"], record["identity"]), []).append(record)
    curves = {}
    for (method, identity), walks in sorted(lines.items()):
        budget = max(walk["budget"] for walk in walks)
        name = tables.LABELS.get(method, method)
        label = printable(f"{name}, {budget:g} budget{'s' if budget > 1 else ''}")
        curves[f"{label}, {printable(identity)}" if label in curves else label] = walks
    return curves


def _draw(
    axes: Axes,
    frames: list[pd.DataFrame],
    column: str,
    label: str,
    style: tuple[str, str, str],
    faint: bool = False,
) -> None:
    """The mean over seeds and, around it, a band of one sample standard deviation."""
    color, line, marker = style
    by_epoch = pd.concat(frames).groupby("epoch")[column]
    mean, std = by_epoch.mean().dropna(), by_epoch.std()
    if faint:
        axes.plot(mean.index, mean, ":", color=color, label=label, alpha=0.6)
        return
    every = max(1, len(mean) // 8)
    axes.plot(
        mean.index,
        mean,
        line,
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
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def caption(records: list[Record], what: str, width: int = 100) -> str:
    """What a figure of one row must state to be read alone, in lines of `width` characters."""
    lines = [f"{rows.title(records)}: {what}"]
    if records[0]["dataset"] not in tables.PAPER_DATASETS:
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
    """Draw the learning curves of each data set, model and variant as PNG; return the files.

    Raises:
        SwaBenchError: a file could not be written, or an epochs.csv is damaged.
    """
    written: list[Path] = []
    for group in rows.groups([record for record in records if rows.has_epochs(record)]):
        name = stem(group, "learning-curves", [path.stem for path in written])
        picture = io.BytesIO()
        learning_curves(group).savefig(picture, dpi=120)
        write_atomically(folder / f"{name}.png", picture.getvalue())
        written.append(folder / f"{name}.png")
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """The command swa-figures."""
    parser = argparse.ArgumentParser(
        "swa-figures", description="Draw learning curves from records."
    )
    tables.add_records_option(parser)
    parser.add_argument(
        "--out", default="results/figures", help="folder of the figures (%(default)s)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        records, where = tables.find_records(options.records)
        paths = write_figures(records, Path(options.out))
    except SwaBenchError as error:
        sys.exit(f"swa-figures: {error}")
    for path in paths:
        print(path)
    if not paths:
        print(f"No runs in {where}: nothing to draw.")
