"""Records -> one self-contained page, and its figures as PNG and SVG.

Records are untrusted text: the template escapes all that it prints, matplotlib all that it draws,
and the page's own policy forbids scripts and requests. Nothing here imports torch.
`swa-report --help` lists the command's options.
"""

import importlib.resources
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from swa_bench.commands import errors_in_one_line, find_records, records_options
from swa_bench.files import write_atomically
from swa_bench.labels import (
    DEMONSTRATIONS,
    LABELS,
    PAPER_COLUMNS,
    PAPER_DATASETS,
    PAPER_MODELS,
    column_label,
)
from swa_bench.reporting import figures
from swa_bench.reporting.copies import copies_frame
from swa_bench.reporting.layout import Table
from swa_bench.reporting.points import draw_gains, draw_test_errors, gain_label
from swa_bench.reporting.tables import make_tables
from swa_bench.results import frames as rows
from swa_bench.results.cost import Cost, Seen, add, cost
from swa_bench.results.gains import gain_text, gains
from swa_bench.results.record import Record, value
from swa_bench.results.statistics import cells_frame, summarise

WIDTH_IN = 4.4  # at 72 points an inch and the sizes below, legible on a phone 390 pixels wide
CAPTION_SIZE = 6.5
CAPTION_CHARACTERS = 76  # of that size, in a line of the width
CAPTION_LINE_IN = 0.13
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.labelcolor": figures.INK,
    "axes.edgecolor": figures.INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": figures.INK,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": "medium",
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "text.color": figures.INK,
    "xtick.color": figures.INK,
    "ytick.color": figures.INK,
    "svg.fonttype": "none",  # text stays text, in the page's own font
}
VERDICTS = {
    "agrees": "agree",
    "lower": "lower",
    "higher": "higher",
    "one seed: no test": "of one seed, which cannot be tested",
    "no n: no test": "beside a figure without n, which cannot be tested",
}


@dataclass(frozen=True)
class Drawing:
    """A kind of figure that each row has.

    Attributes:
        height_in: before its legend; a drawing with many lines sets its own.
        of_published: what is to be said of the published points, if the row has some.
    """

    name: str
    height_in: float
    draw: Callable[[Figure, list[Record]], None]
    what: str
    of_published: str = ""


DRAWINGS = (
    Drawing(
        "test-error",
        2.5,
        draw_test_errors,
        "test error, mean ± s over n seeds (s: sample standard deviation)",
        "; published: n=3 (of FGE and Independent: n unknown, a draft on CIFAR-10)",
    ),
    Drawing(
        "gain",
        2.3,
        draw_gains,
        "test error of SGD (of 1 budget, if not named: others may have trained longer) less that "
        "of each method, paired by (first) seed, mean ± s over n pairs (s: sample standard "
        "deviation)",
        "; published: difference of the means of n=3, with no pairs known "
        "(s: root of the sum of squares)",
    ),
    Drawing(
        "learning-curves",
        5.2,
        figures.draw_learning_curves,
        "test error and learning rate, mean over n seeds, band ± s (s: sample standard deviation)",
    ),
    Drawing(
        "copies",
        2.8,
        figures.draw_copies,
        "test error after so many copies of the weights, of their average or ensemble, mean over "
        "n seeds, band ± s (s: sample standard deviation)",
    ),
)


@dataclass(frozen=True)
class Picture:
    """A figure in the page, and what it says."""

    what: str
    svg: Markup


