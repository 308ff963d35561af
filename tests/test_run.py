"""Runs from their first to their last epoch: killed, shared, extended, repeated, together."""

import math
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from training_helpers import (
    DROPOUT,
    TINY,
    SwaTrain,
    TinyNet,
    checkpoint_of,
    config_of,
    epochs_of,
    records_of,
    signalled,
)

from swa_bench.config.schema import TrainConfig
from swa_bench.data import images
from swa_bench.data.batches import to_device
from swa_bench.results.epochs import EPOCH_COLUMNS
from swa_bench.training import states
from swa_bench.training.batch_norm import recompute_batch_norm
from swa_bench.training.evaluation import predict, score
from swa_bench.training.network import fresh_model

SWA = [*TINY, "budget=1.5"]
ONLY_TWO = "checkpoints.keep_for=[sgd,swa]"  # no state is left for FGE


def untimed_epochs(results: Path, method: str = "swa") -> pd.DataFrame:
    return epochs_of(results, method).drop(columns="seconds")


def test_console_script_end_to_end(undisturbed: Path) -> None:
    found = records_of(undisturbed)
    assert [name.split("/")[1] for name in found] == [
        "cell-1.25.json",
        "cell-1.5.json",
        "cell-1.json",
    ]
    rows = epochs_of(undisturbed)
    assert (
        list(rows)
        == EPOCH_COLUMNS
        == (
            "epoch learning_rate train_loss train_error_pct test_loss test_error_pct "
            "swa_test_loss swa_test_error_pct ensemble_test_loss ensemble_test_error_pct "
            "n_averaged seconds"
        ).split()
    )
    assert list(rows["epoch"]) == [1, 2, 3, 4, 5, 6]
    # T = 3: t = 0, 1/3, 2/3, 1, ...; ratio 0.1: factor 1, 1, 1 - 0.9 * (1/6) / 0.4, 0.1.
    assert list(rows["learning_rate"]) == pytest.approx([0.1, 0.1, 0.0625, 0.01, 0.01, 0.01])
    assert list(rows["n_averaged"]) == [0, 0, 1, 2, 3, 4]
    for name, record in found.items():
        last = rows[rows["epoch"] == record["epochs"]].iloc[0]
        assert record["result"]["test_error_pct"] == last["swa_test_error_pct"], name
        assert record["result"]["n_averaged"] == last["n_averaged"]
        assert record["result"]["last_weights"]["test_error_pct"] == last["test_error_pct"]
        assert record["format"] == 2
        assert record["config"]["budget"] == record["budget"]
        assert record["config"]["epochs"] == record["epochs"]
        assert record["recipe_diff"]["model.budget_epochs"] == 4
        assert {"torch", "python", "commit", "swa_bench"} <= set(record["versions"])
        (segment,) = record["segments"]
        assert (segment["from_epoch"], segment["device"]) == (1, record["device"])
    printed = (undisturbed.parent / "stdout.txt").read_text()
    assert "swa seed 0  epoch 6/6" in printed
    assert "swa 1.5 seed 0: test error" in printed
    assert "NOT comparable with the paper" in printed


def test_the_record_is_of_the_averaged_weights(undisturbed: Path) -> None:
    """The stored average, with statistics recomputed from its own stream, tested here again."""
    record = next(r for name, r in records_of(undisturbed).items() if "cell-1.5" in name)
    stored = torch.load(checkpoint_of(undisturbed, 6), weights_only=True)
    n_averaged, average = stored["predictors"]["swa"]
    assert n_averaged == 4
    model = TinyNet(10).to(memory_format=torch.channels_last)
    model.load_state_dict({**stored["model"], **average})
    config = config_of(*SWA)
    data = to_device(images.load_images(config.dataset), config, torch.device("cpu"))
    plain = torch.autocast("cpu", enabled=False)
    stale = score(*predict(model, data.test_batches(500), plain))
    draws = data.draw(0, 6, "recompute")
    recompute_batch_norm(model, data.train_batches(draws, 128), plain)
    fresh = score(*predict(model, data.test_batches(500), plain))
    assert record["result"]["test_loss"] == fresh.loss != stale.loss
    assert record["result"]["test_error_pct"] == fresh.error_pct
    assert states.weights_sha256(average) == record["result"]["weights_sha256"]
    assert states.weights_sha256(stored["model"]) != record["result"]["weights_sha256"]


