"""What a sweep prints: each failed job as it fails, and the whole table at its end."""

import contextlib
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from swa_bench.errors import SwaBenchError, without_frames
from swa_bench.files import write_atomically
from swa_bench.results.record import read_records

# Where Hydra keeps the options of a sweep, as conf/train.yaml has it.
SCRATCH = "SWA_TRAIN_SCRATCH"


def _return_value(job_return: JobReturn) -> Any:
    """What Hydra's property gives, without its "Error executing job": the job's own line is out."""
    if job_return.status is JobStatus.FAILED:
        raise job_return._return_value
    return job_return._return_value


_set = vars(JobReturn)["return_value"].fset
JobReturn.return_value = property(_return_value, _set)  # type: ignore[method-assign, assignment]
# The sweep of this process, which main reports on after Hydra is done.
_sweeps: list["SweepReport"] = []


class SweepReport(Callback):
    """Prints each failed job of a sweep as it fails, and the whole table at the sweep's end.

    Where a launcher does jobs in other processes, on other machines even, each has a copy of this.
    What fails there comes back as a note below results_dir, which all of them see.
    """

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.failures = 0
        self.folder = self.results = Path()
        self.notes: Path | None = None
        self.scratch: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before the first job."""
        self.config = config
        self.folder = Path.cwd()
        self.results = self.folder / os.path.expanduser(config.results_dir)  # noqa: PTH111
        self.notes = self.results / f".failed-{uuid.uuid4().hex}"
        _sweeps.append(self)
        # Nobody else can have put a link there, and it is deleted at the end.
        self.scratch = Path(tempfile.mkdtemp(prefix="swa-train-"))
        os.environ[SCRATCH] = str(self.scratch)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before every job; a process of a launcher may have started in another folder."""
        if self.config is not None and self not in _sweeps:
            os.chdir(self.folder)
            if self.scratch is not None:  # Hydra has made it anew, on another machine
                with contextlib.suppress(OSError):  # on this one it is not empty
                    self.scratch.rmdir()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Called after every job; says why it failed, since Hydra names only the first."""
        if self.notes is None or job_return.status is not JobStatus.FAILED:
            return
        error = job_return._return_value
        job = " ".join(job_return.overrides or [])
        line = f"swa-train: FAILED {job}: {error or type(error).__name__}"
        if self in _sweeps:
            self.failures += 1
        else:
            write_atomically(self.notes / f"{config.hydra.job.num}.txt", line.encode())
            # Not every exception can travel, and none takes its traceback along.
            failure = SwaBenchError(line)
            failure.exit_code = getattr(error, "exit_code", 1)
            job_return.return_value = failure
        print(line, file=sys.stderr)

    def collect_notes(self) -> None:
        """Print and count what failed in other processes."""
        if self.notes is None:
            return
        for path in sorted(self.notes.glob("*.txt"), key=lambda path: int(path.stem)):
            self.failures += 1
            print(path.read_text(encoding="utf-8"), file=sys.stderr)
        shutil.rmtree(self.notes, ignore_errors=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called after the last job, if none failed."""
        self.report()

    def report(self) -> None:
        """Print the table of each data set that has records."""
        if self.config is None or self.config.dry_run:
            return
        try:
            print_tables(self.results)
        except Exception as error:  # nothing that was trained is lost
            print(f"swa-train: no table: {without_frames(error)}", file=sys.stderr)
        if self.failures:
            print(f"swa-train: {self.failures} jobs failed, see above", file=sys.stderr)


def print_tables(folder: Path, models: Sequence[str] = ()) -> None:
    """Print the tables of the records below a folder.

    Args:
        models: the rows; by default the paper's and all that have runs.
    """
    from swa_bench.reporting import tables  # takes a second to import

    for table in tables.tables_of_runs(read_records([folder]), models):
        print(table.text())


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
        if scratch := _sweeps.pop().scratch:
            shutil.rmtree(scratch, ignore_errors=True)
    os.environ.pop(SCRATCH, None)
