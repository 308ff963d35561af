"""The grid script: its plan, its stop without a GPU, what it starts."""

from pathlib import Path
from typing import Any

import pytest
import reproduce_tables as grid

from swa_bench.config.grid import grids
from swa_bench.errors import ConfigError, SwaBenchError


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The script in an empty folder, its calls only noted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALLOW_CPU", raising=False)
    made: list[tuple[str, ...]] = []

    def call(*command: str) -> int:
        made.append(command)
        return 0

    monkeypatch.setattr(grid, "_call", call)
    return made


@pytest.fixture
def no_cifar100(calls: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """With leave to train on a CPU, where all data sets are there but CIFAR-100."""

    def load(dataset: Any) -> None:
        if dataset.name == "cifar100":
            raise SwaBenchError("cifar100: not here")

    monkeypatch.setenv("ALLOW_CPU", "1")
    monkeypatch.setattr(grid, "load_images", load)


def words(printed: str) -> list[list[str]]:
    return [line.split() for line in printed.splitlines()]


def test_the_plan_counts_shared_epochs_once_and_stops_without_a_gpu(
    calls: list[tuple[str, ...]], capsys: Any
) -> None:
    assert grid.main("cifar", "device=cpu") == 1
    printed = capsys.readouterr().out
    # A seed of VGG16 trains 300 epochs of SWA and 200 of SGD, 81 of them shared: 419.
    assert f"paper_tables cifar10 vgg16 0/6 {3 * 419} unknown".split() in words(printed)
    assert f"paper_tables cifar100 preresnet110 0/6 {3 * 311} unknown".split() in words(printed)
    assert f"48 runs to train, {2 * 3 * 2 * (419 + 311):,} epochs, time unknown" in printed
    # VGG16 and WRN-28-10: 81 of 500 epochs a seed, PreResNets: 64 of 375; two data sets, 3 seeds.
    assert (
        f"Sharing saves {2 * 3 * 2 * (81 + 64):,} of {2 * 3 * 2 * (500 + 375):,} epochs" in printed
    )
    assert "Checkpoints: 0.00 GB below results/runs, at most checkpoints.max_gb=20." in printed
    assert "No GPU here: stopped before training. The same command after ALLOW_CPU=1" in printed
    assert calls == []


def test_the_plan_of_the_other_networks(calls: list[tuple[str, ...]], capsys: Any) -> None:
    """Shake-Shake's SWA of 1.5 x 1800 epochs and SGD of 1800 share those up to epoch 721.

    At a constant rate both methods are one training of 200 epochs.
    """
    assert grid.main("extra", "device=cpu") == 1
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:6])) <= 80
    assert words(printed)[3:7] == [
        f"shakeshake cifar10 shakeshake26_2x64d 0/6 {3 * (2700 + 1800 - 721)} unknown".split(),
        f"pyramidnet cifar100 pyramidnet272_a200 0/6 {3 * (450 + 300 - 121)} unknown".split(),
        f"fixed_rate cifar100 wrn28_10 0/6 {3 * 200} unknown".split(),
        f"fixed_rate cifar10 wrn28_10 0/6 {3 * 200} unknown".split(),
    ]


def test_ensembles_of_whole_runs_are_planned_as_their_runs_and_lack_their_records(
    calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A seed: SGD, the members of `independent`, 30 epochs; another last one with new batch-norm
    statistics; 6 more of FGE, whose members' average is free; Snapshot 30, cyclical SWA 45 - 13.
    """
    monkeypatch.setattr(grid, "load_images", lambda dataset: None)
    plan = grid.plan_grid(grids()["cifar10_cpu_more"], ["device=cpu"])[0]
    assert len(plan.ensembles) == 3 * (2 + 2 + 5)  # of three seeds' jobs; FGE 1 is no ensemble
    assert grid.main("cifar10_cpu_more", "device=cpu") == 0
    expected = (
        f"cifar10_cpu_more cifar10 preresnet20 0/18 {3 * (30 + 1 + 6 + 30 + 45 - 13)} unknown"
    )
    assert expected.split() in words(capsys.readouterr().out)


def test_the_grid_for_a_cpu_asks_for_its_speed_trains_and_compares(
    calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A seed: SWA's 45 epochs, 13 of them those of SGD 1.5, 16 of whose 45 are those of SGD 1."""
    monkeypatch.setattr(grid, "load_images", lambda dataset: None)
    shipped = Path("results/shipped/cpu-amd-epyc/cifar10_cpu")
    shipped.mkdir(parents=True)
    assert grid.main("cifar10_cpu", "device=cpu") == 0
    printed = capsys.readouterr().out
    assert words(printed)[4:6] == [
        f"cifar10_cpu_long cifar10 preresnet20 0/10 {5 * (45 + 45 - 13)} unknown".split(),
        f"cifar10_cpu cifar10 preresnet20 0/5 {5 * (30 - 16)} unknown".split(),
    ]
    assert f"15 runs to train, {5 * (45 + 45 - 13 + 30 - 16)} epochs" in printed
    assert "No GPU" not in printed
    check, *train, tables = calls
    assert check == ("swa-check", "--models", "preresnet20")
    assert train == [
        ("swa-train", f"experiment={name}", "dataset=cifar10", "device=cpu")
        for name in ("cifar10_cpu_long", "cifar10_cpu")
    ]
    assert tables[-2:] == ("--against", str(shipped))


def test_imagenet_is_planned_without_its_files_and_left_out(
    calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("ALLOW_CPU", "1")
    assert grid.main("imagenet", "device=cpu") == 1
    printed = capsys.readouterr().out
    assert [line for line in words(printed) if line[:2] == ["imagenet", "imagenet"]] == [
        f"imagenet imagenet {model} 0/6 {3 * 10} unknown".split()
        for model in ("resnet50", "resnet152", "densenet161")
    ]
    assert "Left out: dataset.root=data/imagenet: needs train/CLASS" in printed.splitlines()[-1]
    assert calls == []


@pytest.mark.usefixtures("no_cifar100")
def test_the_experiments_of_a_grid_are_trained_one_after_the_other(
    calls: list[tuple[str, ...]],
) -> None:
    """Those of which no data set is there are left out."""
    assert grid.main("extra", "device=cpu") == 0
    train = [
        ("swa-train", f"experiment={name}", "dataset=cifar10", "device=cpu")
        for name in ("shakeshake", "fixed_rate")
    ]
    assert calls == [*train, ("swa-tables",)]


@pytest.mark.usefixtures("no_cifar100")
def test_with_leave_it_trains_what_can_be_had_and_makes_tables(
    calls: list[tuple[str, ...]], capsys: Any
) -> None:
    assert grid.main("cifar", "device=cpu", "precision=auto") == 0
    train = ("swa-train", "experiment=paper_tables", "dataset=cifar10")
    assert calls == [(*train, "device=cpu", "precision=auto"), ("swa-tables",)]
    assert "Left out: cifar100: not here" in capsys.readouterr().out


def test_the_grids_own_options_and_other_grids_are_refused(calls: list[tuple[str, ...]]) -> None:
    with pytest.raises(ConfigError, match="seed=5: the grid sets it"):
        grid.main("cifar", "seed=5")
    with pytest.raises(ConfigError, match="GRID=imagnet: choose from cifar, imagenet, extra"):
        grid.main("imagnet")
