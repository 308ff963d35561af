"""Ensembles: of the models that a run collects, and of whole runs; metrics of predictions."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import mini_images
from training_helpers import TINY_NET, SwaTrain, TinyNet

from swa_bench.commands.records import swa_figures, swa_tables
from swa_bench.training.averaging import add_member, mean_of_sum
from swa_bench.training.evaluation import calibration_error_pct

# Budgets of 5 epochs: SGD's first 4, then one cycle's first half: FGE has its first member after
# epoch 5; SWA (from epoch 3 on) and Snapshot (every epoch) collect 3 and 5 models.
SHORT = [*TINY_NET, "dataset=cifar10_mini", "dataset.test_images=100", "model.budget_epochs=5"]
SHORT += ["model.swa_start=3", "checkpoints.every_s=0", "dataset.train_images=160"]
SHORT += ["batch_size=32"]
LABELS = np.tile(np.arange(10), 10)  # of the first 100 test images: the classes in turn


def record(method: str, budget: str = "1", seed: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    (path,) = Path("results").rglob(f"{method}-seed{seed}-*/cell-{budget}.json")
    predictions: np.ndarray = np.load(path.with_name(f"predictions-{budget}.npy"))
    return json.loads(path.read_text()), predictions


def rows(method: str, seed: int = 0) -> pd.DataFrame:
    (path,) = Path("results").rglob(f"{method}-seed{seed}-*/epochs.csv")
    return pd.read_csv(path)


def assert_scored(result: dict[str, Any], probabilities: np.ndarray) -> None:
    """Error, loss and calibration of a record, by independent formulae."""
    right = probabilities[np.arange(100), LABELS]
    assert result["test_loss"] == pytest.approx(-np.log(right).mean(), rel=1e-5)
    wrong = probabilities.argmax(1) != LABELS
    assert result["test_error_pct"] == pytest.approx(100 * wrong.mean())
    confidence, ece = probabilities.max(1), 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gap = abs((~wrong[inside]).mean() - confidence[inside].mean())
            ece += inside.mean() * gap
    assert result["test_ece_pct"] == pytest.approx(100 * ece, abs=1e-3)


def test_independent_runs_are_trained_once_and_averaged(swa_train: SwaTrain) -> None:
    assert swa_train(*SHORT, "method=sgd", "seed=1").code == 0
    outcome = swa_train(*SHORT, "method=independent", "budget=3", "seed=1")
    assert outcome.code == 0, outcome.err
    assert "sgd seed 0  epoch 5/5" in outcome.out and "sgd seed 2  epoch 5/5" in outcome.out
    assert "sgd seed 1 epoch" not in outcome.out
    alone = [record("sgd", seed=seed) for seed in range(3)]
    probabilities = [np.exp(predictions.astype(float)) for _, predictions in alone]
    assert all(p.sum(1) == pytest.approx(1.0, abs=1e-5) for p in probabilities)
    for one, p in zip(alone, probabilities, strict=True):
        assert_scored(one[0]["result"], p)
    both, _ = record("independent", "2")
    assert_scored(both["result"], (probabilities[0] + probabilities[1]) / 2)
    three, _ = record("independent", "3")
    assert_scored(three["result"], sum(probabilities) / 3)
    assert three["result"]["n_averaged"] == len(three["runs"]) == 3
    for seed in range(3):
        single, _ = record("independent", seed=seed)
        assert single["result"]["test_error_pct"] == alone[seed][0]["result"]["test_error_pct"]
    # Nothing is trained or written again; a lost file of predictions comes from the checkpoint.
    (path,) = Path("results").rglob("independent-seed0-*/cell-3.json")
    written = path.stat().st_mtime_ns
    (lost,) = Path("results").rglob("sgd-seed2-*/predictions-1.npy")
    lost.unlink()
    again = swa_train(*SHORT, "method=independent", "budget=3")
    assert again.code == 0 and " epoch 1/5" not in again.out
    assert lost.exists() and path.stat().st_mtime_ns == written


def test_the_methods_of_one_path_share_it(swa_train: SwaTrain) -> None:
    """SGD leaves its state at 80 %; FGE goes on from it; SWA over its members trains nothing."""
    assert swa_train(*SHORT, "method=sgd").code == 0
    fge = swa_train(*SHORT, "method=fge", "checkpoints.keep=collected")
    assert fge.code == 0, fge.err
    assert "Going on after epoch 4" in fge.err
    found, predictions = record("fge")
    assert found["result"]["n_averaged"] == 1
    assert_scored(found["result"], np.exp(predictions.astype(float)))
    last = rows("fge").iloc[-1]
    assert last["ensemble_test_error_pct"] == last["test_error_pct"]  # of the one member
    average = swa_train(*SHORT, "method=swa_fge")
    assert "Going on after epoch 5" in average.err and " epoch 1/5" not in average.out
    averaged, _ = record("swa_fge")
    assert averaged["result"]["test_error_pct"] == last["swa_test_error_pct"]
    swa_tables(["--out", "tables"])
    swa_figures(["--out", "figures"])
    kinds = ("", "-ensembles", "-calibration")
    assert all(Path(f"tables/cifar10_mini{kind}.md").exists() for kind in kinds)
    row = next(
        r for r in Path("tables/cifar10_mini-ensembles.md").read_text().splitlines() if "ours" in r
    )
    shown = [f"{record(m)[0]['result']['test_error_pct']:.2f}" for m in ("fge", "swa_fge", "sgd")]
    assert [cell.split()[0] for cell in row.split("|")[3:-1] if "no runs" not in cell] == shown
    assert not list(Path("figures").glob("*-collected.png"))  # one member is no curve


def test_recomputing_statistics_alone_leaves_the_weights(swa_train: SwaTrain) -> None:
    outcome = swa_train(
        *SHORT, "method=sgd", "also_train=[sgd_bn]", "checkpoints.keep_for=[sgd_bn]"
    )
    assert outcome.code == 0, outcome.err
    assert "Going on after epoch 4" in outcome.err
    (sgd, before), (recomputed, after) = record("sgd"), record("sgd_bn")
    assert recomputed["result"]["last_weights"]["test_loss"] == sgd["result"]["test_loss"]
    assert recomputed["result"]["n_averaged"] == 1
    assert not np.allclose(before, after)


def test_members_are_averaged_one_by_one(swa_train: SwaTrain) -> None:
    """Snapshot's five members, from the states that are kept of them."""
    assert swa_train(*SHORT, "method=snapshot", "checkpoints.keep=collected").code == 0
    found, predictions = record("snapshot")
    model = TinyNet(10)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in _normalisation(found))
    pixels = torch.tensor(mini_images().test_images[:100]).permute(0, 3, 1, 2)
    images = (pixels.float() / 255 - mean) / std
    members = []
    for path in sorted(Path("results").rglob("checkpoints/seed0-epoch*.pt")):
        model.load_state_dict(torch.load(path, weights_only=True)["model"])
        with torch.no_grad():
            members.append(model.eval()(images).softmax(1).double().numpy())
    assert len(members) == found["result"]["n_averaged"] == 5
    assert np.exp(predictions) == pytest.approx(sum(members) / 5, abs=1e-5)
    errors = rows("snapshot")["ensemble_test_error_pct"]
    for k in range(1, 6):
        guess = sum(members[:k]).argmax(1)
        assert errors[k - 1] == pytest.approx(100 * (guess != LABELS).mean(), abs=1.01)  # ties
    assert_scored(found["result"], sum(members) / 5)
    swa_tables(["--out", "tables"])
    swa_figures(["--out", "figures"])
    row = f"Snapshot, ensemble | {errors[0]:.2f} (n=1)"
    assert row in " ".join(Path("tables/cifar10_mini-collected.md").read_text().split())
    assert len(list(Path("figures").glob("*-collected.png"))) == 1


