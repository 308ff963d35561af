"""The width of optima: geometry, measures at known points, the distance to a level, the figures."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from training_helpers import TINY_NET, SwaTrain

from swa_bench.analysis import landscape, restore
from swa_bench.commands import width
from swa_bench.reporting import width_figures
from swa_bench.results.record import read_records
from swa_bench.results.widths import describe, first_crossing, reach
from swa_bench.training import evaluation
from swa_bench.training.batch_norm import recompute_batch_norm

# Budgets of 4 epochs of 3 steps; SWA collects 2 models, Snapshot 4.
SHORT = ["dataset=cifar10_mini", "dataset.train_images=96", "dataset.test_images=50"]
SHORT += ["batch_size=32", "model.budget_epochs=4", "model.swa_start=3"]
SMALL = ["--directions", "2", "--distance", "8", "--steps", "4", "--grid", "5"]
SMALL += ["--line-points", "7", "--images", "96", "--device", "cpu", "--trust"]
FOLDER = Path("results/runs/cifar10_mini/tiny")
EVERY = [*landscape.MEASURES]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test keeps its results for the others."""
    return tmp_path_factory.mktemp("trained")


def test_rays_line_and_plane_of_trained_networks(
    swa_train: SwaTrain, tmp_path: Path, trained: Path, capfd: Any
) -> None:
    options = [*SHORT, *TINY_NET, "checkpoints.keep=collected"]
    assert swa_train(*options, "method=sgd").code == 0
    assert swa_train("-m", *options, "method=swa,snapshot", "method.cycle_epochs=1").code == 0
    shutil.copytree("results", trained / "results")
    width.swa_width([str(FOLDER), *SMALL, "--level", "91"])
    printed = capfd.readouterr().out
    assert printed.count("distance to a test error of 91 %") == 3
    folder = tmp_path / "results/width/cifar10_mini-tiny-seed0"
    found = json.loads((folder / "width.json").read_text())
    rays, line, plane = (found[part] for part in width.PARTS)
    assert [len(rays["swa"]["test_loss"]), len(rays["swa"]["test_loss"][0])] == [2, 5]
    assert rays["distances"] == [0, 2, 4, 6, 8] and line["t"] == [-1, -0.5, 0, 0.5, 1, 1.5, 2]
    for name in EVERY:  # one network is one network, on whichever path it is met
        at_sgd, at_swa = rays["sgd"][name][0][0], rays["swa"][name][0][0]
        assert rays["sgd"][name][1][0] == at_sgd == line[name][2]
        assert at_swa == line[name][4]
    # A step of 8 in a random direction, orthogonal to the weights but for chance: |w|^2 + 64.
    gained = np.array(rays["sgd"]["squared_norm"])[:, 4] - rays["sgd"]["squared_norm"][0][0]
    assert gained == pytest.approx([64, 64], abs=5)
    networks = [(n["method"], n["seed"], n["epoch"]) for n in found["networks"]]
    assert networks == [("sgd", 0, None), ("swa", 0, None), ("swa", 0, 4)]
    places = np.array(plane["places"])
    assert np.linalg.norm(places[1] - places[0]) == pytest.approx(line["distance"], rel=1e-5)
    assert np.array(plane["test_error_pct"]).shape == (5, 5)
    pictures = [folder / f"{part}.png" for part in width.PARTS]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in pictures)
    pictures[0].unlink()
    width.swa_width(["--redraw", str(folder / "width.json")])
    assert pictures[0].exists()
    (cell,) = FOLDER.glob("sgd-seed0-*/cell-1.json")
    with pytest.raises(SystemExit, match=r"cell-1.json is no record of swa-width"):
        width.swa_width(["--redraw", str(cell)])


def test_a_point_has_the_statistics_and_the_loss_of_the_fixed_pass(trained: Path) -> None:
    """Against the recomputation of statistics in training and evaluation, in two passes."""
    (path,) = (trained / FOLDER).glob("swa-seed0-*/cell-1.json")
    restored = restore.restore(path, restore.User(trust=True))
    probe = landscape.Probe(restored, images=96)
    weights = landscape.flat(restored.model)
    assert not probe.at(weights * np.inf).isfinite().all()  # and this leaves no trace
    measured = dict(zip(EVERY, probe.at(weights).tolist(), strict=True))
    data, plain = restored.data, torch.autocast("cpu", enabled=False)
    fixed = list(data.train_batches(data.draw(0, 4, "recompute"), 96))
    recompute_batch_norm(restored.model, fixed, plain)
    test = evaluation.evaluate(restored.model, data.test_batches(50), plain)
    train = evaluation.evaluate(restored.model, fixed, plain)
    assert measured["test_loss"] == pytest.approx(test.loss, rel=1e-5)
    assert measured["test_error_pct"] == test.error_pct
    assert measured["train_loss"] == pytest.approx(train.loss, rel=1e-2)  # n / (n - 1)
    squares = sum(float(p.detach().double().square().sum()) for p in restored.model.parameters())
    assert measured["squared_norm"] == pytest.approx(squares)


