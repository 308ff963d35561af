"""States on disk: what is in their keys, damaged, foreign and left over ones, a limit of size."""

import hashlib
import importlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import (
    SHORT_RECIPE,
    TINY,
    SwaTrain,
    TinyNet,
    checkpoint_of,
    epochs_of,
    plan_of,
    records_of,
)

from swa_bench.errors import SwaBenchError
from swa_bench.training import checkpoints, hardware
from swa_bench.training.averaging import make_predictors

SWA = [*TINY, "budget=1.5"]
PRERESNET20 = ["model=preresnet20", *SHORT_RECIPE, "budget=1"]


def store_as(path: Path, content: Any) -> Path:
    """Write a state under the name of another, with its own digest, and delete that one."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    changed = path.with_name(f"{path.stem.rsplit('-', 1)[0]}-{sha256}.pt")
    changed.write_bytes(buffer.getvalue())
    path.unlink()
    return changed


def fresh_state() -> checkpoints.State:
    model = TinyNet(10)
    predictors = make_predictors(plan_of(*TINY).config)
    return checkpoints.State(model, torch.optim.SGD(model.parameters(), lr=0.1), predictors)


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
    assert records_of(tmp_path / "results") == records_of(undisturbed)


def test_a_state_left_by_a_run_that_tested_less_is_tested(
    tmp_path: Path, swa_train: SwaTrain, undisturbed: Path
) -> None:
    """A state of epoch 5 without test figures, from which the budget of 1.25 is recorded."""
    seldom = ["evaluation.every=99", "evaluation.average_every=99", "report_budgets=[1]"]
    assert swa_train(*TINY, "budget=1.25", *seldom).code == 0
    (record,) = (tmp_path / "results").rglob("cell-1.25.json")
    path = checkpoint_of(tmp_path / "results", 5)
    stored = torch.load(path, weights_only=True)
    stored["rows"][-1] |= dict.fromkeys(("test_loss", "swa_test_loss"))
    store_as(path, stored)
    record.unlink()
    assert swa_train(*SWA).code == 0
    results = {name: one["result"] for name, one in records_of(tmp_path / "results").items()}
    assert results == {name: one["result"] for name, one in records_of(undisturbed).items()}


def test_a_state_of_version_0_1_is_gone_on_from(
    tmp_path: Path, swa_train: SwaTrain, undisturbed: Path
) -> None:
    """It held the average and the ensemble by names of their own, and segments as origins."""
    assert swa_train(*TINY, "budget=1").code == 0
    path = checkpoint_of(tmp_path / "results", 4)
    now = torch.load(path, weights_only=True)
    (n_averaged, average), (_, ensemble) = (now["predictors"][n] for n in ("swa", "ensemble"))
    old = {name: now[name] for name in ("epoch", "model", "optimizer", "rows")}
    old |= {"average": average, "n_averaged": n_averaged, "ensemble": ensemble}
    store_as(path, old | {"origins": now["segments"]})
    more = swa_train(*SWA)
    assert "Going on after epoch 4" in more.err
    assert records_of(tmp_path / "results") == records_of(undisturbed)


def test_leftovers_of_killed_writers_go(tmp_path: Path, swa_train: SwaTrain) -> None:
    assert swa_train(*TINY, "method=sgd").code == 0
    (folder,) = (tmp_path / "results").rglob("checkpoints")
    name = f".seed0-epoch0003-{'a' * 16}-{'b' * 16}.pt"
    old, new = (folder / f"{name}.{writer}.part" for writer in ("00000000", "11111111"))
    foreign, link = folder / ".movie.mp4.part", folder / f"{name}.22222222.part"
    for path in (old, new, foreign):
        path.touch()
    link.symlink_to(foreign)
    for path in (old, foreign, link):
        os.utime(path, (0, 0), follow_symlinks=False)
    assert swa_train(*TINY, "method=swa").code == 0
    assert [path.exists() for path in (old, new, foreign)] == [False, True, True]
    assert link.is_symlink()


def test_a_foreign_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
            return (Path(tmp_path / "ran").touch, ())

    state = fresh_state()
    good = checkpoints.save(tmp_path, 0, "a" * 16, state)
    evil = tmp_path / f"seed0-epoch0001-{'b' * 16}-x.pt"
    evil.touch()
    store_as(evil, {"epoch": Payload()})
    with pytest.raises(SwaBenchError, match=r"epoch0001-b.* is whole but not of this version"):
        checkpoints.load_newest(tmp_path, ["a" * 16, "b" * 16], state)
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


def test_a_changed_schedule_is_another_run(
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
        (record,) = records_of(tmp_path / "results").values()
        weights.append(record["result"]["weights_sha256"])
    assert weights[0] != weights[1]
    assert record["recipe_diff"]["schedule.first"] == 0.1
    assert list(epochs_of(tmp_path / "results", "sgd")["learning_rate"]) == pytest.approx(
        [0.1, 0.01, 0.001, 0.0001]
    )


def test_a_disk_that_refuses_leaves_what_was(
    tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system fails after the fifth step, in that checkpoint: the fourth stays usable."""
    calls = []
    original = os.fsync

    def full(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if ".pt" in name:
            calls.append(name)
            if len(calls) >= 6:  # one is of the whole first epoch
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
    assert "Going on after step 1 of epoch 2" in again.err


def test_the_store_keeps_within_its_limit(tmp_path: Path, swa_train: SwaTrain) -> None:
    """Room for not quite two states; those of seed 0 are older than seed 1's."""
    assert swa_train(*SWA).code == 0
    size_gb = checkpoint_of(tmp_path, 6).stat().st_size / 1e9
    limit = f"checkpoints.max_gb={1.9 * size_gb:.4g}"
    outcome = swa_train(*SWA, "seed=1", limit)
    assert outcome.code == 0, outcome.err
    assert f"{limit}: deleted" in outcome.err
    left = list((tmp_path / "results").rglob("*.pt"))
    assert [path.name[:16] for path in left] == ["seed1-epoch0006-"]
    size = sum(path.stat().st_size for path in left) / 1e9
    assert f"Checkpoints: {size:.2f} GB in results/runs ({limit})" in outcome.err
    assert size < 1.9 * size_gb


SHAPING = [
    "model=vgg16",
    "model.normalisation.mean=[0.5,0.5,0.5]",
    "seed=1",
    "precision=auto",
    "channels_last=false",
    "compile=true",
    "optimizer.momentum=0.8",
    "optimizer.weight_decay=0.1",
    "optimizer._target_=torch.optim.AdamW",
    "batch_size=64",
    "augmentation.flip=false",
    "augmentation.padding_mode=reflect",
    "dataset.image_size=28",
    "model._target_=swa_bench.models.vgg.VGG",
    "method=ema",
]


@pytest.mark.parametrize("option", SHAPING)
def test_what_shapes_a_state_is_in_its_key(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "native_precisions", lambda device: ["fp32", "bf16"])
    usual, changed = plan_of(*PRERESNET20), plan_of(*PRERESNET20, option)
    assert usual.state_keys("data", "weights")[0] != changed.state_keys("data", "weights")[0]


def test_data_and_rates_are_in_the_keys_and_what_does_not_shape_is_not() -> None:
    plan = plan_of(*PRERESNET20)
    keys = plan.state_keys("data", "weights")
    assert plan.state_keys("other data", "weights")[0] != keys[0]
    assert plan.state_keys("data", "other weights")[0] != keys[0]
    other = ["evaluation.every=3", "results_dir=x", "checkpoints.every_s=9", "budget=1.5"]
    assert plan_of(*PRERESNET20, *other).state_keys("data", "weights")[:5] == keys
    late = plan_of(*PRERESNET20, "method.final_ratio=0.5").state_keys("data", "weights")
    assert [a == b for a, b in zip(keys, late, strict=True)] == [True] * 3 + [False] * 2
