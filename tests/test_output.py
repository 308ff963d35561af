"""Streams that fail or lack characters, and failures of any kind: the other runs are done."""

import gc
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from training_helpers import TINY, SwaTrain, records_of

from swa_bench.commands import records, status
from swa_bench.data.batches import EpochDraws
from swa_bench.training import job
from swa_bench.training.run import Run
from swa_bench.training.step import TrainStep

BOTH = [*TINY, "method=swa", "also_train=[sgd]"]


def full_disk() -> IO[str]:
    return Path("/dev/full").open("w")


def closed_pipe() -> IO[str]:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def nowhere() -> None:
    """As for a process that was started without a stdout."""
    return


@pytest.mark.parametrize(
    ("stream", "code", "said"), [(full_disk, 1, True), (closed_pipe, 1, False), (nowhere, 0, False)]
)
def test_training_goes_on_without_stdout(
    swa_train: SwaTrain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stream: Callable[[], Any],
    code: int,
    said: bool,
) -> None:
    monkeypatch.setattr(sys, "stdout", stream())
    outcome = swa_train(*BOTH)
    assert outcome.code == code
    assert len(records_of(tmp_path)) == 2
    line = "Nothing more is printed, stdout failed: No space left on device"
    assert outcome.err.splitlines().count(line) == said
    assert "Traceback" not in outcome.err


def test_training_goes_on_without_stderr(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", full_disk())
    outcome = swa_train(*BOTH)
    assert outcome.code == 1
    assert len(records_of(tmp_path)) == 2
    assert "CIFAR-10 mini" in outcome.out


def test_a_terminal_that_lacks_characters(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
    assert swa_train(*BOTH).code == 0
    assert len(records_of(tmp_path)) == 2
    assert b"mean \\xb1 sample standard deviation" in content.getvalue()


@pytest.mark.parametrize("stream", [full_disk, closed_pipe])
def test_commands_end_without_a_traceback(
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    stream: Callable[[], IO[str]],
) -> None:
    out = ["--out", str(tmp_path)]
    for command, arguments in (
        (records.swa_tables, ["--records", str(undisturbed), *out]),
        (records.swa_figures, ["--records", str(undisturbed), *out]),
        (records.swa_report, ["--records", str(undisturbed), *out]),
        (status.swa_status, ["--results", str(undisturbed)]),
        (status.swa_status, ["--help"]),
    ):
        monkeypatch.setattr(sys, "stdout", stream())
        with pytest.raises(SystemExit) as end:
            command(arguments)
        assert end.value.code == 1
        said = "Nothing more is printed, stdout failed: No space left on device\n"
        assert capfd.readouterr().err == (said if stream is full_disk else "")


def test_a_failure_of_any_kind_ends_no_other_run(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Collecting weights fails: SWA cannot be trained, SGD can."""

    def collect(run: Run) -> None:
        raise TypeError("no such luck")

    monkeypatch.setattr(Run, "_collect", collect)
    outcome = swa_train(*BOTH)
    assert outcome.code == 1
    assert [name[:3] for name in records_of(tmp_path)] == ["sgd"]
    assert outcome.err.count("Traceback") == 1
    assert outcome.err.splitlines()[-1] == "swa-train: TypeError: no such luck"
    (traceback,) = tmp_path.rglob("traceback.txt")
    assert traceback.parent.name.startswith("swa-") and "no such luck" in traceback.read_text()


@pytest.mark.parametrize("within", [False, True])
def test_seeds_that_train_together_fail_alone(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: bool
) -> None:
    """Seed 0 fails after an epoch, or within one that seed 1 has behind it."""
    assert swa_train(*TINY, "method=sgd", "seed=1").code == 0
    collect = Run._collect

    def fail(run: Run) -> None:
        if run.config.seed == 0:
            raise TypeError("no such luck")
        collect(run)

    begin_epoch = TrainStep.begin_epoch

    def begin(
        step: TrainStep, draws: EpochDraws, rates: list[float], seed: int, epoch: int
    ) -> None:
        begin_epoch(step, draws, rates, seed, epoch // (seed + epoch))

    if within:
        monkeypatch.setattr(TrainStep, "begin_epoch", begin)
    else:
        monkeypatch.setattr(Run, "_collect", fail)
    outcome = swa_train(*TINY, "seeds_together=2")
    assert outcome.code == 1
    assert ("ZeroDivisionError" if within else "no such luck") in outcome.err
    assert [name[:9] for name in records_of(tmp_path)] == ["sgd-seed1", "swa-seed1"]


def test_failures_keep_no_network(swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of four jobs that all diverge: each starts with none of those before it alive."""
    alive = []
    train_runs = job.train_runs

    def count(runs: list[Run], *arguments: Any) -> None:
        gc.collect()
        alive.append(sum(type(one) is Run for one in gc.get_objects()) - len(runs))
        train_runs(runs, *arguments)

    monkeypatch.setattr(job, "train_runs", count)
    options = ["method=sgd", "schedule.learning_rate=1e20", "seed=0,1,2,3"]
    outcome = swa_train("-m", *TINY, *options)
    assert outcome.code == 1
    assert "4 jobs failed, see above" in outcome.err
    assert alive == [0, 0, 0, 0]
