"""Random numbers of (seed, epoch, purpose): the same whoever draws, and however a run got there."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_helpers import SHAKE, SHORT_RECIPE, SwaTrain, epochs_of, records_of

from swa_bench.analysis import landscape, restore
from swa_bench.commands.export import swa_evaluate, swa_export
from swa_bench.data.random import RandomNumbers, random_numbers
from swa_bench.training.averaging import WeightAverage

DRAWING = ["model=own", "model._target_=odd_networks.Drawing", "model.name=drawing"]
RUN = ["budget=1", *SHORT_RECIPE, "precision=fp32", "checkpoints.keep=collected"]
SMALL = ["dataset.train_images=48", "dataset.test_images=20", "batch_size=20"]
OWN = ["+method.predictors.noisy._target_=test_randomness.NoisyAverage"]


class NoisyAverage(WeightAverage):
    """An average of weights that draws when it collects."""

    def collect(self, model: nn.Module, predictions: Tensor) -> None:
        """Add noise to the average."""
        super().collect(model, predictions)
        for value in self.kept.values():
            value.add_(0.001 * torch.rand_like(value) * random.random() * np.random.random())


def drawn() -> tuple[float, float, float]:
    """A number of each global generator."""
    return torch.rand(()).item(), float(np.random.random()), random.random()


def test_all_generators_draw_from_one_stream_and_are_left_alone() -> None:
    before = (torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate())
    with random_numbers(3, 7, "train") as generator:
        first = drawn()
        assert generator is torch.default_generator
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    after_seeding = drawn()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with random_numbers(3, 7, "train"):
        assert drawn() == first
    assert drawn() == after_seeding
    others = []
    for seed, epoch, purpose in ((4, 7, "train"), (3, 8, "train"), (3, 7, "dropout")):
        with random_numbers(seed, epoch, purpose):
            others.append(drawn())
    assert len({first, *others}) == 4
    torch.set_rng_state(before[0])
    np.random.set_state(before[1])
    random.setstate(before[2])


def test_a_stream_goes_on_where_it_was_left() -> None:
    """As those of several runs do that take turns."""
    cpu = torch.device("cpu")
    with random_numbers(0, 1, "dropout"):
        together = [drawn(), drawn()]
    one, other = (
        RandomNumbers(cpu).start(0, 1, "dropout"),
        RandomNumbers(cpu).start(1, 1, "dropout"),
    )
    found = []
    for _ in range(2):
        with one.lent():
            found.append(drawn())
        with other.lent():
            assert drawn() not in together
    assert found == together


@pytest.mark.parametrize("network", [DRAWING, [*SHAKE, *SMALL]], ids=["drawing", "shake"])
def test_a_network_that_draws_has_the_same_bits_however_it_is_trained(
    swa_train: SwaTrain, tmp_path: Path, network: list[str]
) -> None:
    """At once, in two parts, two seeds together; one draws with torch, numpy and Python."""
    for arguments in (
        ["results_dir=at_once"],
        ["results_dir=in_parts", "budget=0.75"],
        ["results_dir=in_parts"],
        ["results_dir=together", "seeds_together=2"],
    ):
        outcome = swa_train(*RUN, *network, *OWN, *arguments)
        assert outcome.code == 0, outcome.err
    (expected,) = records_of(tmp_path / "at_once").values()
    for folder in ("in_parts", "together"):
        found = records_of(tmp_path / folder)
        (record,) = (r for name, r in found.items() if "swa-seed0" in name and "cell-1." in name)
        assert record["result"] == expected["result"], folder
    columns = [
        epochs_of(tmp_path / folder).filter(like="noisy_") for folder in ("at_once", "in_parts")
    ]
    assert columns[0].shape == (4, 2) and columns[0].equals(columns[1])


def test_what_is_measured_later_is_what_was_recorded(
    swa_train: SwaTrain, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Export, evaluation and the width of the optimum draw what the run drew."""
    outcome = swa_train(*RUN, *DRAWING, "results_dir=results")
    assert outcome.code == 0, outcome.err
    (path,) = tmp_path.rglob("cell-1.json")
    swa_export([str(path), "out.safetensors", "--device=cpu", "--trust"])
    swa_evaluate(["out.safetensors", "--device=cpu", "--trust"])
    measured, recorded = capfd.readouterr().out.splitlines()[-2:]
    assert measured.removeprefix("test error ") in recorded
    restored = restore.restore(path, restore.User(trust=True))
    weights = landscape.flat(restored.model)
    probe = landscape.Probe(restored, 100)
    assert torch.equal(probe.at(weights), probe.at(weights))