@pytest.mark.parametrize("steps", [4, 11], ids=["in_epoch_2", "in_epoch_4"])
def test_killed_and_started_again_ends_with_the_same_bits(
    tmp_path: Path, undisturbed: Path, swa_train: SwaTrain, steps: int
) -> None:
    """Killed in the middle of an epoch, before and after weights are first collected (epoch 3)."""
    command = signalled(signal.SIGKILL, steps, *SWA)
    killed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert records_of(tmp_path / "results") == {}
    again = swa_train(*SWA)
    assert again.code == 0, again.err
    assert f"Going on after step {steps % 3} of epoch {steps // 3 + 1}" in again.err
    assert records_of(tmp_path / "results") == records_of(undisturbed)
    pd.testing.assert_frame_equal(
        untimed_epochs(tmp_path / "results"), untimed_epochs(undisturbed), check_exact=True
    )


def test_sharing_and_extending_change_no_bit(
    tmp_path: Path, undisturbed: Path, swa_train: SwaTrain
) -> None:
    """SGD first, then SWA of one budget, then of 1.5: the same records as each alone."""
    assert swa_train(*TINY, "method=sgd").code == 0
    alone = records_of(tmp_path / "results")
    # T = 4 against T = 3: the rates are 0.1 for e = 0, 1 in both, and differ from e = 2 on.
    one = swa_train(*TINY, "budget=1")
    assert "Going on after epoch 2" in one.err
    more = swa_train(*TINY, "budget=1.5")
    assert "Going on after epoch 4" in more.err
    found = records_of(tmp_path / "results")
    assert {n: r for n, r in found.items() if n.startswith("swa")} == records_of(undisturbed)

    # The other order, in another folder: SWA leaves the state where they part for SGD.
    other = ["results_dir=other", ONLY_TWO]
    assert swa_train(*SWA, *other).code == 0
    checkpoint_of(tmp_path / "other", 2)
    shared = swa_train(*TINY, "method=sgd", *other)
    assert "Going on after epoch 2" in shared.err
    found = records_of(tmp_path / "other")
    assert {n: r for n, r in found.items() if n.startswith("sgd")} == alone
    # What is kept: the two ends; where they part is of no more use.
    kept = sorted(path.name[:16] for path in (tmp_path / "other").rglob("*.pt"))
    assert kept == ["seed0-epoch0004-", "seed0-epoch0006-"]


def test_methods_in_also_train_share_one_job(tmp_path: Path, swa_train: SwaTrain) -> None:
    outcome = swa_train(*TINY[:-1], "also_train=[sgd]")
    assert outcome.code == 0, outcome.err
    assert "Going on after epoch 2" in outcome.err
    found = records_of(tmp_path / "results")
    names = sorted(name.split("-")[0] + name.split("/")[1] for name in found)
    assert names == ["sgdcell-1.json", "swacell-1.25.json", "swacell-1.5.json", "swacell-1.json"]


def test_a_finished_run_is_not_trained_again(tmp_path: Path, swa_train: SwaTrain) -> None:
    first = swa_train(*TINY, "method=sgd")
    (record,) = (tmp_path / "results").rglob("cell-1.json")
    before = record.stat().st_mtime_ns
    again = swa_train(*TINY, "method=sgd")
    assert again.code == 0
    assert "Finished already" in again.err
    assert "epoch 1/4" not in again.out
    assert record.stat().st_mtime_ns == before
    assert again.out.splitlines() == [row for row in first.out.splitlines() if " epoch " not in row]
    content = records_of(tmp_path)
    forced = swa_train(*TINY, "method=sgd", "force=true")
    assert "epoch 1/4" in forced.out
    assert record.stat().st_mtime_ns > before
    (old,), (new,) = content.values(), records_of(tmp_path).values()
    assert new | {"config": None} == old | {"config": None}


def test_a_lost_or_damaged_record_is_written_again(
    tmp_path: Path, swa_train: SwaTrain, undisturbed: Path
) -> None:
    assert swa_train(*SWA).code == 0
    (record,) = (tmp_path / "results").rglob("cell-1.25.json")
    record.write_text(record.read_text()[:100])
    again = swa_train(*SWA)
    assert "cell-1.25.json is damaged" in again.err
    assert records_of(tmp_path / "results") == records_of(undisturbed)


def test_a_shorter_run_takes_no_epochs_away(tmp_path: Path, swa_train: SwaTrain) -> None:
    assert swa_train(*SWA).code == 0
    before = untimed_epochs(tmp_path / "results")
    assert swa_train(*TINY, "budget=0.75").code == 0
    pd.testing.assert_frame_equal(untimed_epochs(tmp_path / "results"), before)


