"""Runs that are killed, asked to end, started twice, or that the disk or a file fails."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_helpers import TINY, SwaTrain, records_of, signalled

SHORT = [*TINY, "dataset.train_images=96", "dataset.test_images=50", "batch_size=40", "budget=1.5"]

# Python has imported all before it forks, so that a start costs a fraction of a second.
KILLER = """
import os, random, signal, sys, time
from swa_bench import train
from swa_bench.reporting import tables
from swa_bench.training import job

def start(folder):
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(folder + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["swa-train", *sys.argv[2:], f"results_dir={folder}"]
    code = 1
    try:
        train.main()
        code = 0
    finally:
        os._exit(code)

started = time.monotonic()
assert os.waitpid(start("undisturbed"), 0)[1] == 0
longest = time.monotonic() - started
chance, kills, runs = random.Random(0), 0, 0
while kills < int(sys.argv[1]):
    runs += 1
    status = None
    while status != 0:
        pid = start(f"killed{runs}")
        if kills < int(sys.argv[1]):  # else, on a busy machine, none might get to its end
            time.sleep(chance.uniform(0.2, 1.1) * longest)
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert status in (0, signal.SIGKILL), open(f"killed{runs}.log").read()
        kills += status != 0
print(kills, "kills in", runs, "runs")
"""


@pytest.mark.slow
def test_fifty_random_kills_change_no_bit(tmp_path: Path) -> None:
    """During training, checkpoints and records: each run ends with what an undisturbed one has."""
    command = [sys.executable, "-c", KILLER, "50", *SHORT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = records_of(tmp_path / "undisturbed")
    assert len(expected) == 3
    runs = [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "undisturbed"]
    assert len(runs) >= 2, done.stdout
    for run in runs:
        assert records_of(run) == expected, run
        assert not list(run.rglob("traceback.txt"))


def command_in(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start swa-train as a process of its own."""
    program = [Path(sys.executable).parent / "swa-train", *arguments]
    return subprocess.Popen(
        program, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(folder: Path, pattern: str, process: "subprocess.Popen[str]") -> None:
    """Until a file is there."""
    while not list(folder.rglob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


LONG = [*TINY, "budget=500", "checkpoints.every_s=1000", "checkpoints.keep_for=[]"]
LONG += ["dataset.train_images=128"]
# A network with checkpoints of 1.8 MB, and of 2.8 when weights are collected.
LARGE = [*TINY, "+model.arguments.width=2000", "budget=1.5", "dataset.train_images=48"]


def test_sigterm_ends_with_a_checkpoint(tmp_path: Path) -> None:
    """2,000 epochs of a step, none stored before the end, unless it is asked to end."""
    process = command_in(tmp_path, *LONG, "seeds_together=2")
    wait_for(tmp_path, "swa-seed1-*/epochs.csv", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert (
        errors.splitlines()[-1]
        == "swa-train: ended as asked; start it again to go on (without force)"
    )
    rows = [len(path.read_text().splitlines()) - 1 for path in tmp_path.rglob("epochs.csv")]
    stored = [int(path.name[11:15]) for path in sorted(tmp_path.rglob("seed*.pt"))]
    assert len(stored) == 2 and sorted(rows) == sorted(stored)


def test_a_sweep_that_is_asked_to_end_does_not_go_on(tmp_path: Path) -> None:
    process = command_in(tmp_path, "-m", *LONG, "seed=0,1")
    wait_for(tmp_path, "swa-seed0-*/epochs.csv", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not list(tmp_path.rglob("swa-seed1-*"))


def test_a_run_that_is_started_twice_is_trained_once(tmp_path: Path, swa_train: SwaTrain) -> None:
    """The second waits, then goes on from where the first was killed, as if it had not been."""
    options = [*TINY, "budget=1.5"]
    first = subprocess.Popen(signalled(signal.SIGSTOP, 7, *options), cwd=tmp_path)
    wait_for(tmp_path, "seed0-epoch0002-*.pt", first)
    second = command_in(tmp_path, *options)
    assert second.stderr is not None
    line = second.stderr.readline()
    while "Waiting for another process" not in line:
        assert line, "it did not wait"
        line = second.stderr.readline()
    assert f"process {first.pid} on " in line
    first.kill()
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert first.wait() == -signal.SIGKILL
    assert "Going on after step 1 of epoch 3" in errors
    assert swa_train(*options, "results_dir=alone").code == 0
    assert records_of(tmp_path / "results") == records_of(tmp_path / "alone")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4.5 MB, too small for two checkpoints of LARGE that hold an average."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4500k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_checkpoint(small_disk: Path, swa_train: SwaTrain) -> None:
    options = [*LARGE, f"results_dir={small_disk}/runs"]
    outcome = swa_train(*options)
    assert outcome.code == 1
    assert "could not be written: No space left on device" in outcome.err
    assert "Traceback" not in outcome.err
    left = [path.name for path in small_disk.rglob("*.pt")]
    assert left
    assert not list(small_disk.rglob(".*.part"))
    subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
    again = swa_train(*options)
    assert "Going on after" in again.err
    assert again.code == 0, again.err
    assert swa_train(*LARGE, "results_dir=alone").code == 0
    assert records_of(small_disk / "runs") == records_of(Path("alone"))


def test_a_read_only_results_folder(small_disk: Path, swa_train: SwaTrain) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    outcome = swa_train(*TINY, f"results_dir={small_disk}/runs")
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"swa-train: results_dir={small_disk}/runs: cannot write to")


def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are of 1970 and 2100, and the clock says another time at every look."""
    assert swa_train(*TINY, "budget=1").code == 0
    for path, date in zip(tmp_path.rglob("*"), itertools.cycle([0, 4102444800]), strict=False):
        os.utime(path, (date, date))
    times = iter(range(10**9, 10**12, 10**7))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    outcome = swa_train(*TINY, "budget=1.5")
    assert "Going on after epoch 4" in outcome.err
    assert swa_train(*TINY, "budget=1.5", "results_dir=alone").code == 0
    assert records_of(tmp_path / "results") == records_of(tmp_path / "alone")


def test_a_failure_leaves_its_traceback_until_the_run_succeeds(
    tmp_path: Path, swa_train: SwaTrain
) -> None:
    diverging = [*TINY, "method=sgd", "model.learning_rate=1e20"]
    assert swa_train(*diverging).code == 1
    (path,) = tmp_path.rglob("traceback.txt")
    assert "NotFiniteError: The training loss of epoch 1 is" in path.read_text()
    folder = path.parent.relative_to(tmp_path)
    assert folder.parts[:4] == ("results", "runs", "cifar10_mini", "tiny")
    (tmp_path / "results").rename(tmp_path / "other")
    assert swa_train(*TINY, "method=sgd").code == 0
    (done,) = tmp_path.glob("results/runs/*/*/sgd-*")
    (done / "traceback.txt").write_text("of an earlier try")
    assert swa_train(*TINY, "method=sgd", "force=true").code == 0
    assert not (done / "traceback.txt").exists()


def test_a_yaml_file_that_cannot_be_read_is_named(tmp_path: Path, swa_train: SwaTrain) -> None:
    folder = tmp_path / "my" / "model"
    folder.mkdir(parents=True)
    (folder / "broken.yaml").write_text("name: vgg16\nlearning_rate: [0.05\nswa_start: 3\n")
    outcome = swa_train("--config-dir", "my", "model=broken")
    assert outcome.code == 2
    assert "broken.yaml" in outcome.err and "line 3" in outcome.err
    assert "Traceback" not in outcome.err
