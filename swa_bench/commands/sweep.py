"""What a sweep prints: each failed job as it fails, and its own tables at its end."""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override

from swa_bench.config.identity import recipe_hash
from swa_bench.config.plan import Plan
from swa_bench.config.schema import TrainConfig
from swa_bench.errors import DeviceLostError, SwaBenchError, Terminated, without_frames
from swa_bench.files import write_atomically
from swa_bench.labels import counted
from swa_bench.results.machine import SIDE_BY_SIDE
from swa_bench.results.record import read_records

if TYPE_CHECKING:
    from swa_bench.reporting.layout import Table

# Where Hydra keeps the options of a sweep, as conf/train.yaml has it.
SCRATCH = "SWA_TRAIN_SCRATCH"
GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # jobs in this process


def _return_value(job_return: JobReturn) -> Any:
    """What Hydra's property gives, without its "Error executing job": the job's own line is out."""
    if job_return.status is JobStatus.FAILED:
        raise job_return._return_value
    return job_return._return_value


_set = vars(JobReturn)["return_value"].fset
JobReturn.return_value = property(_return_value, _set)  # type: ignore[method-assign, assignment]
# The sweep of this process, which main reports on after Hydra is done.
_sweeps: list["SweepReport"] = []
# What the job that is running here reports, as (dataset, model, method, recipe_hash, budget).
_cells: list[list[Any]] = []
plans: list[Plan] = []  # and, if nothing is trained, what there is to train
seeds: set[int] = set()  # of the jobs that follow one another in this process


class SweepReport(Callback):
    """Prints each failed job of a sweep as it fails, and the sweep's own tables at its end.

    Where a launcher does jobs in other processes, on other machines even, each has a copy of this.
    What they did comes back in notes below results_dir, which all of them see.
    """

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.jobs: list[dict[str, Any]] = []
        self.plans: list[list[Plan]] = []
        self.failures = 0
        self.folder = self.results = Path()
        self.notes: Path | None = None
        self.scratch: Path | None = None
        self.side_by_side = False
        self.wants_threads = "OMP_NUM_THREADS" in os.environ  # of workers, it is joblib's wish

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before the first job."""
        self.config = config
        self.folder = Path.cwd()
        self.results = self.folder / os.path.expanduser(config.results_dir)  # noqa: PTH111
        self.notes = self.results / f".sweep-{uuid.uuid4().hex}"
        _sweeps.append(self)
        # Nobody else can have put a link there, and it is deleted at the end.
        self.scratch = Path(tempfile.mkdtemp(prefix="swa-train-"))
        os.environ[SCRATCH] = str(self.scratch)
        self.side_by_side = OmegaConf.select(config, "hydra.launcher._target_") not in (None, HERE)
        if config.dry_run:  # no cluster is asked to plan
            with flag_override(config, ["readonly", "struct"], [False, False]):
                config.hydra.launcher = {"_target_": HERE}
        elif _has_workers(config):
            signal.signal(signal.SIGTERM, _end)  # by default it would leave the workers behind
        seeds.update(_swept_seeds(config))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before every job; a process of a launcher may have started in another folder."""
        _cells.clear()
        plans.clear()
        if self.config is not None and self not in _sweeps:
            os.chdir(self.folder)
            if _has_workers(config):
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep's process ends its workers
                os.environ["TTY_INTERACTIVE"] = "0"  # several bars on one terminal would fight
                if not self.wants_threads:
                    os.environ[SIDE_BY_SIDE] = "1"
            if self.scratch is not None:  # Hydra has made it anew, on another machine
                with contextlib.suppress(OSError):  # on this one it is not empty
                    self.scratch.rmdir()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Called after every job; notes it, and says why it failed: Hydra names only the first."""
        if self.notes is None:
            return
        overrides = list(map(str, job_return.overrides or []))
        note = {"overrides": overrides, "cells": [*_cells], "failed": ""}
        error = job_return._return_value
        if job_return.status is JobStatus.FAILED:
            what = f"{' '.join(overrides)}: {error or type(error).__name__}"
            note["failed"] = f"swa-train: FAILED {what}"
        if self in _sweeps:
            self._take(note)
            self.plans.append([*plans])
            if getattr(error, "exit_code", None) == DeviceLostError.exit_code:
                self.report()
                print("swa-train: the sweep ends here, without the jobs after it", file=sys.stderr)
                sys.exit(DeviceLostError.exit_code)  # Hydra would go on after an Exception
            return
        write_atomically(self.notes / f"{config.hydra.job.num}.json", json.dumps(note).encode())
        if note["failed"]:
            # Not every exception can travel, and none takes its traceback along.
            failure = SwaBenchError(note["failed"])
            failure.exit_code = getattr(error, "exit_code", 1)
            job_return.return_value = failure
            print(note["failed"], file=sys.stderr)

    def _take(self, note: dict[str, Any], said: bool = False) -> None:
        self.jobs.append(note)
        if note["failed"]:
            self.failures += 1
            if not said:
                print(note["failed"], file=sys.stderr)

    def collect_notes(self) -> None:
        """Take what jobs in other processes noted."""
        if self.notes is None:
            return
        said = self.config is not None and _has_workers(self.config)  # on the same terminal
        for path in sorted(self.notes.glob("*.json"), key=lambda path: int(path.stem)):
            self._take(json.loads(path.read_bytes()), said)
        shutil.rmtree(self.notes, ignore_errors=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called after the last job, if none failed."""
        self.collect_notes()
        self.report()

    def report(self) -> None:
        """Print the tables of what the jobs did, or what they would do."""
        if self.config is None:
            return
        try:
            self._print_end(self.config.dry_run)
        except Exception as error:  # nothing that was trained is lost
            print(f"swa-train: no table: {without_frames(error)}", file=sys.stderr)
        if self.failures:
            print(f"swa-train: {counted(self.failures, 'job')} failed, see above", file=sys.stderr)

    def _print_end(self, dry_run: bool | str) -> None:
        from swa_bench.reporting.sweep_table import Cell, Job, tables_of_jobs  # takes a second

        jobs = [Job(one["overrides"], [Cell(*cell) for cell in one["cells"]]) for one in self.jobs]
        if not dry_run:
            _print_tables(tables_of_jobs(read_records([self.results]), jobs), self.results)
        elif dry_run != "csv":
            from swa_bench.commands.dry_run import sweep_summary

            print(sweep_summary(jobs, self.plans))
            if self.side_by_side:
                print("That is one job after the other; its launcher runs several side by side.")


