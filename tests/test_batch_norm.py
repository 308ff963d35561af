"""Running statistics after a pass: exact means over the images that each layer has seen."""

from pathlib import Path

import odd_networks
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training_helpers import SHAKE, SHORT_RECIPE, SwaTrain, checkpoint_of, config_of, records_of

from swa_bench.commands.export import swa_export
from swa_bench.data.batches import to_device
from swa_bench.data.images import load_images
from swa_bench.data.random import random_numbers
from swa_bench.training.batch_norm import describe_kept, recompute_batch_norm
from swa_bench.training.network import copy_of, fresh_model
from swa_bench.training.recorded_pass import RecordedPass

pytestmark = pytest.mark.filterwarnings("ignore:.*jit.script:FutureWarning")
PLAIN = torch.autocast("cpu", enabled=False)
Batches = list[tuple[Tensor, Tensor]]


def batches_of(sizes: list[int]) -> Batches:
    """Images whose mean and scale change from one batch to the next."""
    torch.manual_seed(0)
    return [
        (torch.randn(size, 3, 32, 32) * (1 + k) + k, torch.zeros(size, dtype=torch.long))
        for k, size in enumerate(sizes)
    ]


class TwoNorms(nn.Module):
    """A batch norm on the input and one on a function of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.second = nn.BatchNorm2d(3, momentum=0.9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x) ** 2).flatten(1)


def test_recomputed_statistics_are_means_over_images() -> None:
    """Batches of 5, 5 and 2: sums in float64 by hand, every image weighing the same."""
    torch.manual_seed(0)
    images = torch.randn(12, 3, 4, 4) * 3 + 1
    labels = torch.zeros(12, dtype=torch.long)
    batches = [(images[a:b], labels[a:b]) for a, b in ((0, 5), (5, 10), (10, 12))]
    model = TwoNorms()
    model.first.running_mean.fill_(77.0)  # must be forgotten
    recompute_batch_norm(model, batches, PLAIN)

    means, variances = torch.zeros(2, 3).double(), torch.zeros(2, 3).double()
    for batch, _ in batches:
        x = batch.double()
        for layer in range(2):
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            count = x.numel() / 3
            means[layer] += mean * len(batch) / 12
            variances[layer] += variance * count / (count - 1) * len(batch) / 12
            x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
            x = x**2
    for layer, norm in enumerate((model.first, model.second)):
        torch.testing.assert_close(norm.running_mean.double(), means[layer], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            norm.running_var.double(), variances[layer], rtol=1e-5, atol=1e-6
        )
    assert (model.first.momentum, model.second.momentum) == (0.1, 0.9)


def test_recomputation_differs_from_torchs_where_the_last_batch_is_small() -> None:
    torch.manual_seed(0)
    images = torch.randn(12, 3, 4, 4)
    batches = [(images[:10], torch.zeros(10)), (images[10:], torch.zeros(2))]
    ours, torchs = TwoNorms(), TwoNorms()
    recompute_batch_norm(ours, batches, PLAIN)
    torch.optim.swa_utils.update_bn([batch for batch, _ in batches], torchs)
    ten, two = (batch.mean((0, 2, 3)) for batch, _ in batches)
    torch.testing.assert_close(ours.first.running_mean, (10 * ten + 2 * two) / 12)
    torch.testing.assert_close(torchs.first.running_mean, (ten + two) / 2)


class Watch:
    """What goes into a layer: means and variances of its calls, in float64."""

    def __init__(self, layer: nn.Module) -> None:
        self.calls: list[tuple[int, Tensor, Tensor]] = []
        layer.register_forward_pre_hook(self.note)

    def note(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        """Add a call."""
        x = inputs[0].double()
        self.calls.append((len(x), x.mean((0, 2, 3)), x.var((0, 2, 3))))

    def means(self) -> list[Tensor]:
        """Mean and variance, every image weighing the same."""
        images = sum(count for count, *_ in self.calls)
        pairs = zip(*[(m * n / images, v * n / images) for n, m, v in self.calls], strict=True)
        return [torch.stack(part).sum(0) for part in pairs]


def test_a_layer_counts_the_images_that_it_has_seen() -> None:
    """Blocks that are skipped at random."""
    model = odd_networks.Skipping(10)
    watches = {
        layer: Watch(layer) for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)
    }
    assert recompute_batch_norm(model, batches_of([7, 7, 7, 7, 3]), PLAIN) == {}
    calls = [len(watch.calls) for watch in watches.values()]
    assert calls[:2] == [5, 5] and 0 < min(calls[2:]) < 5
    for layer, watch in watches.items():
        mean, variance = watch.means()
        torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer.running_var.double(), variance, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
def test_scripted_layers_get_the_statistics_of_the_same_layers_unscripted(
    momentum: float | None,
) -> None:
    plain = nn.Sequential(
        nn.BatchNorm2d(3, momentum=momentum), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    )
    scripted = torch.jit.script(plain.train())
    mixed = nn.Sequential(torch.jit.script(nn.Sequential(plain[0], plain[1])), nn.BatchNorm2d(4))
    start = {name: value.clone() for name, value in plain.state_dict().items()}
    found = []
    for model in (plain, scripted, mixed):
        model.load_state_dict(dict(zip(model.state_dict(), start.values(), strict=True)))
        assert recompute_batch_norm(model, batches_of([6, 6, 2]), PLAIN) == {}
        found.append(list(model.state_dict().values()))
    for values in zip(*found, strict=True):
        for other in values[1:]:
            torch.testing.assert_close(other, values[0], rtol=2e-6, atol=1e-6)
    assert found[1][4] == 3  # num_batches_tracked


@pytest.mark.parametrize(
    ("model_options", "images"),
    [(["model=vgg16_bn"], 100), (["model=vgg16_bn"], 96), (["model=vgg16_bn"], 20), (SHAKE, 100)],
)
def test_a_pass_of_equal_steps_gives_the_same_statistics(
    model_options: list[str], images: int
) -> None:
    """Four batches of 24 and a smaller one or none, or just the smaller one, with draws; twice.

    Eager, as the pass is on a GPU without CUDA graphs.
    """
    options = ["batch_size=24", f"dataset.train_images={images}", "precision=fp32"]
    config = config_of(*model_options, "dataset=cifar10_mini", *options)
    data = to_device(load_images(config.dataset), config, torch.device("cpu"))
    model = fresh_model(config, data.device)
    steps, draws = RecordedPass(copy_of(model, config), config, data), data.draw(0, 3, "recompute")
    with random_numbers(0, 3, "recompute_dropout"):
        recompute_batch_norm(model, data.train_batches(draws, 24), PLAIN)
    for _ in range(2):
        steps.recompute(draws, seed=0, epoch=3)
        for name, found in steps.model.named_buffers():
            expected = model.get_buffer(name)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


class Unused(nn.Module):
    """One layer of two is called; statistics of the other were given."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.unused.running_mean.fill_(5.0)

    def forward(self, images: Tensor) -> Tensor:
        """By keyword, as some write it."""
        normed: Tensor = self.used(input=images)
        return normed