def write_report(records: list[Record], where: str, folder: Path) -> Path:
    """Write index.html and, beside it, each figure as PNG and SVG; return the page's path.

    The same records give the same page.

    Args:
        where: the folders of the records, in words.

    Raises:
        SwaBenchError: a file could not be written, or an epochs.csv is damaged.
    """
    summary = summarise(cells_frame(records))
    taken: list[str] = []
    sections = [_section(group, folder, taken) for group in rows.groups(records)]
    values = {
        "where": where,
        "records": records,
        "verdicts": _verdicts(summary),
        "missing": _missing(summary),
        "tables": make_tables(records),
        "sections": sections,
        "cost": _cost_table(records),
        "versions": sorted({_version(record) for record in records}),
    }
    source = (importlib.resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(source).render(values)
    write_atomically(folder / "index.html", page.encode("utf-8", "replace"))
    return folder / "index.html"


def _section(records: list[Record], folder: Path, taken: list[str]) -> dict[str, Any]:
    """One row of the tables: its figures and its gains."""
    frame = cells_frame(records)
    found = gains(frame)
    comparable = records[0]["dataset"] in PAPER_DATASETS
    of = {drawing.name: records for drawing in DRAWINGS}
    of["learning-curves"] = [record for record in records if rows.has_epochs(record)]
    of["gain"] = records if found else []
    of["copies"] = [] if copies_frame(records).empty else records
    pictures = []
    for drawing in DRAWINGS:
        if of[drawing.name]:
            path = folder / figures.stem(records, drawing.name, taken)
            taken.append(path.name)
            what = drawing.what + (drawing.of_published if comparable else "")
            pictures.append(Picture(what, _write_picture(drawing, what, of[drawing.name], path)))
    return {
        "title": rows.title(records),
        "comparable": comparable,
        "demonstration": records[0]["dataset"] in DEMONSTRATIONS,
        "recipe": rows.recipe(records),
        "devices": rows.devices(records),
        "seeds": ", ".join(str(seed) for seed in sorted(set(frame["seed"]), key=str)),
        "pictures": pictures,
        "curves": bool(of["learning-curves"]),
        "gains": [
            [gain_label(gain), gain_text(gain.ours)] + [gain_text(gain.theirs)] * comparable
            for gain in found
        ],
    }


def _write_picture(drawing: Drawing, what: str, records: list[Record], path: Path) -> Markup:
    """Write a figure with its caption as PNG and SVG; return it without, for the page."""
    # Ids are digests of their content and the salt: unlike in any two figures of the page.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": path.name}):
        figure = Figure(figsize=(WIDTH_IN, drawing.height_in), layout="constrained")
        drawing.draw(figure, records)
        inline = _themed(_saved(figure, "svg", transparent=True))
        caption = figures.caption(records, what, CAPTION_CHARACTERS)
        figure.suptitle(caption, fontsize=CAPTION_SIZE)
        figure.set_figheight(figure.get_figheight() + CAPTION_LINE_IN * len(caption.splitlines()))
        for kind in ("svg", "png"):
            content = _saved(figure, kind, dpi=200, facecolor="white")
            write_atomically(path.with_name(f"{path.name}.{kind}"), content)
    return inline


def _saved(figure: Figure, kind: str, **options: Any) -> bytes:
    """A figure as bytes, the same on every day."""
    content = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type")) if kind == "svg" else None
    figure.savefig(content, format=kind, metadata=nothing, **options)
    return content.getvalue()


def _themed(svg: bytes) -> Markup:
    """An SVG as an element of the page, in the page's colours, light or dark."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r' id="[^"]*_\d+"', "", text)  # figure_1, axes_1: in every figure
    text = text.replace(figures.INK.lower(), "currentColor")
    for index, (color, *_) in enumerate(figures.STYLES):
        text = text.replace(color.lower(), f"var(--series-{index})")
    return Markup(text)


def _verdicts(summary: pd.DataFrame) -> dict[str, int]:
    """How many of the cells that have a published counterpart there are of each verdict."""
    compared = summary[summary["published_mean"].notna()]["verdict"].value_counts()
    return {said: int(compared[name]) for name, said in VERDICTS.items() if name in compared}


def _missing(summary: pd.DataFrame) -> list[str]:
    """What has no runs of each of the paper's tables: whole rows first, then single cells."""
    keys = ("dataset", "model", "method", "budget")
    found = set(zip(*(summary[key] for key in keys), strict=True))
    lines = []
    for dataset in PAPER_DATASETS:
        without: list[str] = []
        partly: list[str] = []
        for model in PAPER_MODELS:
            cells = [c for c in PAPER_COLUMNS if (dataset, model, *c) not in found]
            if len(cells) == len(PAPER_COLUMNS):
                without.append(LABELS[model])
            elif cells:
                partly.append(f"{LABELS[model]} ({', '.join(column_label(*c) for c in cells)})")
        if without + partly:
            lines.append(f"{LABELS[dataset]}: {', '.join(without + partly)}")
    return lines


def _cost_table(records: list[Record]) -> Table:
    """Cost of each row's runs and of all together."""
    header = ["", "device", "runs", "time", "images/s", "epochs, cell by cell"]
    header += ["epochs, run by run", "epochs trained", "epochs saved"]
    seen: Seen = set()
    groups = rows.groups(records)
    costs = [cost(group, seen) for group in groups]
    lines = [
        [rows.title(group), rows.devices(group), *_cost_cells(of, group)]
        for group, of in zip(groups, costs, strict=True)
    ]
    if len(costs) > 1:
        lines.append(["All together", "", *_cost_cells(add(costs), records)])
    return Table("cost", "Cost", header, lines, [])


def _cost_cells(of: Cost, records: list[Record]) -> list[str]:
    kinds = {str(value(record, "config", "device")) for record in records}
    hours = {"cuda": "GPU-hours", "cpu": "CPU-hours"}.get("".join(kinds), "hours")
    time = f"{of.hours:,.2f} {hours}" if math.isfinite(of.hours) else "not recorded"
    speeds = [f"{LABELS.get(name, name)} {_count(n)}" for name, n in of.images_per_s.items()]
    epochs = (of.epochs_by_cell, of.epochs_by_run, of.epochs, of.epochs_by_cell - of.epochs)
    return [str(of.runs), time, ", ".join(speeds), *map(_count, epochs)]


def _count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "not recorded"


def _version(record: Record) -> str:
    names = ("swa_bench", "commit", "torch", "python", "platform")
    known = {name: value(record, "versions", name) for name in names}
    parts = [f"{name} {said}" for name, said in known.items() if said is not None]
    return ", ".join(parts) or "an unknown version"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command swa-report."""
    options = records_options("swa-report", "Turn records into one page.", arguments)
    with errors_in_one_line("swa-report"):
        records, where = find_records(options.records)
        path = write_report(records, where, Path(options.out))
    print(f"{len(records)} records from {where}; report in {path}, figures beside it")
