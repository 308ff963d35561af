"""Runs from their first to their last epoch: killed, shared, extended, damaged, diverging."""

import hashlib
import importlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import TINY, SwaTrain, plan_of
from test_sources import make_archive

from swa_bench.config.plan import state_keys
from swa_bench.config.schema import TrainConfig
from swa_bench.data import images as sources
from swa_bench.data.batches import to_device
from swa_bench.errors import SwaBenchError
from swa_bench.models import build_model
from swa_bench.training import checkpoints
from swa_bench.training import hardware as device
from swa_bench.training import run as walk
from swa_bench.training import step as engine
from swa_bench.training.network import fresh_model

SWA = [*TINY, "budget=1.5"]
ONLY_TWO = "share_with=[sgd,swa]"  # no state is left for FGE


def untimed(record: Path) -> dict[str, Any]:
    """A record without what two runs of one walk cannot share: the time they took."""
    content = json.loads(record.read_text())
    del content["timing"]
    for name in ("results_dir", "share_with"):
        content["config"].pop(name)
    return content


def cells(results: Path) -> dict[str, dict[str, Any]]:
    return {
        f"{path.parent.name}/{path.name}": untimed(path)
        for path in sorted(results.rglob("cell-*.json"))
    }


def epochs(results: Path, method: str = "swa") -> pd.DataFrame:
    (path,) = results.rglob(f"{method}-seed0-*/epochs.csv")
    return pd.read_csv(path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one SWA run of 1.5 budgets, by the console script."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [Path(sys.executable).parent / "swa-train", *SWA]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    return folder / "results"


def test_console_script_end_to_end(undisturbed: Path) -> None:
    found = cells(undisturbed)
    assert [name.split("/")[1] for name in found] == [
        "cell-1.25.json",
        "cell-1.5.json",
        "cell-1.json",
    ]
    rows = epochs(undisturbed)
    assert (
        list(rows)
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
        assert record["config"]["budget"] == record["budget"]
        assert record["config"]["epochs"] == record["epochs"]
        assert record["variant"]["model.budget_epochs"] == 4
        assert {"torch", "python", "commit", "swa_bench"} <= set(record["versions"])
        (origin,) = record["origins"]
        assert (origin["from_epoch"], origin["device"]) == (1, record["device"])
    printed = (undisturbed.parent / "stdout.txt").read_text()
    assert "preresnet20 swa seed 0 epoch 6/6" in printed
    assert "swa 1.5 seed 0: test error" in printed
    assert "NOT comparable with the paper" in printed


def test_the_record_is_of_the_averaged_weights(undisturbed: Path) -> None:
    """The stored average, with statistics recomputed from its own stream, tested here again."""
    record = next(r for name, r in cells(undisturbed).items() if name.endswith("cell-1.5.json"))
    (path,) = undisturbed.rglob("checkpoints/seed0-epoch0006-*.pt")
    stored = torch.load(path, weights_only=True)
    assert stored["n_averaged"] == 4
    model = build_model("preresnet20", 10).to(memory_format=torch.channels_last)
    model.load_state_dict({**stored["model"], **stored["average"]})
    config = plan_of(*SWA).config
    data = to_device(sources.load_arrays(config.dataset), config, torch.device("cpu"))
    plain = torch.autocast("cpu", enabled=False)
    stale = engine.evaluate(model, data.test_batches(500), plain)
    draws = data.draw(0, 6, "recompute")
    engine.recompute_batch_norm(model, data.train_batches(draws, 128), plain)
    fresh = engine.evaluate(model, data.test_batches(500), plain)
    assert record["result"]["test_loss"] == fresh.loss != stale.loss
    assert record["result"]["test_error_pct"] == fresh.error_pct
    assert walk.weights_sha256(stored["average"]) == record["result"]["weights_sha256"]
    assert walk.weights_sha256(stored["model"]) != record["result"]["weights_sha256"]


@pytest.mark.parametrize("kill_at", [1, 3], ids=lambda epoch: f"after_epoch_{epoch}")
def test_killed_and_started_again_ends_with_the_same_bits(
    tmp_path: Path, undisturbed: Path, kill_at: int
) -> None:
    """swa_start is 3: killed before and at it, some way into the next epoch."""
    command = [str(Path(sys.executable).parent / "swa-train"), *SWA]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = list(tmp_path.rglob(f"checkpoints/seed0-epoch{kill_at:04d}-*.pt"))
            if found:
                break
            time.sleep(0.02)
        time.sleep(0.03 * kill_at)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert cells(tmp_path / "results").keys() < cells(undisturbed).keys()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    resumed = re.search(r"Going on after epoch (\d)", done.stderr)
    assert resumed is not None
    assert int(resumed[1]) >= kill_at
    assert cells(tmp_path / "results") == cells(undisturbed)
    pd.testing.assert_frame_equal(
        epochs(tmp_path / "results").drop(columns="seconds"),
        epochs(undisturbed).drop(columns="seconds"),
        check_exact=True,
    )


def test_sharing_and_extending_change_no_bit(
    tmp_path: Path, undisturbed: Path, swa_train: SwaTrain
) -> None:
    """SGD first, then SWA of one budget, then of 1.5: the same records as each alone."""
    assert swa_train(*TINY, "method=sgd").code == 0
    alone = cells(tmp_path / "results")
    # T = 4 against T = 3: the rates are 0.1 for e = 0, 1 in both, and differ from e = 2 on.
    one = swa_train(*TINY, "budget=1")
    assert "Going on after epoch 2" in one.err
    more = swa_train(*TINY, "budget=1.5")
    assert "Going on after epoch 4" in more.err
    swa = {name: r for name, r in cells(tmp_path / "results").items() if name.startswith("swa")}
    assert swa == cells(undisturbed)

    # The other order, in another folder: SWA leaves the branching point for SGD.
    other = ["results_dir=other", ONLY_TWO]
    assert swa_train(*SWA, *other).code == 0
    assert len(list((tmp_path / "other").rglob("seed0-epoch0002-*.pt"))) == 1
    shared = swa_train(*TINY, "method=sgd", *other)
    assert "Going on after epoch 2" in shared.err
    sgd = {name: r for name, r in cells(tmp_path / "other").items() if name.startswith("sgd")}
    assert sgd == alone
    # What is kept: the two ends; where they part is of no more use.
    kept = sorted(path.name[:16] for path in (tmp_path / "other").rglob("*.pt"))
    assert kept == ["seed0-epoch0004-", "seed0-epoch0006-"]


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
    content = untimed(record)
    forced = swa_train(*TINY, "method=sgd", "force=true")
    assert "epoch 1/4" in forced.out
    assert record.stat().st_mtime_ns > before
    assert untimed(record) | {"config": None} == content | {"config": None}


def test_a_lost_or_damaged_record_is_written_again(
    tmp_path: Path, swa_train: SwaTrain, undisturbed: Path
) -> None:
    assert swa_train(*SWA).code == 0
    (record,) = (tmp_path / "results").rglob("cell-1.25.json")
    record.write_text(record.read_text()[:100])
    again = swa_train(*SWA)
    assert "cell-1.25.json is damaged" in again.err
    assert cells(tmp_path / "results") == cells(undisturbed)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, swa_train: SwaTrain, undisturbed: Path
) -> None:
    assert swa_train(*TINY, "budget=1").code == 0
    *_, last = sorted((tmp_path / "results").rglob("*.pt"))
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    more = swa_train(*SWA)
    assert f"{last.name} is damaged" in more.err
    assert "Going on after epoch 2" in more.err
    assert cells(tmp_path / "results") == cells(undisturbed)


def test_a_state_left_by_a_run_that_tested_less_is_tested(
    tmp_path: Path, swa_train: SwaTrain, undisturbed: Path
) -> None:
    """A state of epoch 5 without test figures, from which the cell of 1.25 budgets is recorded."""
    seldom = ["evaluation.every=99", "evaluation.average_every=99", "record_budgets=[1]"]
    assert swa_train(*TINY, "budget=1.25", *seldom).code == 0
    (record,) = (tmp_path / "results").rglob("cell-1.25.json")
    (path,) = (tmp_path / "results").rglob("checkpoints/seed0-epoch0005-*.pt")
    stored = torch.load(path, weights_only=True)
    stored["rows"][-1] |= dict.fromkeys(("test_loss", "swa_test_loss"))
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    path.with_name(f"{path.stem.rsplit('-', 1)[0]}-{sha256}.pt").write_bytes(buffer.getvalue())
    path.unlink()
    record.unlink()
    assert swa_train(*SWA).code == 0
    results = {name: content["result"] for name, content in cells(tmp_path / "results").items()}
    assert results == {name: content["result"] for name, content in cells(undisturbed).items()}


def test_leftovers_of_killed_writers_go(tmp_path: Path, swa_train: SwaTrain) -> None:
    assert swa_train(*TINY, "method=sgd").code == 0
    (folder,) = (tmp_path / "results").rglob("checkpoints")
    old, new = (folder / f".seed0-epoch0003-x.pt.{name}.part" for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    assert swa_train(*TINY, "method=swa").code == 0
    assert not old.exists()
    assert new.exists()


def test_a_foreign_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "ran").touch, ())

    model = build_model("preresnet20", 10)
    state = checkpoints.State(model, torch.optim.SGD(model.parameters(), lr=0.1))
    good = checkpoints.save(tmp_path, 0, "k" * 16, state)
    torch.save({"epoch": Payload()}, tmp_path / "evil.pt")
    content = (tmp_path / "evil.pt").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()[:16]
    (tmp_path / f"seed0-epoch0001-{'m' * 16}-{sha256}.pt").write_bytes(content)
    with pytest.raises(SwaBenchError, match=r"epoch0001-m.* is whole but not of this version"):
        checkpoints.load_newest(tmp_path, 0, ["k" * 16, "m" * 16], state)
    assert not (tmp_path / "ran").exists()
    assert good.exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, swa_train: SwaTrain) -> None:
    outcome = swa_train(*TINY, "method=sgd", "schedule.learning_rate=1e20")
    assert outcome.code == 1
    assert "training loss of epoch 1 is nan" in outcome.err
    assert "Traceback" not in outcome.err
    assert not list((tmp_path / "results").rglob("cell-*.json"))


