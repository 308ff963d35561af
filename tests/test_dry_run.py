"""dry_run: what there is to do, what is there already, and for how long."""

import csv
import io
from pathlib import Path

import pytest
from training_helpers import TINY, SwaTrain

from swa_bench.training import timing

BOTH = [*TINY[:-1], "also_train=[sgd]"]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A device that takes 10 ms an image; what was timed."""
    found: list[object] = []

    def time_steps(config: object) -> float:
        found.append(config)
        return 0.01

    monkeypatch.setattr(timing, "_time_steps", time_steps)
    monkeypatch.setattr(timing, "_known", {})
    return found


def test_the_curve_is_csv_and_the_summary_on_stderr(
    swa_train: SwaTrain, tmp_path: Path, timed: list[object]
) -> None:
    outcome = swa_train("model=vgg16", "dry_run=csv")
    assert outcome.code == 0
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert list(rows[0]) == ["epoch", "learning_rate", "collects", "reports_budget"]
    assert [int(row["epoch"]) for row in rows] == list(range(1, 301))
    assert float(rows[80]["learning_rate"]) == 0.05
    assert float(rows[81]["learning_rate"]) == pytest.approx(
        0.05 * (1 - 0.8 * (81 / 161 - 0.5) / 0.4)
    )
    assert float(rows[299]["learning_rate"]) == pytest.approx(0.01)
    assert next(row["epoch"] for row in rows if row["collects"] == "1") == "161"
    reported = {row["epoch"]: row["reports_budget"] for row in rows if row["reports_budget"]}
    assert reported == {"200": "1", "250": "1.25", "300": "1.5"}
    assert "vgg16 (15,245,130 parameters) on cifar10, swa, seed 0: 300 epochs" in outcome.err
    assert "reported budgets: 1 (epoch 200), 1.25 (epoch 250), 1.5 (epoch 300)" in outcome.err
    assert "117,300 steps" in outcome.err
    # 50,000 images an epoch; 300 tests of 10,000 and 28 averages, which also pass the training
    # images (epochs 165, 170, ... 300), at a third: 300 * 533.3 s + 28 * 200 s.
    assert "to train: 300 epochs, about 1 d 22 h (by timing a few steps)" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_methods_of_one_job_share_and_what_is_there_is_said(
    swa_train: SwaTrain, tmp_path: Path, timed: list[object]
) -> None:
    """SWA of 1.5 budgets is 6 epochs, SGD of one 4, and the first two are common."""
    fresh = swa_train(*BOTH, "dry_run=true").out
    assert "to train: 6 epochs, about " in fresh
    assert "shared with the runs above: epochs 1 to 2\nto train: epochs 3 to 4 of 4" in fresh
    assert "2 runs to train, 8 epochs, about " in fresh
    assert fresh.rstrip().endswith("Sharing saves 2 of 10 epochs.")
    assert list(tmp_path.iterdir()) == [] and len(timed) == 1

    assert swa_train(*BOTH[:-1]).code == 0  # SWA alone
    timing._known.clear()
    after = swa_train(*BOTH, "dry_run=true").out
    assert "finished: nothing to train" in after
    assert "on disk: epochs 1 to 2, shared with swa\nto train: epochs 3 to 4 of 4" in after
    assert "(by 1 run on this device)" in after and len(timed) == 1
    assert swa_train(*TINY, "budget=2", "dry_run=true").out.count("on disk: epochs 1 to 6\n") == 1


def test_a_sweep_is_a_line_a_job_and_a_total(
    swa_train: SwaTrain, tmp_path: Path, timed: list[object]
) -> None:
    """Networks that differ in their learning rate alone are timed once."""
    sweep = ["model.learning_rate=0.1,0.05", "seed=0,1", "hydra/launcher=basic"]
    outcome = swa_train("-m", *BOTH, *sweep, "dry_run=true")
    assert outcome.code == 0, outcome.err
    lines = [line.split()[:5] for line in outcome.out.splitlines()]
    jobs = [["0.1", "0"], ["0.1", "1"], ["0.05", "0"], ["0.05", "1"]]
    assert lines[3:7] == [[*one, "0", "2", "8"] for one in jobs]
    assert "8 runs to train, 32 epochs, about " in outcome.out
    assert "Sharing saves 8 of 40 epochs." in outcome.out
    assert len(timed) == 1 and list(tmp_path.iterdir()) == []


def test_a_speed_is_of_runs_that_train_alike(
    swa_train: SwaTrain, timed: list[object], undisturbed: Path
) -> None:
    here = [*TINY, f"results_dir={undisturbed / 'runs'}", "dry_run=true", "seed=7"]
    assert "(by 1 run on this device)" in swa_train(*here).out
    assert "(by timing a few steps)" in swa_train(*here, "batch_size=64").out


def test_what_is_neither_true_false_nor_csv(swa_train: SwaTrain) -> None:
    outcome = swa_train("dry_run=maybe")
    assert outcome.code == 2
    assert outcome.err == "swa-train: dry_run=maybe: must be false, true or 'csv'\n"