@pytest.mark.parametrize("script", [False, True])
def test_a_layer_that_is_never_called_keeps_its_statistics(script: bool) -> None:
    model = torch.jit.script(Unused()) if script else Unused()
    kept = recompute_batch_norm(model, batches_of([4]), PLAIN)
    assert kept == {"unused": "never called in training mode"}
    assert model.unused.running_mean.tolist() == [5.0] * 3
    assert model.used.running_mean.abs().max() < 0.1


def test_frozen_layers_keep_their_statistics_and_are_named() -> None:
    model = odd_networks.Frozen(10)
    model.bn1.running_mean.fill_(0.25)
    kept = recompute_batch_norm(model, batches_of([4, 2]), PLAIN)
    assert kept == {"bn1": "in evaluation mode", "bn2": "in evaluation mode"}
    assert model.bn1.running_mean.tolist() == [0.25] * 6
    assert describe_kept(kept | dict.fromkeys(["bn3", "bn4", "bn5"], "in evaluation mode")) == [
        "Running statistics were not recomputed: bn1, bn2, bn3 and 2 more (in evaluation mode)."
    ]


class FrozenWithin(nn.Module):
    """Sets its layer to evaluation mode in its forward pass, perhaps after a call in training."""

    def __init__(self, trains: bool) -> None:
        super().__init__()
        self.norm, self.trains = nn.BatchNorm2d(3), trains
        self.norm.running_mean.fill_(5.0)

    def forward(self, images: Tensor) -> Tensor:
        """Call the layer, then again on other values."""
        self.norm.train(self.trains)
        self.norm(images)
        self.norm.eval()
        normed: Tensor = self.norm(images + 100)
        return normed


