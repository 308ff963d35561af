"""Tables, gains, cost and figures of ensembles and collected models, with numbers by hand."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from record_helpers import RUNS, write_collected, write_record

from swa_bench.reporting import figures, tables
from swa_bench.reporting.layout import Table
from swa_bench.results import frames
from swa_bench.results.cost import costs
from swa_bench.results.epochs import EPOCH_COLUMNS, read_epochs
from swa_bench.results.frames import Row
from swa_bench.results.record import read_records
from swa_bench.results.references import published
from swa_bench.results.statistics import collected_frame, gains, summarise


def row_of(*folders: Path) -> Row:
    cells = frames.cells_frame(read_records(folders))
    (row,) = frames.rows(cells, frames.epochs_frame(cells))
    return row


def lines_of(draw: Callable[[Figure, Row], None], row: Row) -> dict[str, list[float]]:
    figure = Figure()
    draw(figure, row)
    return {str(line.get_label()): list(line.get_ydata()) for line in figure.axes[0].lines}


def made_tables(folder: Path) -> dict[str, Table]:
    cells = frames.cells_frame(read_records([folder]))
    return {table.name: table for table in tables.make_tables(cells, frames.epochs_frame(cells))}


def cell(table: Table, line: int, column: str) -> str:
    return table.rows[line][table.header.index(column)]


def test_published_ensembles(tmp_path: Path) -> None:
    draft = published().figure(("cifar10", "vgg16", "independent", 3.0))
    assert (str(draft), draft.n, draft.draft) == ("5.95 (draft)", None, True)
    assert str(published().figure(("cifar100", "preresnet164", "fge", 1.0))) == "19.70 ± 0.20"
    for seed, error in ((0, 19.9), (1, 20.1)):
        write_record(tmp_path, dataset="cifar100", method="fge", budget=2.0, seed=seed, error=error)
    (compared,) = summarise(row_of(tmp_path).cells).to_dict("records")
    assert compared["difference"] == pytest.approx(20.0 - (100 - 76.1))
    assert compared["verdict"] == "no n: no test"
    assert math.isnan(compared["p_value"])


def test_ensembles_have_a_table_of_their_own(tmp_path: Path) -> None:
    for seed, error in ((0, 6.2), (1, 6.4)):
        write_record(tmp_path, method="fge", seed=seed, error=error)
    write_record(tmp_path, method="fge", budget=3.0, error=5.6, **RUNS)
    write_record(tmp_path, method="snapshot", budget=2.0, error=6.0, **RUNS)
    for method in ("swa", "swa_fge", "swa_cyclic", "sgd_bn"):
        write_record(tmp_path, method=method, error=6.1)
    write_record(tmp_path, model="vgg19", error=6.1)  # no ensemble, so no row beside them
    made = made_tables(tmp_path)
    assert list(made) == ["cifar10", "cifar10-ensembles"]
    single = ["SGD", "SWA 1", "SWA 1.25", "SWA 1.5", "SWA cyclic", "SWA of FGE"]
    assert made["cifar10"].header[2:] == [*single, "SGD, BN recomputed"]
    table = made["cifar10-ensembles"]
    independent = ["Independent 1", "Independent 2", "Independent 3", "Snapshot 2"]
    fge = ["FGE 1", "FGE 2", "FGE 3", "SWA of FGE 1"]
    assert table.header[2:] == [*independent, *fge, "SWA 1", "SGD 1"]
    assert [line[:2] for line in table.rows if line[0]] == [
        ["VGG16", "ours"],
        ["WRN-28-10", "ours"],
    ]
    fge_1 = [cell(table, line, "FGE 1") for line in range(4)]
    assert fge_1 == ["6.30 ± 0.14 (n=2)", "6.36 ± 0.03 (draft)", "−0.06", "no n: no test"]
    assert [cell(table, line, "FGE 3") for line in (0, 1, 2)] == [
        "5.60 (n=1)",
        "5.67 (draft)",
        "−0.07",
    ]
    assert [cell(table, line, "Snapshot 2") for line in range(4)] == ["6.00 (n=1)", "-", "-", "-"]
    assert [cell(table, line, "SWA 1") for line in (0, 3)] == ["6.10 (n=1)", "one seed: no test"]
    assert [cell(table, line, "Independent 2") for line in (0, 2)] == ["no runs", "-"]
    assert "(draft): in an HTML comment" in table.markdown()
    assert set(table.frame["method"]) == {"fge", "snapshot", "swa", "swa_fge"}


def test_published_ensembles_of_another_length_are_named(tmp_path: Path) -> None:
    write_record(tmp_path, dataset="cifar100", model="preresnet164", method="fge", error=20.0)
    table = made_tables(tmp_path)["cifar100-ensembles"]
    assert "200 epochs for every net; ours of PreResNet164 is 150" in table.markdown()
    assert "(draft)" not in table.text()
    assert [line[0] for line in table.rows if line[0]] == ["VGG16", "PreResNet164", "WRN-28-10"]


def test_only_tables_with_runs_follow_a_run(tmp_path: Path) -> None:
    def names() -> list[str]:
        found = tables.tables_of_runs(read_records([tmp_path]), ["vgg16"])
        return [table.name for table in found]

    own = {"config": {"method": {"result": "ensemble"}}}  # a user's own ensemble
    write_record(tmp_path, method="mine", error=6.0, **own)
    assert names() == ["cifar10-ensembles"]
    assert cell(made_tables(tmp_path)["cifar10-ensembles"], 0, "mine 1") == "6.00 (n=1)"
    write_record(tmp_path, error=6.0)
    assert names() == ["cifar10", "cifar10-ensembles"]


def test_a_demonstration_has_no_published_lines(tmp_path: Path) -> None:
    write_record(tmp_path, dataset="cifar10_mini", method="snapshot", error=50.0)
    made = made_tables(tmp_path)
    assert list(made) == ["cifar10_mini-ensembles"]  # no single network has run
    table = made["cifar10_mini-ensembles"]
    assert (table.header[2:], len(table.rows)) == (["Snapshot 1"], 1)
    assert "NOT comparable" in table.title and "Published" not in table.text()


def test_calibration_over_the_seeds_that_have_it(tmp_path: Path) -> None:
    for seed, nll, ece in ((0, 0.20, 2.0), (1, 0.24, 3.0)):
        write_record(tmp_path, seed=seed, result={"test_loss": nll, "test_ece_pct": ece})
    write_record(tmp_path, seed=2, error=9.0, result={"test_loss": 0.9})  # an older record
    write_record(tmp_path, method="fge", budget=2.0, error=6.0, result={"test_loss": 0.2})
    result = {"test_loss": 0.19, "test_ece_pct": 1.5}
    write_record(tmp_path, method="fge", budget=3.0, error=5.5, result=result, **RUNS)
    table = made_tables(tmp_path)["cifar10-calibration"]
    assert table.rows == [
        ["VGG16", "SGD 1", "6.75 ± 0.00", "0.2200 ± 0.0283", "2.50 ± 0.71", "2"],
        ["", "FGE 3", "5.50", "0.1900", "1.50", "1"],
    ]
    assert "natural logarithm" in table.markdown() and "15 bins" in table.markdown()


def test_models_count_where_they_were_tested_first(tmp_path: Path) -> None:
    swa = {"method": "swa", "recipe_hash": "5" * 12}
    tested = [(0, None, None), (1, 20.0, 24.0), (2, None, None), (2, 16.0, None), (2, 15.0, 14.0)]
    write_collected(tmp_path, [*tested, (4, 9.0, 9.0)], seed=0, **swa)
    write_collected(tmp_path, [(1, 22.0, None), (3, 10.0, None)], seed=1, **swa)
    write_collected(tmp_path, [(0, None, None)], recipe_hash="6" * 12)  # SGD collects none
    table = made_tables(tmp_path)["cifar10_mini-collected"]
    assert table.header == ["", "", "k=1", "k=2", "k=3"]
    assert table.rows == [
        ["VGG16", "SWA, average", "21.00 ± 1.41 (n=2)", "16.00 (n=1)", "10.00 (n=1)"],
        ["", "SWA, ensemble", "24.00 (n=1)", "14.00 (n=1)", "-"],
    ]


def test_epochs_of_before_ensembles_are_read(tmp_path: Path) -> None:
    tested = [(1, 20.0, 24.0), (2, 18.0, 18.0)]
    path = write_collected(tmp_path, tested, method="swa").parent / "epochs.csv"
    old = [name for name in EPOCH_COLUMNS if not name.startswith("ensemble")]
    assert len(old) == 10
    pd.read_csv(path)[old].to_csv(path, index=False)
    epochs = pd.DataFrame(read_epochs(path), dtype=float)
    assert list(epochs) == EPOCH_COLUMNS
    assert list(epochs["swa_test_error_pct"]) == [20.0, 18.0]
    assert epochs["ensemble_test_error_pct"].isna().all()
    assert [line[1] for line in made_tables(tmp_path)["cifar10_mini-collected"].rows] == [
        "SWA, average"
    ]


def test_records_of_several_runs_have_no_epochs(tmp_path: Path) -> None:
    """Beside the cell of one run, in the same folder, lies that of two: with an epochs.csv."""
    timing = {"timing": {"seconds": 3600.0, "images_per_s": 100.0}, "epochs": 2}
    fge = {"dataset": "cifar10_mini", "method": "fge"}
    write_collected(tmp_path, [(1, 20.0, 24.0), (2, 18.0, 18.0)], **timing, **fge)
    write_record(tmp_path, budget=2.0, **timing, **fge, **RUNS)
    row = row_of(tmp_path)
    assert len(row.cells) == 2
    of = costs([row]).iloc[0]
    assert list(of[["runs", "epochs_by_cell", "epochs_by_run", "epochs", "hours"]]) == [
        1,
        2,
        2,
        2,
        1,
    ]
    only = dataclasses.replace(row, cells=row.cells[~row.cells["trained"]])
    assert costs([only])["runs"].item() == 0
    assert len(collected_frame(row.epochs)) == 2
    assert list(lines_of(figures.draw_collected, row)) == ["FGE, ensemble, n=1"]


def test_what_the_last_weights_of_a_run_collected_is_shown_with_its_average(tmp_path: Path) -> None:
    for method, result in (("swa_fixed_rate", "swa"), ("sgd_fixed_rate", "last")):
        config = {"method": {"name": method, "result": result}}
        fixed = {"dataset": "cifar10_mini", "method": method, "config": config, "epochs": 2}
        write_collected(tmp_path, [(1, 20.0, 24.0), (2, 18.0, 18.0)], **fixed)
    expected = ["Fixed-rate SWA, average, n=1", "Fixed-rate SWA, ensemble, n=1"]
    assert list(lines_of(figures.draw_collected, row_of(tmp_path))) == expected


def test_gains_of_ensembles_are_over_one_budget(tmp_path: Path) -> None:
    for seed, error in ((0, 6.8), (2, 6.6)):
        write_record(tmp_path, seed=seed, error=error)
    write_record(tmp_path, budget=2.0, error=6.0)
    for first, error in ((0, 6.0), (2, 5.9), (4, 1.0)):  # seed 4 of SGD was not run
        write_record(tmp_path, method="fge", budget=2.0, seed=first, error=error, **RUNS)
    write_record(tmp_path, method="swa", budget=2.0, error=5.8)
    found = {
        (gain.method, gain.budget, gain.baseline_budget): gain for gain in gains(row_of(tmp_path))
    }
    ensembles = [key for key in found if key[0] == "fge"]
    assert ensembles == [("fge", 2.0, 1.0)]
    gain = found["fge", 2.0, 1.0]
    assert gain.theirs is None  # of another source, with another SGD
    assert gain.ours is not None
    assert (gain.ours.mean, gain.ours.n) == (pytest.approx((0.8 + 0.7) / 2), 2)
    longer = found["swa", 2.0, 2.0].ours
    assert longer is not None and longer.mean == pytest.approx(0.2)


def test_figures_show_what_a_method_results_in(tmp_path: Path) -> None:
    both = [(1, 20.0, 24.0), (2, 16.0, 14.0)]
    for seed, more in ((0, 0.0), (1, 2.0)):
        tested = [(n, average + more, ensemble + more) for n, average, ensemble in both]
        for method in ("swa", "fge"):
            write_collected(tmp_path, tested, method=method, seed=seed, recipe_hash=method)
    write_collected(tmp_path, [(0, None, None)], error=30.0, recipe_hash="sgd")
    row = row_of(tmp_path)
    curves = lines_of(figures.draw_learning_curves, row)
    assert lines_of(figures.draw_collected, row) == {
        "SGD 1, n=1": [30.0, 30.0],
        "SWA, average, n=2": [21.0, 17.0],
        "SWA, ensemble, n=2": [25.0, 15.0],
        "FGE, ensemble, n=2": [25.0, 15.0],
    }
    assert curves["SWA 1, n=2"] == [21.0, 17.0]
    assert curves["FGE 1, n=2"] == [25.0, 15.0]
    assert curves["FGE 1, last weights"] == [50.0, 50.0]
    written = figures.write_figures(read_records([tmp_path]), tmp_path / "out")
    names = [path.name for path in written]
    assert names == [f"cifar10_mini-vgg16-{kind}.png" for kind in ("learning-curves", "collected")]


def test_a_predictor_of_the_methods_own_is_shown(tmp_path: Path) -> None:
    """Without any code that names it; beside a run that has none."""
    config = {"config": {"method": {"result": "ema"}}}
    tested = [(0, None, 30.0), (1, 20.0, 24.0), (2, 16.0, 14.0)]
    write_collected(tmp_path, tested, ["ema"], method="mine", recipe_hash="5" * 12, **config)
    write_collected(tmp_path, [(1, 20.0, None), (2, 18.0, None)], method="swa")
    row = row_of(tmp_path)
    curves = lines_of(figures.draw_learning_curves, row)
    assert curves["mine 1, n=1"] == [30.0, 24.0, 14.0]
    assert curves["mine 1, last weights"] == [50.0, 50.0, 50.0]
    assert lines_of(figures.draw_collected, row)["mine, EMA, n=1"] == [24.0, 14.0]
    table = made_tables(tmp_path)["cifar10_mini-collected"]
    assert [line[1] for line in table.rows] == [
        "SWA, average",
        "mine, average",
        "mine, ensemble",
        "mine, EMA",
    ]
    assert table.rows[3][2:] == ["24.00 (n=1)", "14.00 (n=1)"]


def test_methods_of_one_row_have_colours_of_their_own() -> None:
    def row(methods: list[str]) -> Row:
        return Row("", "", "", "", pd.DataFrame({"method": methods}))

    shipped = row("sgd swa swa_cyclic fge swa_fge snapshot sgd_bn independent".split())
    methods = shipped.cells["method"]
    assert len({figures.color_and_marker(method, shipped) for method in methods}) == 8
    own = row(["sgd", "fge", "mine"])
    assert figures.color_and_marker("sgd", own) == figures.color_and_marker("sgd", shipped)
    assert len({figures.color_and_marker(method, own) for method in own.cells["method"]}) == 3