def test_the_last_good_checkpoint_is_kept(
    tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate that explodes in epoch 4; then a mended setting goes on from before it."""
    module = tmp_path / "exploding.py"
    module.write_text(
        "def rate(epoch, step, steps, *, at):\n    return 1e20 if epoch >= at else 0.1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ["method=sgd", "schedule=constant", "~schedule.learning_rate"]
    own += ["schedule._target_=exploding.rate", "+schedule.at=3"]
    outcome = swa_train(*TINY, *own)
    assert outcome.code == 1
    assert "training loss of epoch 4" in outcome.err
    assert "Earlier checkpoints stay in results/runs/" in outcome.err
    mended = swa_train(*TINY, *own[:-1], "+schedule.at=99")
    assert mended.code == 0
    assert "Going on after epoch 3" in mended.err


def test_a_disk_that_refuses_leaves_what_was(
    tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system fails in the middle of the third checkpoint: the second stays usable."""
    calls = []
    original = os.fsync

    def full(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if ".pt" in name:
            calls.append(name)
            if len(calls) == 3:
                raise OSError(28, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    outcome = swa_train(*TINY, "method=sgd")
    assert outcome.code == 1
    assert "could not be written: No space left on device" in outcome.err
    monkeypatch.setattr(os, "fsync", original)
    assert not [path for path in tmp_path.rglob(".*") if ".pt" in path.name]
    again = swa_train(*TINY, "method=sgd")
    assert again.code == 0
    assert "Going on after epoch 2" in again.err


def test_every_seed_has_its_own_first_weights_whatever_the_method() -> None:
    def weights(*overrides: str) -> str:
        config: TrainConfig = plan_of(*TINY, *overrides).config
        return walk.weights_sha256(fresh_model(config, torch.device("cpu")).state_dict())

    assert weights("seed=0") == weights("seed=0", "method=sgd", "channels_last=false")
    assert weights("seed=0") != weights("seed=1")


def test_data_fingerprint_is_in_the_record(undisturbed: Path) -> None:
    config = plan_of(*SWA).config
    expected = sources.load_arrays(config.dataset).fingerprint()
    assert {record["data_sha256"] for record in cells(undisturbed).values()} == {expected}


SHAPING = [
    "model=vgg16",
    "model.normalisation.mean=[0.5,0.5,0.5]",
    "seed=1",
    "precision=auto",
    "channels_last=false",
    "compile=true",
    "optimizer.momentum=0.8",
    "optimizer.weight_decay=0.1",
    "optimizer.batch_size=64",
    "dataset.augmentation.flip=false",
    "dataset.augmentation.padding_mode=reflect",
    "dataset.image_size=28",
    "model._target_=swa_bench.models.vgg.VGG",
]


@pytest.mark.parametrize("option", SHAPING)
def test_what_shapes_a_state_is_in_its_key(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: True)
    usual, changed = (plan_of(*TINY), plan_of(*TINY, option))
    assert state_keys(usual, "data", "weights")[0] != state_keys(changed, "data", "weights")[0]


def test_data_and_rates_are_in_the_keys_and_what_does_not_shape_is_not() -> None:
    keys = state_keys(plan_of(*TINY), "data", "weights")
    assert state_keys(plan_of(*TINY), "other data", "weights")[0] != keys[0]
    assert state_keys(plan_of(*TINY), "data", "other weights")[0] != keys[0]
    other = ["evaluation.every=3", "results_dir=x", "checkpoints.every_s=9", "budget=1.5"]
    assert state_keys(plan_of(*TINY, *other), "data", "weights")[:5] == keys
    late = state_keys(plan_of(*TINY, "method.final_ratio=0.5"), "data", "weights")
    assert [a == b for a, b in zip(keys, late, strict=True)] == [True] * 3 + [False] * 2


# VGG16 has dropout, whose random numbers seeds that train together must not share.
DROPOUT = ["model=vgg16", *TINY[1:2], "dataset.train_images=64", "dataset.test_images=20"]
DROPOUT += ["model.budget_epochs=2", "model.swa_start=1", "optimizer.batch_size=24"]


def test_dropout_is_drawn_anew_each_epoch(tmp_path: Path, swa_train: SwaTrain) -> None:
    """VGG16 in one go, and in two: what the process drew before must not matter."""
    assert swa_train(*DROPOUT, "budget=1.5", "results_dir=one").code == 0
    assert swa_train(*DROPOUT, "budget=1", "results_dir=two").code == 0
    torch.rand(5)
    assert "Going on after epoch 2" in swa_train(*DROPOUT, "budget=1.5", "results_dir=two").err
    assert cells(tmp_path / "one") == cells(tmp_path / "two")


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
    both, alone = cells(tmp_path / "together"), cells(tmp_path / "alone")
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

    monkeypatch.setattr(walk, "fresh_model", broken_for_seed_0)
    outcome = swa_train(*TINY, "method=sgd", "seeds_together=2")
    assert outcome.code == 1
    assert "training loss of epoch 1 is nan (preresnet20, seed 0" in outcome.err
    (name,) = cells(tmp_path / "results")
    assert name.startswith("sgd-seed1-")
    (noted,) = tmp_path.rglob("traceback.txt")
    assert noted.parent.name.startswith("sgd-seed0-")


def test_the_store_keeps_within_its_limit(tmp_path: Path, swa_train: SwaTrain) -> None:
    """A state of this net is about 2.2 MB; those of seed 0 are older than seed 1's."""
    assert swa_train(*SWA).code == 0
    outcome = swa_train(*SWA, "seed=1", "checkpoints.max_gb=0.004")
    assert outcome.code == 0, outcome.err
    assert "checkpoints.max_gb=0.004: deleted" in outcome.err
    left = list((tmp_path / "results").rglob("*.pt"))
    assert [path.name[:16] for path in left] == ["seed1-epoch0006-"]
    size = sum(path.stat().st_size for path in left) / 1e9
    assert f"Checkpoints: {size:.2f} GB in results/runs (checkpoints.max_gb=0.004)" in outcome.err
    assert size < 0.004


def test_a_shorter_run_takes_no_epochs_away(tmp_path: Path, swa_train: SwaTrain) -> None:
    assert swa_train(*SWA).code == 0
    before = epochs(tmp_path / "results")
    assert swa_train(*TINY, "budget=0.75").code == 0
    pd.testing.assert_frame_equal(
        epochs(tmp_path / "results").drop(columns="seconds"), before.drop(columns="seconds")
    )


def test_a_changed_schedule_is_another_walk(
    tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working folder holds a schedule; its code changes, its YAML does not."""
    folder = tmp_path / "my" / "schedule"
    folder.mkdir(parents=True)
    (folder / "step.yaml").write_text("_target_: step_rates.step\nfirst: ${model.learning_rate}\n")
    code = "def step(epoch, step, steps_per_epoch, *, first):\n    return first * {drop} ** epoch\n"
    arguments = ["--config-dir", "my", *TINY, "method=sgd", "schedule=step"]
    weights = []
    for drop in ("0.5", "0.1"):
        (tmp_path / "step_rates.py").write_text(code.format(drop=drop))
        monkeypatch.delitem(sys.modules, "step_rates", raising=False)
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        outcome = swa_train(*arguments)
        assert outcome.code == 0, outcome.err
        assert "Finished already" not in outcome.err
        (record,) = cells(tmp_path / "results").values()
        weights.append(record["result"]["weights_sha256"])
    assert weights[0] != weights[1]
    assert record["variant"]["schedule.first"] == 0.1
    assert list(epochs(tmp_path / "results", "sgd")["learning_rate"]) == pytest.approx(
        [0.1, 0.01, 0.001, 0.0001]
    )


def test_a_users_own_model_file_is_held_against_the_shipped_one(
    tmp_path: Path, swa_train: SwaTrain
) -> None:
    folder = tmp_path / "my" / "model"
    folder.mkdir(parents=True)
    recipe = (Path(__file__).parent.parent / "conf" / "model" / "preresnet20.yaml").read_text()
    (folder / "mine.yaml").write_text(recipe.replace("weight_decay: 3e-4", "weight_decay: 1e-2"))
    assert swa_train("--config-dir", "my", "model=mine", *TINY[1:], "method=sgd").code == 0
    (record,) = cells(tmp_path / "results").values()
    assert record["variant"]["model.weight_decay"] == 0.01


def test_cyclical_swa_averages_at_the_ends_of_cycles(tmp_path: Path, swa_train: SwaTrain) -> None:
    """Cycles of 2 epochs of 3 steps that end with epochs 3 and 5; the rate falls 0.05 -> 0.01."""
    assert swa_train(*TINY, "method=swa_cyclic", "budget=1.25").code == 0
    rows = epochs(tmp_path / "results", "swa_cyclic")
    assert list(rows["n_averaged"]) == [0, 0, 1, 1, 2]
    # At each epoch's last step: half a cycle, then a whole one.
    assert list(rows["learning_rate"]) == pytest.approx([0.1, 0.03, 0.01, 0.03, 0.01])


def test_cifar100_through_the_command(
    tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_archive(tmp_path / "data", monkeypatch)
    small = ["dataset=cifar100", "dataset.source=local", "dataset.train_images=200"]
    small += ["dataset.test_images=100", "model=preresnet20", "model.budget_epochs=1"]
    outcome = swa_train(*small, "method=sgd")
    assert outcome.code == 0, outcome.err
    assert "preresnet20 (278,132 parameters) on cifar100" in outcome.err
    (record,) = cells(tmp_path / "results").values()
    assert record["config"]["dataset"]["classes"] == 100
