"""Tables, gains, cost and figures of ensembles, calibration and copies, with numbers by hand."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_tables import write_record

from swa_bench.reporting import figures, tables
from swa_bench.reporting.copies import copies_frame
from swa_bench.reporting.layout import Table
from swa_bench.results import frames as rows
from swa_bench.results import statistics as summary
from swa_bench.results.cost import cost
from swa_bench.results.gains import gains
from swa_bench.results.record import EPOCH_COLUMNS, read_cells, write_epochs

RUNS = {"runs": ["some", "other"]}


def made_tables(folder: Path) -> dict[str, Table]:
    return {table.name: table for table in tables.make_tables(read_cells([folder]))}


def cell(table: Table, line: int, column: str) -> str:
    return table.rows[line][table.header.index(column)]


def write_copies(folder: Path, tested: list[tuple[int, Any, Any]], **changes: Any) -> Path:
    """A run of cifar10_mini whose epochs end with so many copies: (n, average's, ensemble's)."""
    path = write_record(folder, **({"dataset": "cifar10_mini"} | changes))
    epochs = [
        {"epoch": epoch, "learning_rate": 0.1, "test_error_pct": 50, "n_averaged": n, "seconds": 1}
        | {"swa_test_error_pct": average, "ensemble_test_error_pct": ensemble}
        for epoch, (n, average, ensemble) in enumerate(tested, start=1)
    ]
    write_epochs(path.parent, epochs)
    return path


def test_published_ensembles() -> None:
    published = summary.published()
    draft = published["cifar10", "vgg16", "independent", 3.0]
    assert (str(draft), draft.n, draft.draft) == ("5.95 (draft)", None, True)
    assert str(published["cifar100", "preresnet164", "fge", 1.0]) == "19.70 ± 0.20"
    compared = summary.compare(summary.Cell(20.0, 0.1, 3), published["cifar100", "vgg16", "fge", 2])
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
    assert "200 epochs for every net; ours of PreResNet164 is 150" in table.text()
    assert "(draft)" not in table.text()
    assert [line[0] for line in table.rows if line[0]] == ["VGG16", "PreResNet164", "WRN-28-10"]


def test_only_tables_with_runs_follow_a_run(tmp_path: Path) -> None:
    def names() -> list[str]:
        cells = summary.summarise(summary.cells_frame(read_cells([tmp_path])))
        return [table.name for table in tables.tables_of_runs("cifar10", cells, ["vgg16"])]

    own = {"config": {"method": {"combine": "predictions"}}}  # a user's own ensemble
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


def test_copies_count_where_they_were_tested_first(tmp_path: Path) -> None:
    swa = {"method": "swa", "identity": "5" * 12}
    tested = [(0, None, None), (1, 20.0, 24.0), (2, None, None), (2, 16.0, None), (2, 15.0, 14.0)]
    write_copies(tmp_path, [*tested, (4, 9.0, 9.0)], seed=0, **swa)
    write_copies(tmp_path, [(1, 22.0, None), (3, 10.0, None)], seed=1, **swa)
    write_copies(tmp_path, [(0, None, None)], identity="6" * 12)  # SGD collects none
    table = made_tables(tmp_path)["cifar10_mini-copies"]
    assert table.header == ["", "", "k=1", "k=2", "k=3"]
    assert table.rows == [
        ["VGG16", "SWA, average", "21.00 ± 1.41 (n=2)", "16.00 (n=1)", "10.00 (n=1)"],
        ["", "SWA, ensemble", "24.00 (n=1)", "14.00 (n=1)", "-"],
    ]


def test_epochs_of_before_ensembles_are_read(tmp_path: Path) -> None:
    copies = [(1, 20.0, 24.0), (2, 18.0, 18.0)]
    path = write_copies(tmp_path, copies, method="swa").parent / "epochs.csv"
    old = [name for name in EPOCH_COLUMNS if not name.startswith("ensemble")]
    assert len(old) == 10
    pd.read_csv(path)[old].to_csv(path, index=False)
    epochs = rows.read_epochs(path)
    assert list(epochs) == EPOCH_COLUMNS
    assert list(epochs["swa_test_error_pct"]) == [20.0, 18.0]
    assert epochs["ensemble_test_error_pct"].isna().all()
    assert [line[1] for line in made_tables(tmp_path)["cifar10_mini-copies"].rows] == [
        "SWA, average"
    ]


def test_records_of_several_runs_are_no_walk(tmp_path: Path) -> None:
    """Beside the cell of one run, in the same folder, lies that of two: with an epochs.csv."""
    timing = {"timing": {"seconds": 3600.0, "images_per_s": 100.0}, "epochs": 2}
    fge = {"dataset": "cifar10_mini", "method": "fge"}
    write_copies(tmp_path, [(1, 20.0, 24.0), (2, 18.0, 18.0)], **timing, **fge)
    two = write_record(tmp_path, budget=2.0, **timing, **fge, **RUNS)
    records = read_cells([tmp_path])
    assert len(records) == 2
    of = cost(records, set())
    assert (of.runs, of.epochs_by_cell, of.epochs_by_run, of.epochs, of.hours) == (1, 2, 2, 2, 1.0)
    assert cost([r for r in records if r["path"] == two], set()).runs == 0
    assert len(copies_frame(records)) == 2
    figure = figures.captioned(figures.draw_copies, records)
    assert [line.get_label() for line in figure.axes[0].lines] == ["FGE, ensemble, n=1"]


def test_gains_of_ensembles_are_over_one_budget(tmp_path: Path) -> None:
    for seed, error in ((0, 6.8), (2, 6.6)):
        write_record(tmp_path, seed=seed, error=error)
    write_record(tmp_path, budget=2.0, error=6.0)
    for first, error in ((0, 6.0), (2, 5.9), (4, 1.0)):  # seed 4 of SGD was not run
        write_record(tmp_path, method="fge", budget=2.0, seed=first, error=error, **RUNS)
    write_record(tmp_path, method="swa", budget=2.0, error=5.8)
    found = {
        (gain.method, gain.budget, gain.baseline_budget): gain
        for gain in gains(summary.cells_frame(read_cells([tmp_path])))
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
            write_copies(tmp_path, tested, method=method, seed=seed, identity=method)
    write_copies(tmp_path, [(0, None, None)], error=30.0, identity="sgd")
    records = read_cells([tmp_path])
    copies, curves = (
        {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
        for figure in (
            figures.captioned(draw, records)
            for draw in (figures.draw_copies, figures.draw_learning_curves)
        )
    )
    assert copies == {
        "SGD 1, n=1": [30.0, 30.0],
        "SWA, average, n=2": [21.0, 17.0],
        "SWA, ensemble, n=2": [25.0, 15.0],
        "FGE, ensemble, n=2": [25.0, 15.0],
    }
    assert curves["SWA 1, n=2"] == [21.0, 17.0]
    assert curves["FGE 1, n=2"] == [25.0, 15.0]
    assert curves["FGE 1, last weights"] == [50.0, 50.0]
    written = figures.write_figures(records, tmp_path / "out")
    names = [path.name for path in written]
    assert names == [f"cifar10_mini-vgg16-{kind}.png" for kind in ("learning-curves", "copies")]


def test_methods_of_one_row_have_colours_of_their_own() -> None:
    shipped = "sgd swa swa_cyclic fge swa_fge snapshot sgd_bn independent".split()
    assert len({figures.color_and_marker(method, shipped) for method in shipped}) == 8
    with_own = ["sgd", "fge", "mine"]
    assert figures.color_and_marker("sgd", with_own) == figures.color_and_marker("sgd", shipped)
    assert len({figures.color_and_marker(method, with_own) for method in with_own}) == 3