def _normalisation(found: dict[str, Any]) -> tuple[list[float], list[float]]:
    normalisation = found["config"]["model"]["normalisation"]
    return normalisation["mean"], normalisation["std"]


def test_a_killed_ensemble_goes_on_with_its_members(swa_train: SwaTrain, tmp_path: Path) -> None:
    """From the state after each epoch, the same predictions as without a break."""
    assert swa_train(*SHORT, "method=snapshot", "checkpoints.keep=collected").code == 0
    found, whole = record("snapshot")
    for path in tmp_path.rglob("checkpoints/seed0-epoch000[45]-*.pt"):
        path.unlink()
    for path in tmp_path.rglob("snapshot-seed0-*/cell-1.json"):
        path.unlink()
    again = swa_train(*SHORT, "method=snapshot")
    assert "Going on after epoch 3" in again.err
    resumed, predictions = record("snapshot")
    assert (predictions == whole).all()
    assert resumed["result"] == found["result"]


def test_dry_run_of_an_ensemble_shows_its_run(swa_train: SwaTrain, tmp_path: Path) -> None:
    outcome = swa_train("method=fge", "budget=3", "dry_run=csv")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert len(lines) == 201
    assert lines[161].startswith("161,0.0101") and lines[161].endswith(",1,")
    assert not (tmp_path / "results").exists()


def test_metrics_by_hand() -> None:
    """Four predictions in three bins: gaps 0.5 - 0.6 (twice), 1 - 0.9, 0 - 0.95."""
    probabilities = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.95, 0.05]])
    labels = torch.tensor([0, 1, 1, 1])
    expected = (2 * 0.1 + 0.1 + 0.95) / 4  # bins 9, 14 and 15 of 15: 0.9 and 0.95 lie apart
    found = calibration_error_pct(probabilities.log(), labels)
    assert found == pytest.approx(100 * expected, abs=1e-4)


def test_twenty_members_that_are_certain_and_right_are_calibrated() -> None:
    """The logarithm of their mean is a rounding error above 0. The other image's gap is 0.4."""
    total, one = None, torch.tensor([[0.0, -2000.0], [math.log(0.6), math.log(0.4)]])
    for _ in range(20):
        total = add_member(total, one)
    mean = mean_of_sum(total, 20)
    assert mean[0, 0] > 0
    assert calibration_error_pct(mean, torch.tensor([0, 0])) == pytest.approx(100 * 0.4 / 2)


def test_certain_members_leave_a_finite_mean() -> None:
    """Probabilities that no float holds: e^-2000 and 1 average to 1/2."""
    total = add_member(None, torch.tensor([[-2000.0, 0.0]]))
    mean = mean_of_sum(add_member(total, torch.tensor([[0.0, -2000.0]])), 2)
    assert mean.tolist() == [pytest.approx([-math.log(2)] * 2)]
