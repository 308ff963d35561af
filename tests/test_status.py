"""What swa-status prints of run folders, and that it needs no torch for it."""

import subprocess
import sys
from pathlib import Path

import pytest
from record_helpers import write_record

from swa_bench.commands.status import show, swa_status
from swa_bench.results import locks
from swa_bench.results.epochs import write_epochs
from swa_bench.results.status import read_rows


def make_run(results: Path, name: str, epochs: int, seconds: float = 2.0) -> Path:
    """A run folder of VGG16 on CIFAR-10 with epochs that took so long each."""
    folder = results / "cifar10" / "vgg16" / f"{name}-0123456789ab"
    folder.mkdir(parents=True)
    made = {"learning_rate": 0.1, "seconds": seconds}
    write_epochs(folder, [made | {"epoch": epoch} for epoch in range(1, epochs + 1)])
    return folder


def line_of(printed: str, *names: str) -> list[str]:
    (line,) = [line for line in printed.splitlines() if line.split()[:2] == list(names)]
    return line.split(maxsplit=7)[2:]


def test_epochs_and_time_left(tmp_path: Path) -> None:
    """Of 3 x 419 epochs: seed 0 has SWA's 120 and SGD's 100, of which 81 are the same."""
    make_run(tmp_path, "swa-seed0", epochs=120)
    make_run(tmp_path, "sgd-seed0", epochs=100)
    make_run(tmp_path, "sgd-seed1", epochs=50)
    printed = show(read_rows(tmp_path))
    left = 3 * 419 - (120 + 100 - 81) - 50
    assert line_of(printed, "cifar10", "vgg16")[:5] == ["0", "0", "0", "12", str(left)]
    assert line_of(printed, "cifar10", "vgg16")[5] == f"{left * 2 // 60} min {left * 2 % 60} s"
    assert line_of(printed, "cifar100", "vgg16")[5] == "unknown"


def test_running_and_failed_runs_are_named(tmp_path: Path) -> None:
    running = make_run(tmp_path, "swa-seed0", epochs=7)
    failed = make_run(tmp_path, "swa-seed1", epochs=3)
    (failed / "traceback.txt").write_text("Traceback")
    with locks.alone_in([running]):
        printed = show(read_rows(tmp_path))
    assert line_of(printed, "cifar10", "vgg16")[:4] == ["0", "1", "1", "12"]
    assert "running: cifar10 vgg16 swa seed 0, 7 epochs done, the last" in printed
    assert f"failed: see {failed}/traceback.txt" in printed
    after = show(read_rows(tmp_path))
    assert line_of(after, "cifar10", "vgg16")[1] == "0"


def test_finished_budgets_are_counted(tmp_path: Path) -> None:
    for budget in (1.0, 1.25, 1.5):
        write_record(tmp_path, dataset="cifar10_mini", budget=budget)
        write_record(tmp_path, method="swa", budget=budget, seed=1)
    write_record(tmp_path, method="swa", seed=7)  # a seed that the grid has not
    printed = show(read_rows(tmp_path))
    assert line_of(printed, "cifar10_mini", "vgg16") == ["3", "0", "0"]
    assert line_of(printed, "cifar10", "vgg16")[:4] == ["3", "0", "0", "9"]


def test_the_command(tmp_path: Path) -> None:
    program = "import sys; from swa_bench.commands.status import swa_status; "
    program += "swa_status(sys.argv[1:]); print(sorted({'torch', 'scipy'} & set(sys.modules)))"
    command = [sys.executable, "-c", program, "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "1257" in done.stdout
    with pytest.raises(SystemExit, match="no such folder; nothing has been trained there"):
        swa_status(["--results", str(tmp_path / "none")])