def test_the_plane_of_three_collected_models_of_one_run(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "results", "results")
    (path,) = FOLDER.glob("snapshot-seed0-*/cell-1.json")
    width.swa_width([str(FOLDER), *SMALL, "--parts", "plane", "--members", str(path)])
    (written,) = Path("results/width").rglob("width.json")
    found = json.loads(written.read_text())
    assert found["plane"]["labels"] == ["epoch 1", "epoch 3", "epoch 4"]
    assert "rays" not in found and "line" not in found


def test_without_batch_norm_a_network_at_no_distance_is_that_of_its_record(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    options = [*TINY_NET, *SHORT, "+model.arguments.norm=false"]
    options += ["model.budget_epochs=1", "model.swa_start=1"]
    assert swa_train(*options, "dataset.train_images=32", "also_train=[sgd]").code == 0
    folder = "results/runs/cifar10_mini/tiny"
    width.swa_width([folder, *SMALL, "--parts", "rays", "--steps", "1", "--directions", "1"])
    (path,) = (tmp_path / "results/width").rglob("width.json")
    found = json.loads(path.read_text())
    for method in ("sgd", "swa"):
        found_records = read_records([tmp_path / "results/runs"])
        (record,) = (record for record in found_records if record.method == method)
        rays = found["rays"][method]
        assert rays["test_error_pct"][0][0] == record.result.test_error_pct
        assert rays["test_loss"][0][0] == pytest.approx(record.result.test_loss, rel=1e-6)


def test_directions_are_of_length_1_and_unlike() -> None:
    drawn = [landscape.direction(10_000, seed=3, index=index) for index in range(4)]
    assert [float(d.norm()) for d in drawn] == pytest.approx([1.0] * 4, rel=1e-6)
    assert abs(float(drawn[0] @ drawn[1])) < 0.05
    assert torch.equal(drawn[2], landscape.direction(10_000, seed=3, index=2))


def test_the_axes_of_a_plane_lead_back_to_its_points() -> None:
    random = torch.Generator().manual_seed(0)
    points = [torch.randn(50, generator=random) for _ in range(3)]
    along, across, places = landscape.plane_axes(points)
    assert float(along @ across) == pytest.approx(0.0, abs=1e-6)
    for point, (x, y) in zip(points, places, strict=True):
        assert torch.allclose(points[0] + float(x) * along + float(y) * across, point, atol=1e-5)
    with pytest.raises(ValueError, match="on a line"):
        landscape.plane_axes([points[0], points[1], 2 * points[1] - points[0]])


def test_distance_to_a_level_by_hand() -> None:
    """SGD crosses 30 % at 1.5 and 2; SWA at 2.5 and 3.5: differences 1 and 1.5, mean 1.25."""
    rays: dict[str, Any] = {
        "distances": [0, 1, 2, 3, 4],
        "sgd": {"test_error_pct": [[10, 20, 40, 60, 80], [10, 10, 30, 50, 90]]},
        "swa": {"test_error_pct": [[10, 10, 20, 40, 80], [10, 10, 10, 20, 40]]},
    }
    found = reach(rays, 30.0)
    assert (found["sgd"]["mean"], found["swa"]["mean"]) == (1.75, 3.0)
    # t(0.975; 1) = 12.7062; standard error of two values: half their difference.
    assert found["difference"]["mean"] == 1.25
    assert found["difference"]["interval"] == pytest.approx([1.25 - 3.17655, 1.25 + 3.17655], 1e-4)
    assert reach(rays, None)["level_pct"] == 20.0
    far = reach(rays, 85.0)
    assert (far["sgd"]["reached"], far["sgd"]["mean"], far["swa"]["reached"]) == (1, None, 0)
    said = describe({"rays": rays | {"reach": far}})
    assert said[1] == "distance to a test error of 85 %, SWA: not within 4 in 2 of 2 directions"
    # Where all directions cross at one distance, the interval is that point.
    assert reach(rays, 10.0)["sgd"]["interval"] == [0.0, 0.0]
    assert np.isnan(first_crossing(np.arange(2.0), np.array([1.0, np.nan]), 2.0))


def test_rays_are_drawn_with_the_papers_loss() -> None:
    """Cross-entropy 1 and 2, squared norms 4 and 6, weight decay 0.5: 1 + 1 and 2 + 1.5."""
    of = {"test_error_pct": [[9.0, 99.0]], "train_loss": [[1.0, 2.0]], "squared_norm": [[4, 6]]}
    rays = {"distances": [0, 1], "sgd": of, "swa": of, "reach": {"level_pct": 50.0}}
    figure = Figure()
    width_figures.draw_rays(figure, {"weight_decay": 0.5, "rays": rays})
    error, loss = figure.axes
    assert [list(curve.get_ydata()) for curve in loss.lines] == [[2.0, 3.5]] * 2
    assert [list(curve.get_ydata()) for curve in error.lines[:2]] == [[9.0, 99.0]] * 2
    assert error.get_ylabel() == "test error in %"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], ".: no record of sgd, seed 0: name one cell"),
        (["--redraw", "nowhere.json"], "nowhere.json is no record of swa-width"),
        (["--members", "x.json", "--sgd", "a", "--swa", "b"], "--members x.json: no sound record"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        width.swa_width(arguments)
    message = str(stop.value)
    assert message.startswith(f"swa-width: {expected}") and "\n" not in message
    assert not (tmp_path / "results").exists() or not list(tmp_path.rglob("width.json"))
