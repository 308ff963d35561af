"""Figures: what their lines are, and how they are labelled."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from record_helpers import write_collected, write_record, write_run

from swa_bench.reporting import figures
from swa_bench.results import frames
from swa_bench.results.epochs import write_epochs
from swa_bench.results.frames import Row
from swa_bench.results.record import read_records


def row_of(folder: Path) -> Row:
    cells = frames.cells_frame(read_records([folder]))
    (row,) = frames.rows(cells, frames.epochs_frame(cells))
    return row


@pytest.mark.parametrize(
    ("rates", "ticks"),
    [
        ((0.05, 0.02), ["0", "0.02", "0.04"]),
        ((0.05, 0.05), ["0", "0.02", "0.04"]),
        ((0.1, 0.01), ["0.01", "0.02", "0.05", "0.1"]),
        ((0.1, 0.001), ["0.001", "0.01", "0.1"]),
    ],
)
def test_rates_have_readable_ticks(
    tmp_path: Path, rates: tuple[float, float], ticks: list[str]
) -> None:
    write_run(tmp_path, {1.0: 6.0}, list(rates))
    figure = Figure()
    figures.draw_learning_curves(figure, row_of(tmp_path))
    axis = figure.axes[1].yaxis
    figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    shown = [text.get_text() for at, text in labels if low * 0.999 <= at <= high * 1.001]
    assert shown == ticks


def test_learning_curves_show_means_of_seeds(tmp_path: Path) -> None:
    for seed, errors in enumerate(((50.0, 40.0), (54.0, 44.0))):
        for method, recipe_hash in (("sgd", "a" * 12), ("swa", "b" * 12)):
            changes = {"method": method, "recipe_hash": recipe_hash, "seed": seed}
            path = write_record(tmp_path, dataset="cifar10_mini", **changes)
            rows = [
                {"epoch": epoch, "learning_rate": 0.1, "test_error_pct": error, "n_averaged": 0}
                for epoch, error in enumerate(errors, start=1)
            ]
            rows[-1]["swa_test_error_pct"] = 30.0 if method == "swa" else None
            write_epochs(path.parent, rows)
    row = row_of(tmp_path)
    figure = Figure()
    figures.draw_learning_curves(figure, row)
    errors_axes, rates_axes = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in errors_axes.lines}
    assert lines == {
        "SGD 1, n=2": [52.0, 42.0],
        "SWA 1, last weights": [52.0, 42.0],
        "SWA 1, n=2": [30.0],
    }
    assert len(rates_axes.lines) == 2
    assert "A demonstration: NOT comparable with the paper" in figures.caption(row, "errors")
    (path,) = figures.write_figures(read_records([tmp_path]), tmp_path / "out")
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_each_number_of_collected_models_has_a_tick(tmp_path: Path) -> None:
    write_collected(tmp_path, [(k, 20.0 - k, None) for k in range(1, 5)], method="swa")
    figure = Figure()
    figures.draw_collected(figure, row_of(tmp_path))
    figure.draw_without_rendering()
    axis = figure.axes[0].xaxis
    assert {1, 2, 3, 4} <= set(axis.get_ticklocs()) <= set(range(6))
    assert not axis.get_minorticklocs().size


def test_no_band_is_spoken_of_where_there_is_none(tmp_path: Path) -> None:
    write_collected(tmp_path, [(1, 20.0, None), (2, 18.0, None)], method="swa")
    row = row_of(tmp_path)
    figure = Figure()
    figures.draw_learning_curves(figure, row)
    assert not figure.axes[0].collections
    assert figures.spread(row.epochs) == "one seed"
    write_collected(tmp_path, [(1, 21.0, None), (2, 19.0, None)], method="swa", seed=1)
    figure = Figure()
    figures.draw_learning_curves(figure, row_of(tmp_path))
    assert figure.axes[0].collections
    assert "band ± s" in figures.spread(row_of(tmp_path).epochs)
