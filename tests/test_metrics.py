"""Metrics of the user's own: numbers of a result's predictions, in records and in a table."""

import json
from pathlib import Path
from typing import Any

import pytest
from record_helpers import write_record
from training_helpers import TINY, SwaTrain

from swa_bench.reporting.tables import write_tables
from swa_bench.results.record import read_records

CODE = """
import torch

def sure(predictions, labels, power=1):
    return (predictions[range(len(labels)), labels].exp() ** power).mean()

def fails_on_many(predictions, labels):
    return 1.0 if len(labels) < 50 else float("nan")

def never(predictions, labels):
    return float("inf")
"""


@pytest.fixture
def sure(tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch) -> str:
    """An option for a metric: the mean probability of the label."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "made_metrics.py").write_text(CODE)
    return "+metrics.sure._target_=made_metrics.sure"


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    """{method and budget: result} of the records below a folder."""
    records = (json.loads(path.read_text()) for path in folder.rglob("cell-*.json"))
    return {f"{one['method']} {one['budget']:g}": one["result"] for one in records}


def test_a_metric_added_to_finished_runs_is_that_of_a_new_run(
    tmp_path: Path, swa_train: SwaTrain, sure: str
) -> None:
    """For an ensemble of whole runs too."""
    command = [*TINY, "method=independent", "budget=2"]
    assert swa_train(*command, sure).code == 0
    measured = results_of(tmp_path)
    assert set(measured) == {"independent 1", "independent 2", "sgd 1"}
    assert all(0 < result["metrics"]["sure"] < 1 for result in measured.values())
    assert swa_train(*command, "results_dir=later").code == 0
    for options in (command, [*TINY, "method=sgd", "seeds_together=2"]):
        outcome = swa_train(*options, "results_dir=later", sure)
        assert "Measured sure for" in outcome.err and "epoch 1" not in outcome.err
        assert ", sure 0." in outcome.out
    found = results_of(tmp_path / "later")
    assert found["independent 2"] == measured["independent 2"]
    assert "Measured" not in swa_train(*command, "results_dir=later", sure).err
    # Of another definition it is measured again.
    outcome = swa_train(*command, "results_dir=later", sure, "+metrics.sure.power=2")
    assert "Measured sure for" in outcome.err
    again = results_of(tmp_path / "later")["independent 2"]["metrics"]["sure"]
    assert 0 < again < measured["independent 2"]["metrics"]["sure"]


def test_metrics_change_no_run(tmp_path: Path, swa_train: SwaTrain, sure: str) -> None:
    assert swa_train(*TINY, sure).code == 0
    assert swa_train(*TINY, "results_dir=without").code == 0
    with_it, without = results_of(tmp_path / "results"), results_of(tmp_path / "without")
    assert without["swa 1"] == with_it["swa 1"] | {"metrics": {}}


UNFIT = {
    "made_metrics.never": "gave inf, which is no finite number",
    "made_metrics.missing": "fails: AttributeError",
    "math.isnan": "fails: TypeError",
}


@pytest.mark.parametrize("target", UNFIT)
def test_an_unfit_metric_is_refused_before_anything_is_trained(
    tmp_path: Path, swa_train: SwaTrain, sure: str, target: str
) -> None:
    outcome = swa_train(*TINY, f"+metrics.mine._target_={target}")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"swa-train: metrics.mine={target}: {UNFIT[target]}")
    assert not (tmp_path / "results").exists()


def test_a_metric_that_fails_later_costs_no_result(
    tmp_path: Path, swa_train: SwaTrain, sure: str
) -> None:
    outcome = swa_train(*TINY, sure, "+metrics.mine._target_=made_metrics.fails_on_many")
    assert outcome.code == 0
    assert "metrics.mine=made_metrics.fails_on_many: gave nan" in outcome.err
    (result,) = results_of(tmp_path).values()
    assert set(result["metrics"]) == {"sure"}


def test_the_calibration_table_has_a_column_for_each_definition(tmp_path: Path) -> None:
    """Seeds 0 and 1 of SGD: of one definition 0.5 and 0.7; SWA has another, or none."""

    def write(value: float | None, power: int, **changes: Any) -> None:
        metrics = {} if value is None else {"sure": value}
        defined = {"metrics": {"sure": {"_target_": "m.sure", "power": power}}}
        result = {"test_loss": 1.0, "test_ece_pct": 2.0, "metrics": metrics}
        write_record(tmp_path, result=result, config=defined, dataset="mine", **changes)

    write(0.5, 1, seed=0)
    write(0.7, 1, seed=1)
    write(0.25, 2, method="swa", seed=0)
    write(None, 2, method="swa", seed=1)
    tables = {table.name: table for table in write_tables(read_records([tmp_path]), tmp_path)}
    table = tables["mine-calibration"]
    assert table.header[-3:] == ["sure 1", "sure 2", "n"]
    assert [row[-3:] for row in table.rows] == [
        ["0.6000 ± 0.1414", "-", "2"],
        ["-", "0.2500 (n=1)", "2"],
    ]
    assert "sure 1: _target_=m.sure power=1" in table.notes
    header = (tmp_path / "mine-calibration.csv").read_text().splitlines()[0].split(",")
    assert header[-6:-3] == [f"metrics.sure 1_{name}" for name in ("mean", "std", "count")]
