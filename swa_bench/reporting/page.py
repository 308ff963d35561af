"""Records -> one self-contained page, and its figures as PNG and SVG.

Records are untrusted text: the template escapes all that it prints, matplotlib all that it draws,
and the page's own policy forbids scripts and requests.
"""

import importlib.resources
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from swa_bench.config.grid import PAPER_COLUMNS, PAPER_DATASETS, PAPER_MODELS
from swa_bench.files import write_atomically
from swa_bench.labels import DEMONSTRATIONS, LABELS, column_label
from swa_bench.reporting import figures
from swa_bench.reporting.points import draw_gains, draw_test_errors, gain_label
from swa_bench.reporting.tables import make_tables
from swa_bench.results.cost import costs
from swa_bench.results.frames import Row, cells_frame, epochs_frame, rows
from swa_bench.results.record import Record
from swa_bench.results.statistics import COMPARED, collected_frame, gains, summarise

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
        of_published: what to say about the published points, if the row has some.
    """

    name: str
    height_in: float
    draw: Callable[[Figure, Row], None]
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
        "test error of SGD (of 1 budget unless named: other methods may train longer) minus that "
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
        "collected",
        2.8,
        figures.draw_collected,
        "test error of the average or ensemble of the models collected so far, mean over n seeds, "
        "band ± s (s: sample standard deviation)",
    ),
)


def write_report(records: Sequence[Record], where: str, folder: Path) -> Path:
    """Write index.html and, beside it, each figure as PNG and SVG; return the page's path.

    The same records give the same page.

    Args:
        where: the folders of the records, in words.

    Raises:
        SwaBenchError: a file could not be written.
    """
    cells = cells_frame(records)
    epochs = epochs_frame(cells)
    summary, found = summarise(cells), rows(cells, epochs)
    counts = summary["verdict"].value_counts()
    taken: list[str] = []
    values = {
        "where": where,
        "records": records,
        "verdicts": {said: counts[name] for name, said in VERDICTS.items() if name in counts},
        "missing": _missing(summary),
        "tables": make_tables(cells, epochs),
        "sections": [_section(row, folder, taken) for row in found],
        "cost": _cost_lines(found),
        "versions": sorted(set(map(_version, cells["versions"]))),
    }
    source = (importlib.resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(source).render(values)
    write_atomically(folder / "index.html", page.encode("utf-8", "replace"))
    return folder / "index.html"


def _section(row: Row, folder: Path, taken: list[str]) -> dict[str, Any]:
    """One row of the tables: its figures and its gains."""
    comparable = row.dataset in PAPER_DATASETS
    lines = [
        [gain_label(gain)]
        + [of.gain() if of else "-" for of in (gain.ours, gain.theirs)[: 1 + comparable]]
        for gain in gains(row)
    ]
    empty = {
        "gain": not lines,
        "learning-curves": row.epochs.empty,
        "collected": collected_frame(row.epochs).empty,
    }
    pictures = []
    for drawing in DRAWINGS:
        if not empty.get(drawing.name):
            path = folder / figures.stem(row, drawing.name, taken)
            taken.append(path.name)
            what = drawing.what + drawing.of_published * comparable
            svg = _write_picture(drawing, what, row, path)
            pictures.append({"what": what, "svg": svg})
    return {
        "row": row,
        "comparable": comparable,
        "demonstration": row.dataset in DEMONSTRATIONS,
        "seeds": ", ".join(map(str, sorted(set(row.cells["seed"])))),
        "pictures": pictures,
        "curves": not empty["learning-curves"],
        "gains": lines,
    }


def _write_picture(drawing: Drawing, what: str, row: Row, path: Path) -> Markup:
    """Write a figure with its caption as PNG and SVG; return it without, for the page."""
    # Ids are digests of their content and the salt: different in any two figures of the page.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": path.name}):
        figure = Figure(figsize=(WIDTH_IN, drawing.height_in), layout="constrained")
        drawing.draw(figure, row)
        inline = _themed(_saved(figure, "svg", transparent=True))
        caption = figures.caption(row, what, CAPTION_CHARACTERS)
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


def _missing(summary: pd.DataFrame) -> list[str]:
    """What has no runs of each of the paper's tables: whole rows first, then single cells."""
    found = set(summary[COMPARED].itertuples(index=False, name=None))
    lines = []
    for dataset in PAPER_DATASETS:
        lacking = []
        for model in PAPER_MODELS:
            cells = [column_label(*c) for c in PAPER_COLUMNS if (dataset, model, *c) not in found]
            some = f" ({', '.join(cells)})" * (len(cells) < len(PAPER_COLUMNS))
            lacking += [(LABELS[model], some)] * bool(cells)
        if lacking:
            lacking.sort(key=lambda of: bool(of[1]))
            lines.append(f"{LABELS[dataset]}: {', '.join(map(''.join, lacking))}")
    return lines


def _cost_lines(found: Sequence[Row]) -> list[list[str]]:
    """What each row's runs cost, and all together."""
    frame = costs(found)
    lines = []
    for row, of in zip(found, frame.to_dict("records"), strict=True):
        speeds = [f"{LABELS.get(name, name)} {_count(n)}" for name, n in of["images_per_s"].items()]
        lines.append([row.title, row.devices, *_cost_cells(of, [row], ", ".join(speeds))])
    if len(found) > 1:
        total = frame.drop(columns="images_per_s").sum(skipna=False).to_dict()
        lines.append(["All together", "", *_cost_cells(total, found, "")])
    return lines


def _cost_cells(of: Mapping[Any, float], found: Sequence[Row], speeds: str) -> list[str]:
    kinds = {kind for row in found for kind in row.cells["device_kind"]}
    hours = {"cuda": "GPU-hours", "cpu": "CPU-hours"}.get("".join(kinds), "hours")
    time = f"{of['hours']:,.2f} {hours}" if math.isfinite(of["hours"]) else "not recorded"
    epochs = [of["epochs_by_cell"], of["epochs_by_run"], of["epochs"]]
    return [f"{of['runs']:g}", time, speeds, *map(_count, [*epochs, epochs[0] - epochs[2]])]


def _count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "not recorded"


def _version(versions: Mapping[str, Any]) -> str:
    names = ("swa_bench", "commit", "torch", "python", "platform")
    parts = [f"{name} {versions[name]}" for name in names if versions.get(name) is not None]
    return ", ".join(parts) or "an unknown version"
