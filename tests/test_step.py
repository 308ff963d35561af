"""One step's numbers, the optimiser's arithmetic, evaluation, exact batch-norm statistics."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from training_helpers import TINY, config_of

from swa_bench.data.batches import to_device
from swa_bench.data.images import load_images
from swa_bench.models import build_model
from swa_bench.models.preresnet import PreResNet
from swa_bench.models.pyramidnet import PyramidNet
from swa_bench.models.shakeshake import ShakeShake
from swa_bench.models.wide_resnet import WideResNet
from swa_bench.training import hardware
from swa_bench.training.averaging import WeightAverage, load_weights
from swa_bench.training.batch_norm import recompute_batch_norm
from swa_bench.training.evaluation import predict, score
from swa_bench.training.forward import TrainingPass
from swa_bench.training.network import fresh_model, fresh_optimizer
from swa_bench.training.states import fresh_state
from swa_bench.training.step import TrainStep, take_step
from swa_bench.training.timing import random_images

PLAIN = torch.autocast("cpu", enabled=False)
# The smallest networks of families whose shipped ones are large.
SMALL = {
    "wide_resnet": lambda: WideResNet(10, depth=10, widen_factor=1),
    "shakeshake": lambda: ShakeShake(10, depth=14, base_width=4),
    "pyramidnet": lambda: PyramidNet(10, depth=29, widening=9),
}
PINNED_LOSSES = [2.356574, 2.321708, 2.330406]


class Operations(TorchDispatchMode):
    """Counts operations, each a kernel or a few on a GPU, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_first_steps_are_pinned() -> None:
    """Model, data, order, crops and optimiser together: any change of the protocol shows here."""
    config = config_of("model=preresnet20", "dataset=cifar10_mini", "dataset.train_images=288")
    data = to_device(load_images(config.dataset), config, torch.device("cpu"))
    model = fresh_model(config, torch.device("cpu"))
    optimizer = fresh_optimizer(config, model)
    losses = []
    for images, labels in data.train_batches(data.draw(0, 0, "train"), 128):
        loss, _ = take_step(model, optimizer, images, labels, hardware.autocast(config))
        losses.append(loss.item())
    assert losses == pytest.approx(PINNED_LOSSES, rel=1e-4)


def test_sgd_is_the_authors() -> None:
    """v <- 0.9 v + g + wd w; w <- w - lr v: no Nesterov, no dampening, decay on every parameter."""
    torch.manual_seed(0)
    config = config_of("model=vgg16", "dataset=cifar10_mini")
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
        optimizer.param_groups[0]["lr"] = rate
        take_step(model, optimizer, images, labels, PLAIN)
    for ours, theirs in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-7)


