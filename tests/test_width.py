"""The width of optima: geometry, measures at known points, the distance to a level, the figures."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from record_helpers import write_record
from training_helpers import TINY_NET, SwaTrain

from swa_bench.analysis import landscape, restore
from swa_bench.analysis import width as measuring
from swa_bench.commands import width
from swa_bench.errors import SwaBenchError
from swa_bench.reporting import width_figures
from swa_bench.results.reach import describe, first_crossing, reach
from swa_bench.results.record import read_records
from swa_bench.results.widths import read_width, write_width
from swa_bench.training import evaluation
from swa_bench.training.batch_norm import recompute_batch_norm

# Budgets of 4 epochs of 3 steps; SWA collects 2 models, Snapshot 4.
SHORT = ["dataset=cifar10_mini", "dataset.train_images=96", "dataset.test_images=50"]
SHORT += ["batch_size=32", "model.budget_epochs=4", "model.swa_start=3"]
SMALL = ["--directions", "2", "--distance", "8", "--steps", "4", "--grid", "5"]
SMALL += ["--line-points", "7", "--images", "96", "--device", "cpu", "--trust"]
FOLDER = Path("results/runs/cifar10_mini/tiny")
WIDTHS = sorted(Path(__file__).parents[1].glob("results/shipped/*/width/*-seed0.json"))
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
    swa = ["method=swa,snapshot", "method.cycle_epochs=1", "budget=1"]
    assert swa_train("-m", *options, *swa).code == 0
    shutil.copytree("results", trained / "results")
    width.swa_width([str(FOLDER), *SMALL, "--level", "91"])
    printed = capfd.readouterr().out
    assert printed.count("distance to a test error of 91 %") == 3
    (folder,) = (tmp_path / "results/width").glob("cifar10_mini-tiny-seed0-*")
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
    assert rays["options"] == {"directions": 2, "direction_seed": 0, "distance": 8.0, "steps": 4}
    pictures = [folder / name for name in ("rays-level-91.png", "line.png", "plane.png")]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in pictures)
    pictures[1].unlink()
    width.swa_width(["--redraw", str(folder / "width.json"), "--level", "95.5"])
    assert pictures[0].exists() and pictures[1].exists()
    assert (folder / "rays-level-95.5.png").exists()
    assert json.loads((folder / "width.json").read_text()) == found
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
    test = evaluation.score(*evaluation.predict(restored.model, data.test_batches(50), plain))
    train = evaluation.score(*evaluation.predict(restored.model, fixed, plain))
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
    placed, to_device = [], restore.to_device
    monkeypatch.setattr(restore, "to_device", lambda *of: placed.append(of) or to_device(*of))
    width.swa_width([str(FOLDER), *SMALL, "--parts", "plane", "--members", str(path)])
    (written,) = Path("results/width").rglob("width.json")
    found = json.loads(written.read_text())
    assert found["plane"]["labels"] == ["epoch 1", "epoch 3", "epoch 4"]
    assert len(placed) == 1  # the data set of five networks
    assert "rays" not in found and "line" not in found


def test_what_is_measured_is_kept(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Ctrl-C leaves the parts that are done, and no part is measured twice or replaced unasked."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "results", "results")
    command = [str(FOLDER), *SMALL, "--parts", "rays", "line"]
    with monkeypatch.context() as interrupted, pytest.raises(SystemExit) as stop:
        interrupted.setattr(landscape, "line", made_to_raise(KeyboardInterrupt()))
        width.swa_width(command)
    assert stop.value.code == 130
    (path,) = Path("results/width").rglob("width.json")
    rays = read_width(path)["rays"]
    assert "line" not in read_width(path)
    monkeypatch.setattr(landscape, "rays", made_to_raise(AssertionError("measured again")))
    width.swa_width(command)
    assert read_width(path)["rays"] == rays and read_width(path)["line"]["t"][0] == -1
    width.swa_width([*command, "--level", "97"])
    assert path.with_name("rays-level-97.png").exists() and path.with_name("rays.png").exists()
    with pytest.raises(SystemExit, match=r"measured with --distance 8.0: --force replaces it"):
        width.swa_width([*command, "--distance", "9"])
    with pytest.raises(AssertionError, match="measured again"):
        width.swa_width([*command, "--distance", "9", "--force"])
    assert read_width(path)["rays"] == rays
    (cell,) = FOLDER.glob("sgd-seed0-*/cell-1.json")
    with pytest.raises(SystemExit, match=r"No plane of SGD, SWA, third: the three points lie on"):
        width.swa_width([str(FOLDER), *SMALL, "--third", str(cell)])
    assert list(Path("results/width").rglob("width.json")) == [path]


def made_to_raise(error: BaseException) -> Any:
    def fail(*arguments: Any) -> None:
        raise error

    return fail


def test_a_record_that_cannot_be_written_is_in_a_temporary_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SwaBenchError, match="what was measured is in") as stop:
        write_width(tmp_path / "file" / "width.json", {"rays": [1.5]})
    spare = Path(str(stop.value).rpartition(" is in ")[2])
    assert json.loads(spare.read_text()) == {"rays": [1.5]}
    shutil.rmtree(spare.parent)


def made_pair(folder: Path) -> list[str]:
    """Records of SGD and SWA with errors of 6.75 and 5 %, and options that name them."""
    sgd = write_record(folder)
    swa = write_record(folder, method="swa", budget=1.5, error=5.0)
    return ["--sgd", str(sgd), "--swa", str(swa), "--third", str(sgd)]


@pytest.mark.parametrize("level", ["6.75", "101", "nan"])
def test_a_level_that_no_ray_reaches_is_refused_before_measuring(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [str(tmp_path), *made_pair(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        width.swa_width([*command, "--level", level])
    message = str(stop.value)
    assert message.startswith(f"swa-width: --level {level}: choose a test error above 6.75 %")
    assert message.endswith("the networks themselves have SGD 6.75 %, SWA 5.00 %")


def test_of_several_recipes_each_is_listed_with_what_differs(tmp_path: Path) -> None:
    config = {"model": {"learning_rate": 0.05}}
    first = write_record(tmp_path, config=config)
    diff = {"model.learning_rate": 0.1}
    second = write_record(tmp_path, recipe_hash="0123456789ff", recipe_diff=diff)
    with pytest.raises(SystemExit) as stop:
        width.swa_width([str(tmp_path)])
    assert str(stop.value).splitlines() == [
        f"swa-width: {tmp_path} has several runs of sgd: name one with --sgd",
        f"  {first}  model.learning_rate=0.05",
        f"  {second}  model.learning_rate=0.1",
    ]


def test_without_batch_norm_a_network_at_no_distance_is_that_of_its_record(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    options = [*TINY_NET, *SHORT, "+model.arguments.norm=false"]
    options += ["model.budget_epochs=1", "model.swa_start=1", "budget=1"]
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
    said = describe({"rays": rays}, 85.0)
    assert said[1] == "distance to a test error of 85 %, SWA: not within 4 in 2 of 2 directions"
    # An error that starts at the level does not reach it.
    start = reach(rays, 10.0)
    assert (start["sgd"]["reached"], start["sgd"]["mean"]) == (0, None)
    said = describe({"rays": rays}, 10.0)
    assert said[0] == "distance to a test error of 10 %, SGD: none, since it starts at 10.00 %"
    # Where all directions cross at one distance, the interval is that point.
    level = {"test_error_pct": [[10, 20, 40, 60, 80]] * 2}
    same = reach(rays | {"sgd": level, "swa": level}, 30.0)
    assert same["sgd"]["interval"] == [1.5, 1.5] and same["difference"]["interval"] == [0, 0]
    assert np.isnan(first_crossing(np.arange(2.0), np.array([1.0, np.nan]), 2.0))


def test_rays_are_drawn_with_the_papers_loss() -> None:
    """Cross-entropy 1 and 2, squared norms 4 and 6, weight decay 0.5: 1 + 1 and 2 + 1.5."""
    of = {"test_error_pct": [[9.0, 99.0]], "train_loss": [[1.0, 2.0]], "squared_norm": [[4, 6]]}
    rays = {"distances": [0, 1], "sgd": of, "swa": of}
    figure = Figure()
    width_figures.draw_rays(figure, {"weight_decay": 0.5, "rays": rays}, 50.0)
    error, loss = figure.axes
    assert [list(curve.get_ydata()) for curve in loss.lines] == [[2.0, 3.5]] * 2
    assert [list(curve.get_ydata()) for curve in error.lines[:2]] == [[9.0, 99.0]] * 2
    assert error.get_ylabel() == "test error in %" and error.lines[2].get_label() == "level 50 %"


def test_contours_are_at_round_numbers_that_hold_all_values() -> None:
    """The two gaps beside 48.6 are 0.7 and 0.8, so it is rounded to halves: 48.5."""
    ranks = [47.9, 48.6, 49.4, 51.0, 52.6, 55.9, 59.3, 61.9]  # of 21 values, as RANKS has them
    levels = width_figures.round_levels(np.interp(range(21), [0, 1, 3, 6, 9, 12, 16, 20], ranks))
    assert levels.tolist() == [47.5, 48.5, 49.5, 51.0, 53.0, 56.0, 60.0, 62.0]
    assert width_figures.round_levels(np.array([np.nan, 3.0])).tolist() == [2.5, 3.5]


@pytest.mark.parametrize("path", WIDTHS, ids=lambda path: path.stem)
def test_the_labels_of_a_plane_are_clear_of_its_triangle_and_in_its_frame(path: Path) -> None:
    found = read_width(path)
    figure = Figure(figsize=(9, 4.7), layout="constrained")
    width_figures.draw_plane(figure, found)
    figure.canvas.draw()
    for axes in figure.axes[:2]:
        places = axes.transData.transform(found["plane"]["places"])
        for place, text in zip(places, axes.texts, strict=True):
            box, frame = text.get_window_extent(), axes.get_window_extent()
            assert frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 < frame.y1
            assert not any(box.contains(*corner) for corner in places)
            assert box.y1 < place[1] if place[1] == min(places[:, 1]) else box.y0 > place[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], ".: no record of sgd, seed 0, budget 1: name one with --sgd"),
        (["--redraw", "nowhere.json"], "nowhere.json is no record of swa-width"),
        (["--members", "x.json", "--sgd", "a", "--swa", "b"], "a: no sound record is there"),
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


def test_networks_of_one_method_are_told_apart_by_budget_or_seed(tmp_path: Path) -> None:

    one, longer, other = (
        write_record(tmp_path, budget=budget, seed=seed)
        for budget, seed in ((1.0, 0), (1.5, 0), (1.0, 1))
    )
    swa = write_record(tmp_path, method="swa")
    assert measuring._labels(one, swa) == ["SGD", "SWA"]
    assert measuring._labels(one, longer) == ["SGD 1", "SGD 1.5"]
    assert measuring._labels(one, other) == ["SGD 1, seed 0", "SGD 1, seed 1"]