def test_every_seed_has_its_own_first_weights_whatever_the_method() -> None:
    def weights(*overrides: str) -> str:
        config = config_of(*TINY, *overrides)
        return states.weights_sha256(fresh_model(config, torch.device("cpu")).state_dict())

    assert weights("seed=0") == weights("seed=0", "method=sgd", "channels_last=false")
    assert weights("seed=0") != weights("seed=1")


def test_data_fingerprint_is_in_the_record(undisturbed: Path) -> None:
    expected = images.load_images(config_of(*SWA).dataset).identity().sha256
    assert {record["data_sha256"] for record in records_of(undisturbed).values()} == {expected}


def test_dropout_is_drawn_anew_each_epoch(tmp_path: Path, swa_train: SwaTrain) -> None:
    """In one go, and in two: what the process drew before must not matter."""
    assert swa_train(*DROPOUT, "budget=1.5", "results_dir=one").code == 0
    assert swa_train(*DROPOUT, "budget=1", "results_dir=two").code == 0
    torch.rand(5)
    assert "Going on after epoch 2" in swa_train(*DROPOUT, "budget=1.5", "results_dir=two").err
    assert records_of(tmp_path / "one") == records_of(tmp_path / "two")


def test_seeds_together_change_no_bit(tmp_path: Path, swa_train: SwaTrain) -> None:
    """Seeds 2 and 3 as a block, seed 3 with a head start; then each alone."""
    together = ["seeds_together=2", "results_dir=together", "budget=1.5"]
    assert swa_train(*DROPOUT, "seed=3", "results_dir=together", "budget=0.5").code == 0
    outcome = swa_train(*DROPOUT, "seed=3", *together)
    assert outcome.code == 0, outcome.err
    assert "seed 2, 3: 3 epochs" in outcome.err
    assert "swa 1.5 seed 2: test error" in outcome.out
    for seed in (2, 3):
        arguments = [f"seed={seed}", "results_dir=alone", "budget=1.5"]
        assert swa_train(*DROPOUT, *arguments).code == 0
    both, alone = records_of(tmp_path / "together"), records_of(tmp_path / "alone")
    assert len(alone) == 6  # of 1, 1.25 and 1.5 budgets
    for name, record in alone.items():
        assert both[name]["config"].pop("seeds_together") == 2
        assert record["config"].pop("seeds_together") == 1
        assert both[name] == record
    assert "Finished already" in swa_train(*DROPOUT, "seed=2", *together).err


def test_a_seed_that_fails_does_not_stop_the_others(
    tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_for_seed_0(config: TrainConfig, target: torch.device) -> torch.nn.Module:
        model = fresh_model(config, target)
        if config.seed == 0:
            next(model.parameters()).data.fill_(math.nan)
        return model

    monkeypatch.setattr(states, "fresh_model", broken_for_seed_0)
    outcome = swa_train(*TINY, "method=sgd", "seeds_together=2")
    assert outcome.code == 1
    assert "training loss of epoch 1 is nan (tiny, sgd, seed 0" in outcome.err
    (name,) = records_of(tmp_path / "results")
    assert name.startswith("sgd-seed1-")
    (noted,) = tmp_path.rglob("traceback.txt")
    assert noted.parent.name.startswith("sgd-seed0-")


def test_cyclical_swa_averages_at_the_ends_of_cycles(tmp_path: Path, swa_train: SwaTrain) -> None:
    """Cycles of 2 epochs of 3 steps that end with epochs 3 and 5; the rate falls 0.05 -> 0.01."""
    assert swa_train(*TINY, "method=swa_cyclic", "budget=1.25").code == 0
    rows = epochs_of(tmp_path / "results", "swa_cyclic")
    assert list(rows["n_averaged"]) == [0, 0, 1, 1, 2]
    # At each epoch's last step: half a cycle, then a whole one.
    assert list(rows["learning_rate"]) == pytest.approx([0.1, 0.03, 0.01, 0.03, 0.01])


def test_a_run_without_a_checkpoint_says_that_it_begins_again(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    """As after a kill within the first minute, or where checkpoints were deleted."""
    assert swa_train(*TINY, "method=sgd").code == 0
    for path in [*tmp_path.rglob("cell-1.json"), *tmp_path.rglob("*.pt")]:
        path.unlink()
    assert "No checkpoint to go on from: from epoch 1" in swa_train(*TINY, "method=sgd").err
    assert list(epochs_of(tmp_path, "sgd")["epoch"]) == [1, 2, 3, 4]
