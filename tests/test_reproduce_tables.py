"""The grid script: its plan, its stop without a GPU, what it starts."""

from pathlib import Path
from typing import Any

import pytest
import reproduce_tables as grid

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


def test_the_plan_counts_shared_epochs_once_and_stops_without_a_gpu(
    calls: list[tuple[str, ...]], capsys: Any
) -> None:
    assert grid.main(["device=cpu"]) == 1
    printed = capsys.readouterr().out
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in printed.splitlines()[2:]}
    # A seed of VGG16 trains 300 epochs of SWA and 200 of SGD, 81 of them shared: 419.
    assert rows["cifar10", "vgg16"][:4] == ["0", "6", str(3 * 419), str(3 * 81)]
    assert rows["cifar100", "preresnet110"][1:4] == ["6", str(3 * 311), str(3 * 64)]
    assert f"48 runs to train, {2 * 3 * 2 * (419 + 311):,} epochs, time unknown" in printed
    # VGG16 and WRN-28-10: 81 of 500 epochs a seed, PreResNets: 64 of 375; two data sets, 3 seeds.
    assert (
        f"Sharing saves {2 * 3 * 2 * (81 + 64):,} of {2 * 3 * 2 * (500 + 375):,} epochs" in printed
    )
    assert "Checkpoints: 0.00 GB below results/runs, at most checkpoints.max_gb=20." in printed
    assert "No GPU here: stopped before training. ALLOW_CPU=1" in printed
    assert calls == []


def test_with_leave_it_trains_what_can_be_had_and_makes_tables(
    calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def load(dataset: Any) -> None:
        if dataset.name == "cifar100":
            raise SwaBenchError("cifar100: not here")

    monkeypatch.setenv("ALLOW_CPU", "1")
    monkeypatch.setattr(grid, "load_images", load)
    assert grid.main(["device=cpu", "precision=auto"]) == 0
    train = ("swa-train", "experiment=paper_tables", "dataset=cifar10")
    assert calls == [(*train, "device=cpu", "precision=auto"), ("swa-tables",)]
    assert "Left out: cifar100: not here" in capsys.readouterr().out


def test_the_grids_own_options_are_refused(calls: list[tuple[str, ...]]) -> None:
    with pytest.raises(ConfigError, match="seed=5: the grid sets it"):
        grid.main(["seed=5"])
