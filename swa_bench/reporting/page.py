"""Records -> one self-contained page, and its figures as PNG and SVG.

Records are untrusted text: the template escapes all that it prints, matplotlib all that it draws,
and the page's own policy forbids scripts and requests.
"""

import importlib.resources
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

from swa_bench.config.grid import paper_columns, paper_datasets, paper_models
from swa_bench.files import write_atomically, write_over_own
from swa_bench.labels import BUDGET_EPOCHS, DEMONSTRATIONS, LABELS, column_label, counted
from swa_bench.reporting import figures
from swa_bench.reporting.layout import Recipes, recipes_of
from swa_bench.reporting.points import draw_gains, draw_test_errors
from swa_bench.reporting.tables import make_tables
from swa_bench.results.cost import costs
from swa_bench.results.frames import Row, cells_frame, epochs_frame, rows
from swa_bench.results.record import Record
from swa_bench.results.statistics import COMPARED, collected_frame, gains, summarise

WIDTH_IN = 4.4  # at 72 points an inch and the sizes below, legible on a phone 390 pixels wide
CAPTION_SIZE = 6.5
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
        shown_as: how it shows a standard deviation.
        details: what its title does not say.
        of_published: what to say about the published points, if the row has some.
    """

    name: str
    title: str
    height_in: float
    draw: Callable[[Figure, Row], None]
    shown_as: str
    details: str = ""
    of_published: str = ""


DRAWINGS = (
    Drawing(
        "test-error",
        "test error",
        2.5,
        draw_test_errors,
        "bar",
        of_published="published: mean ± sample standard deviation where known, n=3 (of FGE and "
        "Independent: n unknown, a draft on CIFAR-10)",
    ),
    Drawing(
        "gain",
        "gain over SGD",
        2.3,
        draw_gains,
        "bar",
        "test error of SGD (of 1 budget unless named: other methods may train longer) minus that "
        "of each method, paired by (first) seed",
        "published: difference of the means of n=3, with no pairs known (s: root of the sum of "
        "squares)",
    ),
    Drawing("learning-curves", "learning curves", 5.2, figures.draw_learning_curves, "band"),
    Drawing(
        "collected",
        "collected models",
        2.8,
        figures.draw_collected,
        "band",
        "test error of the average or ensemble of the models collected so far",
    ),
)


def write_report(
    records: Sequence[Record], where: str, folder: Path, whole: Sequence[str] | None = None
) -> Path:
    """Write index.html and, beside it, each figure as PNG and SVG; return the page's path.

    The same records give the same page.

    Args:
        where: the folders of the records, in words.
        whole: as for `make_tables`; of these data sets it is said what is missing.
    """
    cells = cells_frame(records)
    epochs = epochs_frame(cells)
    summary, found, recipes = summarise(cells), rows(cells, epochs), recipes_of(cells)
    counts = summary["verdict"].value_counts()
    of_paper = paper_datasets(cells["dataset"])
    whole = of_paper if whole is None else whole
    devices = set(cells["device"])
    taken: list[str] = []
    page = _render(
        where=where,
        records=records,
        of_paper=of_paper,
        verdicts={said: int(counts[name]) for name, said in VERDICTS.items() if name in counts},
        missing=_missing(summary, whole),
        tables=make_tables(cells, epochs, whole, recipes),
        sections=[_section(row, recipes, folder, taken) for row in found],
        spread=figures.spread(cells, "bar or band"),
        device=devices.pop() if len(devices) == 1 else "",
        recipes=recipes,
        cost=_cost_lines(found, recipes),
        versions=sorted(set(map(_version, cells["versions"]))),
    )
    path = folder / "index.html"
    write_over_own(path, page.encode("utf-8", "replace"), b"<title>swa_bench: report</title>")
    return path


def _render(**values: Any) -> str:
    source = (importlib.resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["counted"] = counted
    return environment.from_string(source).render(values)


def _section(row: Row, recipes: Recipes, folder: Path, taken: list[str]) -> dict[str, Any]:
    """One row of the tables: its figures and its gains."""
    comparable = bool(paper_columns(row.dataset))
    lines = [
        [gain.short_label]
        + [of.gain() if of else "-" for of in (gain.ours, gain.theirs)[: 1 + comparable]]
        for gain in gains(row)
    ]
    collected = collected_frame(row.epochs)
    of = {"test-error": row.cells, "gain": row.cells if lines else row.cells[:0]}
    of |= {"learning-curves": row.epochs, "collected": collected}
    pictures = []
    for drawing in DRAWINGS:
        if not of[drawing.name].empty:
            path = folder / figures.stem(row, drawing.name, taken)
            taken.append(path.name)
            details = [drawing.details, drawing.of_published * comparable]
            spread = figures.spread(of[drawing.name], drawing.shown_as)
            said = figures.caption(row, "; ".join(filter(None, [spread, *details])))
            title = f"{recipes.title(row)}: {drawing.title}"
            svg = _write_picture(drawing, row, title, said, path)
            what = "; ".join(filter(None, [drawing.title, *details]))
            pictures.append({"name": drawing.name, "title": title, "what": what, "svg": svg})
    if len(pictures) == len(DRAWINGS):
        pictures.insert(1, pictures.pop(2))  # then two columns are of about one height
    return {
        "row": row,
        "title": recipes.title(row),
        "letter": recipes.letter(row.recipe_diff),
        "own": recipes.own(row.recipe_diff),
        "comparable": comparable,
        "demonstration": row.dataset in DEMONSTRATIONS,
        "seeds": sorted(set(row.cells["seed"])),
        "pictures": pictures,
        "curves": not row.epochs.empty,
        "gains": lines,
    }


def _write_picture(drawing: Drawing, row: Row, title: str, said: list[str], path: Path) -> Markup:
    """Write a figure with its caption as PNG and SVG; return it without, for the page."""
    # Ids are digests of their content and the salt: different in any two figures of the page.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": path.name}):
        figure = Figure(figsize=(WIDTH_IN, drawing.height_in), layout="constrained")
        drawing.draw(figure, row)
        patches = [figure.patch, *(axes.patch for axes in figure.axes)]
        for patch in patches:
            patch.set(facecolor="none", edgecolor="none")
        inline = _themed(figures.saved(figure, "svg"))
        for patch in patches:
            patch.set_facecolor("white")
        figures.add_caption(figure, title, said, CAPTION_SIZE)
        for kind in ("svg", "png"):
            content = figures.saved(figure, kind, dpi=200)
            write_atomically(path.with_name(f"{path.name}.{kind}"), content)
    return inline


def _themed(svg: bytes) -> Markup:
    """An SVG as an element of the page, in the page's colours, light or dark."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r' id="[^"]*_\d+"', "", text)  # figure_1, axes_1: in every figure
    text = text.replace(figures.INK.lower(), "currentColor")
    for index, (color, *_) in enumerate(figures.STYLES):
        text = text.replace(color.lower(), f"var(--series-{index})")
    return Markup(text)


