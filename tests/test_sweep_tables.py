"""The tables at the end of runs and sweeps: their own rows, swept options as columns."""

import pickle
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from record_helpers import write_record
from training_helpers import TINY, SwaTrain

from swa_bench.commands import sweep
from swa_bench.reporting.sweep_table import Cell, Job, swept, tables_of_jobs
from swa_bench.results.record import read_records


def job(rate: str, seed: int, recipe: str, *budgets: float) -> Job:
    cells = [Cell("cifar10", "vgg16", "swa", recipe, budget) for budget in budgets]
    return Job([f"+model.arguments.rate={rate}", f"seed={seed}", "method=swa"], cells)


def test_a_hyper_parameter_sweep_by_hand(tmp_path: Path) -> None:
    """Two rates, two seeds; of the longer budget 10 and 12 against 9 and 10; one failed."""
    for recipe, errors in {"aaaa": (10, 12), "bbbb": (9, 10)}.items():
        for seed, error in enumerate(errors):
            for budget, worse in ((1.0, 5), (1.5, 0)):
                named = {"method": "swa", "seed": seed, "recipe_hash": recipe, "budget": budget}
                write_record(tmp_path, error=error + worse, **named)
    jobs = [job("0.1", seed, "aaaa", 1.0, 1.5) for seed in (0, 1)]
    jobs += [job("0.2", seed, "bbbb", 1.5, 1.0) for seed in (0, 1)]
    jobs += [job("0.3", 0, "cccc", 1.5)]
    assert swept(jobs) == ["model.arguments.rate", "seed"]
    (table,) = tables_of_jobs(read_records([tmp_path]), jobs)
    assert table.title == "CIFAR-10, VGG16, SWA 1.5, the lowest test error first"
    assert table.header == ["model.\narguments.\nrate", "test error in %", "n"]
    assert table.rows == [
        ["0.2", "9.50 ± 0.71", "2"],
        ["0.1", "11.00 ± 1.41", "2"],
        ["0.3", "no runs", "0"],
    ]


def test_a_sweep_over_seeds_prints_its_own_rows_once(swa_train: SwaTrain, tmp_path: Path) -> None:
    other = "model.learning_rate=0.05"
    assert swa_train(*TINY, "method=sgd", other).code == 0
    outcome = swa_train("-m", *TINY, "method=sgd", "seed=0,1")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("│ tiny │ ours │") == 1 and "(n=2)" in outcome.out
    assert other not in outcome.out
    assert outcome.out.splitlines()[-1] == "swa-tables makes the tables of all runs."


def test_a_run_ends_with_its_row_once(swa_train: SwaTrain, tmp_path: Path) -> None:
    assert swa_train(*TINY, "method=sgd", "model.learning_rate=0.05").code == 0
    outcome = swa_train(*TINY, "also_train=[sgd]", "results_dir=results/runs")
    assert outcome.out.count("│ tiny │ ours │") == outcome.out.count("mean ± ") == 1
    assert "learning_rate" not in outcome.out.split("mean ± ")[1].replace("swa_learning_rate", "")


def test_a_sweep_over_an_option_ends_in_its_table(swa_train: SwaTrain, tmp_path: Path) -> None:
    sweep = ["model.learning_rate=0.1,0.05", "also_train=[sgd]", "results_dir=mine"]
    outcome = swa_train("-m", *TINY, *sweep)
    assert outcome.code == 0, outcome.err
    end = outcome.out[outcome.out.index("CIFAR-10 mini, tiny, the lowest") :]
    assert end.count("SWA 1 ") == end.count("SGD 1 ") == 2
    assert end.splitlines()[-1].startswith("swa-tables --records ")
    assert not list((tmp_path / "mine").glob(".sweep-*"))


def test_jobs_in_other_processes_are_told_in_notes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A launcher sends a copy of the callback along; two jobs end, one of them fails."""
    options = {"results_dir": str(tmp_path), "dry_run": False, "hydra": {"job": {"num": 0}}}
    here = sweep.SweepReport()
    here.on_multirun_start(OmegaConf.create(options))
    there = pickle.loads(pickle.dumps(here))
    for number, error in enumerate((7.0, None)):
        config = OmegaConf.create(options | {"hydra": {"job": {"num": number}}})
        job_return = JobReturn(overrides=[f"batch_size={number}"], status=JobStatus.COMPLETED)
        there.on_job_start(config)
        if error is None:
            job_return.status, job_return.return_value = JobStatus.FAILED, ValueError("no luck")
        else:
            write_record(tmp_path, error=error)
            sweep._cells.append(["cifar10", "vgg16", "sgd", "0123456789ab", 1.0])
        there.on_job_end(config, job_return)
    capsys.readouterr()
    here.on_multirun_end(OmegaConf.create(options))
    sweep.end()
    told = capsys.readouterr()
    assert "│ 0            │ 7.00              │ 1   │" in told.out
    lines = told.err.splitlines()
    assert lines[0] == "swa-train: FAILED batch_size=1: no luck"
    assert lines[1] == "swa-train: 1 job failed, see above"
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10"]
