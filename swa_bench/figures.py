"""Records -> pictures. Nothing here imports torch. `swa-figures --help` lists the options."""

import argparse
import io
import logging
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import tables
from .errors import SwaBenchError
from .files import write_atomically
from .records import EPOCH_COLUMNS, Record
from .summary import variant_text

# Okabe and Ito's colours, told apart by the colour-blind; line styles tell them apart in grey.
STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))


def learning_curves(records: list[Record]) -> Figure:
    """Test error and learning rate by epoch: a line a method, the mean over seeds.

    Args:
        records: cells of one data set, model and variant.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    errors, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for (label, runs), (color, line) in zip(_walks(records).items(), STYLES * 9, strict=False):
        frames = [_read_epochs(run / "epochs.csv") for run in runs]
        averages = frames[0]["swa_test_error_pct"].notna().any()
        kind = "swa_test_error_pct" if averages else "test_error_pct"
        if averages:
            _draw(
                errors, frames, "test_error_pct", f"{label}, last weights", color, ":", faint=True
            )
        _draw(errors, frames, kind, f"{label}, n={len(frames)}", color, line)
        rates.plot(frames[0]["epoch"], frames[0]["learning_rate"], line, color=color)
    errors.set_ylabel("test error in %")
    errors.legend()
    rates.set_ylabel("learning rate")
    rates.set_yscale("log")
    rates.set_xlabel("epoch")
    for axes in (errors, rates):
        axes.grid(alpha=0.3)
    figure.suptitle(_caption(records), fontsize="small")
    return figure


def _walks(records: list[Record]) -> dict[str, list[Path]]:
    """Run folders by method and length, a line of the figure each."""
    longest: dict[tuple[str, str], float] = {}
    folders: dict[tuple[str, str], set[Path]] = {}
    for record in records:
        key = (record["method"], record["identity"])
        longest[key] = max(longest.get(key, 0.0), record["budget"])
        folders.setdefault(key, set()).add(record["path"].parent)
    walks = {}
    for key, runs in sorted(folders.items()):
        budgets = f"{longest[key]:g} budget{'s' if longest[key] > 1 else ''}"
        label = f"{tables.LABELS.get(key[0], key[0])}, {budgets}"
        walks[f"{label}, {key[1]}" if label in walks else label] = sorted(runs)
    return walks


def _read_epochs(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
        if list(frame) != EPOCH_COLUMNS:
            raise ValueError("its columns are not those of epochs.csv")
    except ValueError as error:  # pandas' own errors too
        raise SwaBenchError(f"{path} is damaged: {error}. Delete it or train again.") from error
    return frame


def _draw(
    axes: Axes,
    frames: list[pd.DataFrame],
    column: str,
    label: str,
    color: str,
    line: str,
    faint: bool = False,
) -> None:
    """The mean over seeds and, around it, a band of one sample standard deviation."""
    by_epoch = pd.concat(frames).groupby("epoch")[column]
    mean, std = by_epoch.mean().dropna(), by_epoch.std()
    axes.plot(mean.index, mean, line, color=color, label=label, alpha=0.5 if faint else 1.0)
    if len(frames) > 1 and not faint:
        band = std.loc[mean.index]
        axes.fill_between(
            mean.index, mean - band, mean + band, color=color, alpha=0.15, linewidth=0
        )


def _caption(records: list[Record]) -> str:
    record = records[0]
    model, dataset = (tables.LABELS.get(record[key], record[key]) for key in ("model", "dataset"))
    lines = [f"{model} on {dataset}: mean over seeds, band ± 1 sample standard deviation"]
    if record["dataset"] not in tables.PAPER_DATASETS:
        lines.append("A demonstration: NOT comparable with the paper")
    lines.append(variant_text(record["variant"]) or "the published recipe")
    lines.append("; ".join(sorted({record["device"] for record in records})))
    return "\n".join(textwrap.fill(line, 100) for line in lines)


def write_figures(records: list[Record], folder: Path) -> list[Path]:
    """Draw the learning curves of each data set, model and variant as PNG; return the files.

    Raises:
        SwaBenchError: a file could not be written.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        if (record["path"].parent / "epochs.csv").exists():
            variant = variant_text(record["variant"])
            groups.setdefault((record["dataset"], record["model"], variant), []).append(record)
    written: list[Path] = []
    for (dataset, model, _), group in sorted(groups.items()):
        stem = f"{dataset}-{model}-learning-curves"
        taken = sum(path.stem.startswith(stem) for path in written)
        path = folder / (f"{stem}-{taken + 1}.png" if taken else f"{stem}.png")
        picture = io.BytesIO()
        learning_curves(group).savefig(picture, dpi=120)
        write_atomically(path, picture.getvalue())
        written.append(path)
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