def test_calls_in_evaluation_mode_do_not_count() -> None:
    frozen, batches = FrozenWithin(trains=False), batches_of([4, 2])
    assert recompute_batch_norm(frozen, batches, PLAIN) == {"norm": "never called in training mode"}
    assert frozen.norm.running_mean.tolist() == [5.0] * 3
    mixed = FrozenWithin(trains=True)
    assert recompute_batch_norm(mixed, batches, PLAIN) == {}
    mean = torch.cat([images for images, _ in batches]).mean((0, 2, 3))
    torch.testing.assert_close(mixed.norm.running_mean, mean, rtol=1e-5, atol=1e-6)


class PastHooks(nn.Module):
    """Calls its layer's forward itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        """Once more than the hooks see."""
        return self.norm.forward(self.norm(images))


def test_calls_that_cannot_be_followed_are_named() -> None:
    kept = recompute_batch_norm(PastHooks(), batches_of([4, 2]), PLAIN)
    assert kept == {"norm": "called in a way that cannot be followed"}
    still = torch.jit.script(nn.Sequential(nn.BatchNorm2d(3, momentum=0.0)))
    assert recompute_batch_norm(still, batches_of([4]), PLAIN) == {"0": "scripted with momentum 0"}
    patched = nn.BatchNorm2d(3)
    patched.forward = lambda images: images  # type: ignore[method-assign]
    assert recompute_batch_norm(patched, batches_of([4]), PLAIN) == {"": "a rule of its own"}
    traced = torch.jit.trace(nn.Sequential(nn.BatchNorm2d(3)).train(), batches_of([4])[0][0])
    assert recompute_batch_norm(traced, batches_of([4]), PLAIN) == {"0": "a rule of its own"}


class OwnForward(nn.BatchNorm2d):
    """A subclass, which may do anything with the momentum."""

    def forward(self, input: Tensor) -> Tensor:
        """Change nothing."""
        return input


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (odd_networks.HandWritten(10), "own"),
        (nn.Sequential(odd_networks.OwnNorm()), "0"),
        (odd_networks.OwnNorm(), ""),
        (nn.Sequential(OwnForward(3)), "0"),
        (nn.Sequential(nn.Flatten(), nn.utils.spectral_norm(nn.Linear(3072, 2))), "1"),
    ],
)
def test_layers_with_a_rule_of_their_own_are_named(model: nn.Module, name: str) -> None:
    kept = recompute_batch_norm(model, batches_of([4, 2]), PLAIN)
    assert kept == {name: "a rule of its own"}
    assert describe_kept(kept) == [
        f"Running statistics were not recomputed: {name or 'the network itself'} "
        "(a rule of its own)."
    ]


def test_a_network_without_statistics_costs_one_batch_at_most() -> None:
    """Constant buffers are not statistics."""
    calls = []

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.ones(1))

        def forward(self, images: Tensor) -> Tensor:
            calls.append(len(images))
            return images

    assert recompute_batch_norm(Constant(), batches_of([4, 2]), PLAIN) == {}
    assert calls == [4]
    assert recompute_batch_norm(nn.ReLU(), batches_of([4, 2]), PLAIN) == {}


def test_a_run_with_frozen_statistics_keeps_them_and_its_record_says_so(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    """The stored average, with the statistics that the network started with, tested here."""
    weights = odd_networks.Frozen(10).state_dict()
    weights |= {"bn1.running_mean": torch.full((6,), 0.1), "bn2.running_var": torch.full((8,), 0.5)}
    save_file(weights, tmp_path / "given.safetensors")
    net = ["model=own", "model._target_=odd_networks.Frozen", "model.name=frozen"]
    outcome = swa_train(*net, *SHORT_RECIPE, "budget=1", "init=given.safetensors", "precision=fp32")
    assert outcome.code == 0, outcome.err
    said = "Running statistics were not recomputed: bn1, bn2 (in evaluation mode)."
    assert (outcome.out + outcome.err).count(said) == 1
    (record,) = records_of(tmp_path).values()
    assert record["warnings"] == [said]
    (path,) = tmp_path.rglob("cell-1.json")
    swa_export([str(path), str(tmp_path / "out.safetensors"), "--trust"])
    exported = load_file(tmp_path / "out.safetensors")
    stored = torch.load(checkpoint_of(tmp_path, 4), weights_only=True)
    for name in weights:
        average = stored["predictors"]["swa"][1]
        expected = average[name] if name in average else weights[name]
        assert torch.equal(exported[name], expected), name
