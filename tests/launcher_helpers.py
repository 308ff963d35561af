"""Helpers of the tests of Hydra's launchers: a working folder with a schedule that disturbs jobs.

All jobs are on the CPU, with one thread each, so that a record is the same wherever it was made.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from training_helpers import TINY

# A user's own schedule, in the working folder. Files there say what else is to happen when epoch 4
# begins; whatever does happens once, and the state after epoch 3 is stored by then.
SCHEDULE = """
import os, signal, time
from pathlib import Path

from swa_bench.results import locks
from swa_bench.training import job

train_epoch = job._train_epoch

def disturbed(runs, steps, progress):
    if runs[0].state.epoch == 3 and not runs[0].config.schedule["explodes"]:
        if Path("crash").exists():
            Path("crash").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if "SLURM_JOB_ID" in os.environ and "SLURM_RESTART_COUNT" not in os.environ:
            array = [os.environ.get(f"SLURM_ARRAY_{part}_ID", "") for part in ("JOB", "TASK")]
            Path("waiting-" + "_".join(array)).touch()
            for _ in range(6000):
                time.sleep(0.1)
                locks.end_if_asked()
    return train_epoch(runs, steps, progress)

job._train_epoch = disturbed

def rate(epoch, step, steps_per_epoch, *, first, explodes):
    me = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    Path(f"gpu-{me}-{os.getpid()}").touch()
    if Path("together").exists():  # until as many processes are here as its content says
        while len(list(Path().glob("gpu-*"))) < int(Path("together").read_text()):
            time.sleep(0.05)
    return 1e20 if explodes and epoch >= 1 else first
"""

OWN = [*TINY, "budget=1.5", "device=cpu", "schedule=constant", "~schedule.learning_rate"]
OWN += ["schedule._target_=own_rates.rate", "+schedule.first=0.1", "+schedule.explodes=false"]


class Engine:
    """A working folder, and swa-train in it with the environment that an engine needs."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        (folder / "own_rates.py").write_text(SCHEDULE)
        kept = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        self.environment = kept | {"OMP_NUM_THREADS": "1"} | environment

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        program = [str(Path(sys.executable).parent / "swa-train"), "-m", *OWN, *arguments]
        return subprocess.Popen(
            program,
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        return finish(process)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it hangs:\n{out}\n{err}") from None
    return process.returncode, out, err


def wait_until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
