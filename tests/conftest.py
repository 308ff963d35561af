"""Shared by all tests: no GPU unless asked for, and swa-train in this process or its own."""

import os

# Before torch is imported: tests run side by side, and their threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launcher_helpers import Engine
from training_helpers import TESTS, TINY, Outcome, SwaTrain

from swa_bench import train
from swa_bench.commands import sweep

if os.environ.get("TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is tested is the same on every machine
# Processes that tests start find the tiny network too.
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])

# What nohup or a background job of a shell ignores would be ignored in what is tested too.
for usual, number in ((signal.default_int_handler, signal.SIGINT), (signal.SIG_DFL, signal.SIGHUP)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

train.register()


@pytest.fixture
def swa_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> SwaTrain:
    """Run swa-train's main in this process, in an empty folder, on the CPU."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["swa-train", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")
        monkeypatch.setattr(sweep, "_sweeps", [])
        monkeypatch.setattr(train, "_failed", [])
        code: object = 0
        try:
            train.main()
        except SystemExit as stop:
            code = stop.code
        printed = capfd.readouterr()
        return Outcome(code if isinstance(code, int) else 1, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one SWA run of 1.5 budgets by the console script, beside what it printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [Path(sys.executable).parent / "swa-train", *TINY, "budget=1.5"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    return folder / "results"


@pytest.fixture(scope="session")
def two_seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of seeds 0 and 1, by Hydra's basic launcher."""
    folder = tmp_path_factory.mktemp("two_seeds")
    code, _, err = Engine(folder).train("seed=0,1")
    assert code == 0, err
    return folder / "results"