def test_scores_weigh_images_not_batches() -> None:
    """Batches of 3 and 1: the mean is over four images. Logits are the images themselves."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 4.0]])
    labels = torch.tensor([0, 0, 0, 0])
    batches = [(logits[:3], labels[:3]), (logits[3:], labels[3:])]
    tested = score(*predict(nn.Identity(), batches, PLAIN))
    assert tested.error_pct == 50.0
    by_hand = [math.log1p(math.exp(x)) for x in (-2.0, 1.0, -3.0, 4.0)]
    assert tested.loss == pytest.approx(sum(by_hand) / 4, rel=1e-6)


def test_running_average_is_the_mean_of_the_collected_weights() -> None:
    torch.manual_seed(0)
    model = build_model("preresnet20", 10)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    collected, average = [], WeightAverage()
    for _ in range(7):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        collected.append([p.detach().clone().double() for p in model.parameters()])
        average.collect(model, torch.empty(0))
    assert average.n == 7
    for name, *values in zip(average.kept, *collected, strict=True):
        mean = torch.stack(values).mean(0)
        torch.testing.assert_close(average.kept[name].double(), mean, rtol=1e-5, atol=1e-6)
    load_weights(model, average.kept)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, average.kept[name])
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name])


def test_bf16_computes_in_bf16_and_keeps_float32_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: True)
    config = config_of("model=preresnet20", "precision=bf16")
    seen = []
    model = fresh_model(config, torch.device("cpu"))
    model.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    batches = [(torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.long))]
    context = hardware.autocast(config)
    take_step(model, fresh_optimizer(config, model), *batches[0], context)
    score(*predict(model, batches, context))
    recompute_batch_norm(model, batches, context)
    assert seen == [torch.bfloat16] * 3
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_an_epoch_is_its_steps_by_hand() -> None:
    """Batches of 20, 20 and 8; the rates differ. Counters on the device find the same images."""
    config = config_of(*TINY, "batch_size=20")
    cpu = torch.device("cpu")
    data = to_device(random_images(config, 48), config, cpu)
    rates, draws = [0.1, 0.05, 0.025], data.draw(0, 0, "train")
    state, model = fresh_state(config, data), fresh_model(config, cpu)
    train_step = TrainStep(config, state, data)
    for _ in range(2):
        train_step.begin_epoch(draws, rates, seed=0, epoch=0)
        for size in train_step.sizes:
            train_step.step(size)
    score = train_step.score()

    optimizer = fresh_optimizer(config, model)
    model.train()
    losses, wrong = 0.0, 0
    for epoch in range(2):
        batches = data.train_batches(draws, 20)
        for rate, (images, labels) in zip(rates, batches, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            loss, logits = take_step(model, optimizer, images, labels, PLAIN)
            if epoch == 1:
                losses += loss.item() * len(labels)
                wrong += int((logits.argmax(1) != labels).sum())
    for ours, theirs in zip(state.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert score.loss == pytest.approx(losses / 48, rel=1e-6)
    assert score.error_pct == pytest.approx(100 * wrong / 48)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["vgg16_bn", "preresnet20", *SMALL])
def test_casts_and_counts_for_all_layers_at_once_change_no_bit(name: str, precision: str) -> None:
    """Against the network called as it is: logits, gradients, statistics and counters."""
    found = []
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    for wrapped in (False, True):
        torch.manual_seed(0)
        model = SMALL[name]() if name in SMALL else build_model(name, 10)
        model.train().to(memory_format=torch.channels_last)
        call = TrainingPass(model) if wrapped else model
        for _ in range(2):
            with autocast:
                logits = call(torch.randn(2, 3, 32, 32))
            F.cross_entropy(logits.float(), torch.tensor([3, 5])).backward()
        gradients = {f"{name} grad": p.grad for name, p in model.named_parameters()}
        found.append({"logits": logits, **gradients, **model.state_dict()})
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]) and value.dtype == theirs[key].dtype, key
    assert {int(value) for key, value in ours.items() if key.endswith("tracked")} == {2}


def test_casts_and_counts_do_not_grow_with_depth() -> None:
    """Two batch norms, two weights and their gradients a block: 18 more for three blocks."""

    def operations(depth: int) -> int:
        call = TrainingPass(PreResNet(10, depth, bottleneck=False).train())
        with torch.autocast("cpu", torch.bfloat16), Operations() as counter:
            call(torch.randn(2, 3, 32, 32)).float().sum().backward()
        return sum(counter.found[name] for name in ("_to_copy", "add_", "_foreach_copy_"))

    assert operations(8) == operations(14) > 0


@pytest.mark.parametrize(("name", "kinds"), [("preresnet20", 5), ("shakeshake", 6)])
def test_blocks_of_one_kind_are_compiled_once(
    monkeypatch: pytest.MonkeyPatch, name: str, kinds: int
) -> None:
    """PreResNet20: the blocks of the first stage are alike, the first of the others are not.

    Of Shake-Shake neither are those of the first; what it draws stays the same.
    """
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **_: compile_(f, dynamic=False, backend="eager")
    )
    torch._dynamo.reset()
    stats = torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]
    losses, images = [], torch.randn(2, 3, 32, 32)
    for compiled in (False, True):
        torch.manual_seed(0)
        model = (SMALL[name]() if name in SMALL else build_model(name, 10)).train()
        call = TrainingPass(model, compiled)
        losses += [call(images).sum().item(), model.eval()(images).sum().item()]
    assert losses[:2] == losses[2:]
    assert stats["unique_graphs"] - before == kinds
    assert "forward" not in vars(model.stages[0][0])
