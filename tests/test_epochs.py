"""epochs.csv while a run writes it: rows are added, a kill or power cut costs none for good."""

import logging
import os
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from training_helpers import TINY, SwaTrain, epochs_of, signalled

from swa_bench.results.epochs import Row, epoch_columns, parse_epochs, read_epochs, write_epochs

RUN = [*TINY, "budget=1.5", "checkpoints.keep_for=[]"]


def rows_of(epochs: int, loss: float = 2.5) -> list[Row]:
    return [
        dict.fromkeys(epoch_columns([]))
        | {"epoch": epoch, "learning_rate": 0.05, "train_loss": loss, "seconds": 12.25}
        for epoch in range(1, epochs + 1)
    ]


def test_a_row_is_added_to_those_before_it(tmp_path: Path) -> None:
    path = tmp_path / "epochs.csv"
    size = write_epochs(tmp_path, rows_of(1))
    before, inode = path.read_bytes(), path.stat().st_ino
    size = write_epochs(tmp_path, rows_of(2), before=size, sync=False)
    assert path.stat().st_ino == inode and len(path.read_bytes()) == size
    assert path.read_bytes().startswith(before) and parse_epochs(path) == rows_of(2)
    path.unlink()  # somebody tidies up
    write_epochs(tmp_path, rows_of(3), before=size)
    assert parse_epochs(path) == rows_of(3)


def test_rows_of_a_longer_run_stay(tmp_path: Path) -> None:
    """It is trained again, to another loss: first in place of rows that are there, then on."""
    write_epochs(tmp_path, rows_of(3))
    size = -1
    for epochs in (1, 2, 3, 4, 5):
        size = write_epochs(tmp_path, rows_of(epochs, loss=1.5), before=size)
        found = parse_epochs(tmp_path / "epochs.csv")
        assert found == rows_of(epochs, loss=1.5) + rows_of(3)[epochs:]


def test_a_row_of_which_only_the_beginning_is_there_is_not_there_yet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "epochs.csv"
    write_epochs(tmp_path, rows_of(10))
    whole = path.read_bytes()
    last = whole.index(b"\n10,") + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert read_epochs(path) == rows_of(9)
    assert not caplog.records
    caplog.set_level(logging.WARNING)
    header = whole.index(b"\n")
    for damaged in (whole[:header], whole + b"12,0.05", whole + b"\0\0", whole[:last] + b"9,0.05"):
        path.write_bytes(damaged)
        caplog.clear()
        assert read_epochs(path) == [] and "is damaged" in caplog.text


def figures(results: Path) -> pd.DataFrame:
    return epochs_of(results).drop(columns="seconds")


def test_rows_survive_a_kill_and_a_torn_one_is_written_again(
    tmp_path: Path, swa_train: SwaTrain, undisturbed: Path
) -> None:
    """Killed in epoch 3, without a checkpoint; later a power cut leaves two rows and a half."""
    never = [*RUN, "checkpoints.every_s=1000"]
    killed = subprocess.run(
        signalled(signal.SIGKILL, 7, *never), cwd=tmp_path, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    expected = figures(undisturbed)
    pd.testing.assert_frame_equal(figures(tmp_path), expected[:2], check_dtype=False)
    again = swa_train(*RUN)
    assert again.code == 0 and "No checkpoint to go on from: from epoch 1" in again.err
    pd.testing.assert_frame_equal(figures(tmp_path), expected)
    (path,) = tmp_path.rglob("epochs.csv")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4])[:-9])
    for record in tmp_path.rglob("cell-*.json"):
        record.unlink()
    more = swa_train(*RUN)
    assert more.code == 0 and "damaged" not in more.err
    pd.testing.assert_frame_equal(figures(tmp_path), expected)


@pytest.mark.parametrize(("every_s", "synced"), [(0, 5), (1000, 3)])
def test_a_row_is_synced_with_the_checkpoint_and_before_a_record(
    every_s: int, synced: int, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 2 to 6, with a checkpoint each; or 4 to 6, with a record each."""
    fsync, names = os.fsync, []

    def noted(file: int) -> None:
        names.append(Path(f"/proc/self/fd/{file}").readlink().name)
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    assert swa_train(*RUN, f"checkpoints.every_s={every_s}").code == 0
    assert names.count("epochs.csv") == synced
