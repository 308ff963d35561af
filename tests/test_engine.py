"""One step's numbers, the optimiser's arithmetic, evaluation, exact batch-norm statistics."""

import math

import pytest
import torch
from conftest import plan_of
from torch import nn
from torch.nn import functional as F

from swa_bench import device, engine, sources
from swa_bench.data import to_device
from swa_bench.methods import load_average, update_average
from swa_bench.models import build_model
from swa_bench.walk import fresh_model, fresh_optimizer

PLAIN = torch.autocast("cpu", enabled=False)
PINNED_LOSSES = [2.356574, 2.321708, 2.330406]


def test_first_steps_are_pinned() -> None:
    """Model, data, order, crops and optimiser together: any change of the protocol shows here."""
    plan = plan_of("model=preresnet20", "dataset=cifar10_mini", "dataset.train_images=288")
    config = plan.config
    data = to_device(sources.load_arrays(config.dataset), config, torch.device("cpu"))
    model = fresh_model(config, torch.device("cpu"))
    optimizer = fresh_optimizer(config, model)
    batches = list(data.train_batches(data.draw(0, 0, "train"), 128))
    losses = []
    for batch in batches:
        score = engine.train_epoch(model, optimizer, [batch], [0.1], device.autocast(config))
        losses.append(score.loss)
    assert losses == pytest.approx(PINNED_LOSSES, rel=1e-4)


def test_sgd_is_the_authors() -> None:
    """v <- 0.9 v + g + wd w; w <- w - lr v: no Nesterov, no dampening, decay on every parameter."""
    torch.manual_seed(0)
    config = plan_of("model=vgg16", "dataset=cifar10_mini").config
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = fresh_optimizer(config, model)
    expected = [p.detach().clone().double() for p in model.parameters()]
    velocity = [torch.zeros_like(p) for p in expected]
    for rate in (0.05, 0.02, 0.01):
        images, labels = torch.randn(8, 1, 2, 2), torch.randint(3, (8,))
        model.train()
        gradients = torch.autograd.grad(
            F.cross_entropy(model(images), labels), [*model.parameters()]
        )
        for w, v, g in zip(expected, velocity, gradients, strict=True):
            v.mul_(0.9).add_(g.double()).add_(w, alpha=5e-4)
            w.sub_(rate * v)
        engine.train_epoch(model, optimizer, [(images, labels)], [rate], PLAIN)
    for ours, theirs in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-7)


def test_scores_weigh_images_not_batches() -> None:
    """Batches of 3 and 1: the mean is over four images. Logits are the images themselves."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 4.0]])
    labels = torch.tensor([0, 0, 0, 0])
    batches = [(logits[:3], labels[:3]), (logits[3:], labels[3:])]
    score = engine.evaluate(nn.Identity(), batches, PLAIN)
    assert score.error_pct == 50.0
    by_hand = [math.log1p(math.exp(x)) for x in (-2.0, 1.0, -3.0, 4.0)]
    assert score.loss == pytest.approx(sum(by_hand) / 4, rel=1e-6)


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
    engine.recompute_batch_norm(model, batches, PLAIN)

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
    engine.recompute_batch_norm(ours, batches, PLAIN)
    torch.optim.swa_utils.update_bn([batch for batch, _ in batches], torchs)
    ten, two = (batch.mean((0, 2, 3)) for batch, _ in batches)
    torch.testing.assert_close(ours.first.running_mean, (10 * ten + 2 * two) / 12)
    torch.testing.assert_close(torchs.first.running_mean, (ten + two) / 2)


def test_running_average_is_the_mean_of_the_copies() -> None:
    torch.manual_seed(0)
    model = build_model("preresnet20", 10)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    copies, average = [], None
    for n in range(7):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        copies.append([p.detach().clone().double() for p in model.parameters()])
        average = update_average(average, n, model)
    assert average is not None
    for name, *values in zip(average, *copies, strict=True):
        mean = torch.stack(values).mean(0)
        torch.testing.assert_close(average[name].double(), mean, rtol=1e-5, atol=1e-6)
    load_average(model, average)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, average[name])
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name])


def test_bf16_computes_in_bf16_and_keeps_float32_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: True)
    config = plan_of("model=preresnet20", "precision=bf16").config
    seen = []
    model = fresh_model(config, torch.device("cpu"))
    model.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    batches = [(torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.long))]
    context = device.autocast(config)
    engine.train_epoch(model, fresh_optimizer(config, model), batches, [0.1], context)
    engine.evaluate(model, batches, context)
    engine.recompute_batch_norm(model, batches, context)
    assert seen == [torch.bfloat16] * 3
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_and_cpu_take_the_same_first_step() -> None:
    config = plan_of("model=preresnet20", "dataset=cifar10_mini", "dataset.train_images=256").config
    arrays = sources.load_arrays(config.dataset)
    losses = {}
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    for name in ("cpu", "cuda"):
        target = torch.device(name)
        cpu = to_device(arrays, config, torch.device("cpu"))
        batches = [
            (images.to(target), labels.to(target))
            for images, labels in cpu.train_batches(cpu.draw(0, 0, "train"), 128)
        ]
        model = fresh_model(config, target)
        optimizer = fresh_optimizer(config, model)
        context = torch.autocast(name, enabled=False)
        losses[name] = engine.train_epoch(model, optimizer, batches, [0.1] * 2, context).loss
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-4)