def _has_workers(config: DictConfig) -> bool:
    """Whether the jobs of a sweep are done by processes that this one has started, by joblib."""
    return "joblib" in OmegaConf.select(config, "hydra.launcher._target_", default="")


def _end(number: int, frame: object) -> None:
    raise Terminated(number)


def _swept_seeds(config: DictConfig) -> set[int]:
    """The seeds of a sweep; none if a launcher does its jobs elsewhere, or side by side."""
    settings = config.hydra
    targets = (OmegaConf.select(settings, f"{part}._target_") for part in ("launcher", "sweeper"))
    if tuple(targets) != (HERE, GRID):
        return set()
    words = [f"{name}={values}" for name, values in (settings.sweeper.params or {}).items()]
    words += settings.overrides.task
    for override in reversed(OverridesParser.create().parse_overrides(words)):
        if override.key_or_group == "seed":  # the last one holds
            values = override.sweep_string_iterator() if override.is_sweep_override() else ()
            with contextlib.suppress(ValueError):  # its job says what is wrong
                return set(map(int, values))
    return set()


def note_runs(reports: Sequence[TrainConfig]) -> None:
    """Note what the job that is running reports, for the end of its sweep."""
    _cells[:] = map(_cell, reports)


def print_rows(results: Path, reports: Sequence[TrainConfig]) -> None:
    """Print the rows of the tables to which some reports belong."""
    from swa_bench.reporting.sweep_table import Cell, tables_of_rows  # takes a second to import

    folders = {results / report.dataset.name / report.model.name for report in reports}
    cells = [Cell(*_cell(report)) for report in reports]
    _print_tables(tables_of_rows(read_records(sorted(folders)), cells), results)


def _cell(report: TrainConfig) -> list[Any]:
    names = [report.dataset.name, report.model.name, report.method.name]
    return [*names, recipe_hash(report), report.budget]


def _print_tables(tables: Sequence["Table"], results: Path) -> None:
    for table in tables:
        print(table.text())
    if not tables:
        return
    where = "" if results.absolute() == Path("results/runs").absolute() else f" --records {results}"
    print(f"swa-tables{where} makes the tables of all runs.")


def report_failed() -> bool:
    """Print the table of a sweep in which a job failed, and say whether there was one."""
    for sweep in _sweeps:
        sweep.collect_notes()
        if sweep.failures:
            sweep.report()
            return True
    return False


def end() -> None:
    """Delete what the sweeps of this process needed while they ran."""
    while _sweeps:
        ended = _sweeps.pop()
        for folder in filter(None, (ended.scratch, ended.notes)):
            shutil.rmtree(folder, ignore_errors=True)
    if signal.getsignal(signal.SIGTERM) is _end:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.pop(SCRATCH, None)
    seeds.clear()