def _missing(summary: pd.DataFrame, datasets: Sequence[str]) -> list[str]:
    """What has no runs of the paper's tables of data sets: whole rows first, then single cells."""
    found = set(summary[COMPARED].itertuples(index=False, name=None))
    lines = []
    for dataset in datasets:
        lacking, columns = [], paper_columns(dataset)
        for model in paper_models(dataset):
            lacks = [c for c in columns if (dataset, model, *c) not in found]
            cells = [column_label(*c, BUDGET_EPOCHS.get(dataset)) for c in lacks]
            some = f" ({', '.join(cells)})" * (len(cells) < len(columns))
            lacking += [(LABELS[model], some)] * bool(cells)
        if lacking:
            lacking.sort(key=lambda of: bool(of[1]))
            lines.append(f"{LABELS[dataset]}: {', '.join(map(''.join, lacking))}")
    return lines


def _cost_lines(found: Sequence[Row], recipes: Recipes) -> list[list[str]]:
    """What each row's runs cost, and all together."""
    frame = costs(found)
    lines = []
    for row, of in zip(found, frame.to_dict("records"), strict=True):
        speeds = [f"{LABELS.get(name, name)} {_count(n)}" for name, n in of["images_per_s"].items()]
        lines.append([recipes.title(row), row.devices, *_cost_cells(of, [row], ", ".join(speeds))])
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
