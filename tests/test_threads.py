"""The number of threads of a run on a CPU: asked for, that of its state, or measured."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from training_helpers import TINY, SwaTrain, config_of

from swa_bench.training import threads


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of two cores on which nobody has asked for a number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "AT_START", 2)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(threads, "_measured", {})
    yield
    torch.set_num_threads(1)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("cell-*.json"))]


def took(record: dict[str, Any]) -> list[tuple[int, int]]:
    """From which epoch on a run has had how many threads."""
    return [(one["from_epoch"], int(one["device"].split()[-2])) for one in record["segments"]]


def test_a_run_goes_on_with_the_threads_of_its_state(swa_train: SwaTrain) -> None:
    assert swa_train(*TINY, "threads=2", "results_dir=whole", "budget=1.5").code == 0
    assert swa_train(*TINY, "threads=2", "results_dir=two").code == 0
    outcome = swa_train(*TINY, "results_dir=two", "budget=1.5")
    assert "Computing with 2 threads (seed 0): as the epochs before" in outcome.err
    results = [record["result"] for record in records(Path("two"))]
    assert results == [record["result"] for record in records(Path("whole"))]
    assert took(records(Path("two"))[-1]) == [(1, 2)]


def test_seeds_together_have_each_the_threads_of_their_states(
    swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "BETTER", float("inf"))  # seed 1 is new: it takes one
    for seed, count in (0, 2), (1, 1):
        alone = [f"seed={seed}", f"threads={count}", "results_dir=alone", "budget=1.5"]
        assert swa_train(*TINY, *alone).code == 0
    assert swa_train(*TINY, "threads=2", "results_dir=both").code == 0
    assert swa_train(*TINY, "results_dir=both", "seeds_together=2", "budget=1.5").code == 0
    both, alone = records(Path("both")), records(Path("alone"))
    assert [took(one) for one in both] == [took(one) for one in alone]
    assert {took(one)[0] for one in both} == {(1, 1), (1, 2)}
    assert [one["result"] for one in both] == [one["result"] for one in alone]


def test_jobs_side_by_side_take_one_thread_but_those_of_a_state(
    swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """joblib sets OMP_NUM_THREADS for its processes, which is nobody's wish."""
    assert swa_train(*TINY, "threads=2").code == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(threads.SIDE_BY_SIDE, "1")
    assert "2 threads (seed 0): as the epochs" in swa_train(*TINY, "budget=1.5").err
    assert "1 thread (seed 1): other jobs run beside it" in swa_train(*TINY, "seed=1").err


def test_fewer_cores_than_before_are_said(
    swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert swa_train(*TINY, "threads=2").code == 0
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    said = swa_train(*TINY, "budget=1.5").err
    assert "1 thread (seed 0): the epochs before had 2, but there are fewer cores" in said


def test_what_is_asked_for_goes_before_the_threads_of_the_state(
    swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert swa_train(*TINY, "threads=2", "budget=1").code == 0
    assert swa_train(*TINY, "threads=1", "budget=1.25").code == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert swa_train(*TINY, "budget=1.5").code == 0
    by_budget = {record["budget"]: took(record) for record in records(Path("results"))}
    assert by_budget[1.25] == [(1, 2), (5, 1)]
    assert by_budget[1.5] == [(1, 2), (5, 1), (6, 2)]


def test_measuring_leaves_the_bits_of_a_run(
    swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "BETTER", float("inf"))  # however fast the machine is
    dropout = [*TINY, "+model.arguments.dropout=0.5"]
    assert swa_train(*dropout, "threads=1", "results_dir=asked").code == 0
    outcome = swa_train(*dropout, "results_dir=measured")
    assert "Computing with 1 thread (seed 0): 2 are " in outcome.err
    asked, measured = (records(Path(name)) for name in ("asked", "measured"))
    assert [one["result"] for one in asked] == [one["result"] for one in measured]


@pytest.mark.parametrize(
    ("cores", "several_s", "count"), [(1, 0.0, 1), (4, 0.1, 4), (4, 0.18, 1), (16, 0.02, 8)]
)
def test_several_threads_are_taken_where_they_are_much_faster(
    monkeypatch: pytest.MonkeyPatch, cores: int, several_s: float, count: int
) -> None:
    """One takes 0.2 s; of 16 cores that a process may use, torch takes the 8 physical ones."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(threads, "AT_START", 8)
    seconds = {True: 0.2, False: several_s}
    one_thread = lambda _: seconds[torch.get_num_threads() == 1]  # noqa: E731
    monkeypatch.setattr(threads.timing, "epoch_seconds", one_thread)
    assert threads.measure_threads(config_of(*TINY))[0] == count


def test_after_a_step_that_is_far_too_slow_no_more_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = iter([2.0])
    seconds = lambda _: 0.2 if torch.get_num_threads() == 1 else next(slow)  # noqa: E731
    monkeypatch.setattr(threads.timing, "epoch_seconds", seconds)
    count, why = threads.measure_threads(config_of(*TINY))
    assert (count, why) == (1, "2 are slower, as they are beside another busy process")


@pytest.mark.parametrize("value", ["0", "1.5", "many", "true"])
def test_a_number_of_threads_that_is_none(swa_train: SwaTrain, value: str) -> None:
    outcome = swa_train(*TINY, f"threads={value}")
    assert outcome.code == 2
    expected = f"swa-train: threads={value}: must be auto, or an integer of 1 or more\n"
    assert outcome.err == expected
