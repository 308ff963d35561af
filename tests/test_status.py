"""What swa-status prints of run folders, and that it needs no torch for it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from record_helpers import write_record, write_run
from training_helpers import config_of

from swa_bench.commands.status import show_grid, show_runs, swa_status
from swa_bench.config.grid import grids
from swa_bench.results import locks
from swa_bench.results.epochs import write_epochs
from swa_bench.results.record import run_folder
from swa_bench.results.run_files import write_options
from swa_bench.results.status import read_rows


def make_run(results: Path, name: str, epochs: int, seconds: float = 2.0) -> Path:
    """A run folder of VGG16 on CIFAR-10 with epochs that took so long each."""
    folder = results / "cifar10" / "vgg16" / f"{name}-0123456789ab"
    write_rows(folder, epochs, seconds)
    return folder


def write_rows(folder: Path, epochs: int, seconds: float = 2.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made = {"learning_rate": 0.1, "seconds": seconds}
    write_epochs(folder, [made | {"epoch": epoch} for epoch in range(1, epochs + 1)])


def begin(results: Path, epochs: int, *overrides: str) -> Path:
    """A run of 20 epochs that was begun, and has done so many."""
    recipe = ["dataset=cifar10_mini", "model=preresnet20", "model.budget_epochs=20"]
    config = config_of(
        *recipe, "model.swa_start=16", "budget=1", f"results_dir={results}", *overrides
    )
    folder = run_folder(config)
    differs = ["model.budget_epochs=20", *(one for one in overrides if one.startswith("model."))]
    write_options(folder, config, " ".join(differs))
    write_rows(folder, epochs)
    return folder


def grid_of(results: Path, name: str = "cifar") -> str:
    return show_grid(read_rows(results), grids()[name])


def line_of(printed: str, *names: str) -> list[str]:
    """Cells done, epochs left and time left of an experiment, data set and model."""
    (line,) = [line for line in printed.splitlines() if line.split()[:3] == list(names)]
    return line.split(maxsplit=5)[3:]


def test_epochs_and_time_left_of_the_grid(tmp_path: Path) -> None:
    """Of 3 x 419 epochs: seed 0 has SWA's 120 and SGD's 100, of which 81 are the same."""
    make_run(tmp_path, "swa-seed0", epochs=120)
    make_run(tmp_path, "sgd-seed0", epochs=100)
    make_run(tmp_path, "sgd-seed1", epochs=50)
    printed = grid_of(tmp_path)
    left = 3 * 419 - (120 + 100 - 81) - 50
    time_left = f"{left * 2 // 60} min {left * 2 % 60} s"
    assert line_of(printed, "paper_tables", "cifar10", "vgg16") == ["0/12", str(left), time_left]
    assert line_of(printed, "paper_tables", "cifar100", "vgg16")[2] == "unknown"


def test_finished_cells_of_the_grid_are_counted(tmp_path: Path) -> None:
    for budget in (1.0, 1.25, 1.5):
        write_record(tmp_path, method="swa", budget=budget, seed=1)
    write_record(tmp_path, method="swa", seed=7)  # a seed that the grid has not
    write_record(tmp_path, dataset="cifar10_mini")
    printed = grid_of(tmp_path)
    assert line_of(printed, "paper_tables", "cifar10", "vgg16")[0] == "3/12"
    assert "cifar10_mini" not in printed


def test_experiments_with_one_row_are_told_apart_by_method(tmp_path: Path) -> None:
    """WRN-28-10 on CIFAR-10 has 4 columns in the paper's table, and 2 with a constant rate.

    Both methods of a constant rate are one training: what one has done the other need not do.
    """
    row = {"dataset": "cifar10", "model": "wrn28_10"}
    write_record(tmp_path, **row, method="swa", seed=0)
    path = write_record(tmp_path, **row, method="swa_fixed_rate", seed=0)
    write_rows(path.parent, epochs=200)
    printed = grid_of(tmp_path, "extra")
    assert line_of(printed, "fixed_rate", "cifar10", "wrn28_10")[:2] == ["1/6", str(2 * 200)]
    assert line_of(printed, "fixed_rate", "cifar100", "wrn28_10")[:2] == ["0/6", str(3 * 200)]
    assert line_of(grid_of(tmp_path), "paper_tables", "cifar10", "wrn28_10")[0] == "1/12"


def test_imagenet_has_a_column_that_trains_nothing(tmp_path: Path) -> None:
    """Of 3 x 3 cells and 3 x 10 epochs."""
    row = {"dataset": "imagenet", "model": "resnet50", "seed": 0}
    write_record(tmp_path, **row, method="pretrained", budget=0.0, epochs=0)
    path = write_record(tmp_path, **row, method="swa", budget=0.5, epochs=5)
    write_rows(path.parent, epochs=7)
    line = line_of(grid_of(tmp_path, "imagenet"), "imagenet", "imagenet", "resnet50")
    assert line[:2] == ["2/9", str(30 - 7)]


def test_runs_of_every_state(tmp_path: Path) -> None:
    running = begin(tmp_path, 4, "seed=2")
    failed = begin(tmp_path, 3, "method=sgd", "model.learning_rate=1e20")
    error = "swa_bench.training.run.NotFiniteError: The training loss of epoch 4 is nan"
    (failed / "traceback.txt").write_text(f"Traceback\n  File x\n{error}\n")
    for seed in (0, 1):
        begin(tmp_path, 7, f"seed={seed}")
    with locks.alone_in([running]):
        printed = show_runs(read_rows(tmp_path), width=80)
    lines = [re.sub(r"\d s ago", "0 s ago", line).split() for line in printed.splitlines()]
    heading = lines.index([str(tmp_path / "cifar10_mini" / "preresnet20")])
    assert lines[heading + 1] == ["model.budget_epochs=20"]  # what all have in common
    assert lines[heading + 2 :] == [
        ["running", "4/20", running.name],
        f"the last epoch 0 s ago, process {os.getpid()} on {os.uname().nodename}".split(),
        ["failed", "3/20", failed.name, "model.learning_rate=1e20"],
        "NotFiniteError: The training loss of epoch 4 is nan".split(),
        ["stopped", "7/20", running.name.replace("seed2", "seed0")],
        ["stopped", "7/20", running.name.replace("seed2", "seed1")],
        [],
        "1 running, 1 failed, 2 stopped".split(),
        "A stopped or failed run goes on from its last checkpoint, if it has one:".split(),
        r"xargs -a FOLDER/overrides.txt -d '\n' swa-train".split(),
    ]
    assert "  3 stopped" in show_runs(read_rows(tmp_path), 80).replace("failed, ", " ")


def test_seeds_that_are_done_are_one_line(tmp_path: Path) -> None:
    """Also of earlier versions, which wrote no config.yaml; one without all its records is not."""
    for seed in (0, 1, 2, 5, 9):
        write_run(tmp_path, {1.0: 5.0, 1.5: 4.0}, [0.1] * 6, method="swa", seed=seed)
    (tmp_path / "cifar10/vgg16/swa-seed5-000000000003/cell-1.5.json").unlink()
    write_record(tmp_path, method="independent", runs={"a": "b"})
    printed = show_runs(read_rows(tmp_path), width=80)
    lines = [line.split() for line in printed.splitlines()]
    assert ["done", "6", "swa-seed{0,1,2,9}-000000000003"] in lines
    assert ["stopped", "6/4", "swa-seed5-000000000003"] in lines
    assert ["done", "-", "independent-seed0-0123456789ab"] in lines
    assert "1 stopped, 5 done" in printed


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit_the_terminal(tmp_path: Path, width: int, monkeypatch: Any) -> None:
    """Long options go below the run's line, and none is lost."""
    monkeypatch.chdir(tmp_path)
    begin(Path("runs"), 3)
    begin(
        Path("runs"), 2, "method=swa_cyclic", "model.weight_decay=0.001", "model.name=a_long_name"
    )
    options = [f"model.option_{number}={number}" for number in range(20)]
    folder = begin(Path("runs"), 1, "method=fge")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("=20\n", f"=20 {' '.join(options)}\n"))
    (folder / "traceback.txt").write_text("ValueError: " + "many words " * 100)
    printed = show_runs(read_rows(Path("runs")), width)
    lines = printed.splitlines()[:-2]
    assert max(map(len, lines)) <= width
    assert all(option in printed for option in options)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = "import sys; from swa_bench.commands.status import swa_status; "
    program += "swa_status(sys.argv[1:]); print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    command = [sys.executable, "-c", program, "--results", str(tmp_path)]
    done = subprocess.run([*command, "--grid"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "1257" in done.stdout and max(map(len, done.stdout.splitlines()[1:])) <= 80
    with pytest.raises(SystemExit, match="no such folder; nothing has been trained there"):
        swa_status(["--results", str(tmp_path / "none")])
    begin(tmp_path, 3)
    swa_status(["--results", str(tmp_path)])
    assert "The grid" not in capsys.readouterr().out
    make_run(tmp_path, "swa-seed0", epochs=1)
    swa_status(["--results", str(tmp_path), "--grid", "extra"])
    printed = capsys.readouterr().out
    mine, _, grid = printed.partition("The grid of the paper's CIFAR tables")  # which has a run
    assert mine.index("cifar10_mini/preresnet20") < mine.index("cifar10/vgg16")
    assert line_of(grid, "paper_tables", "cifar10", "vgg16")[1] == str(1257 - 1)
    assert "shakeshake26_2x64d" in grid and "resnet50" not in grid
    swa_status(["--results", str(tmp_path), "--grid", "all"])
    assert "resnet50" in capsys.readouterr().out
