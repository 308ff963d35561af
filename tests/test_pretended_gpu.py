"""What a GPU does, where there is none: on tensors that pretend to be on one, and with fakes."""

import contextlib
import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F
from training_helpers import TINY, config_of

from swa_bench.config.schema import TrainConfig
from swa_bench.data.batches import DeviceImages, to_device
from swa_bench.models import build_model
from swa_bench.training import hardware, recorded_pass
from swa_bench.training.cuda_graphs import GraphedSteps
from swa_bench.training.evaluation import Tally, predict
from swa_bench.training.recorded_pass import RecordedPass
from swa_bench.training.states import fresh_state
from swa_bench.training.step import StaticInputs, TrainStep, take_step
from swa_bench.training.timing import random_images

PLAIN = torch.autocast("cpu", enabled=False)


def pretended(mode: FakeTensorMode, config: TrainConfig, device: torch.device) -> DeviceImages:
    """48 images that only pretend to be on a device, for training and testing."""
    images = random_images(config, 48)
    images = dataclasses.replace(
        images, test_images=images.train_images, test_labels=images.train_labels
    )
    real = to_device(images, config, torch.device("cpu"))
    tensors = {
        field: mode.from_tensor(value).to(device)
        for field, value in vars(real).items()
        if isinstance(value, torch.Tensor)
    }
    return dataclasses.replace(real, **tensors)


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_step_asks_the_device_for_nothing(name: str) -> None:
    """To read a value of a tensor that only pretends to be there is an error.

    Without a GPU there is no backward pass even for such tensors, so there the step ends before it.
    """
    config = config_of("model=vgg16_bn", "dataset=cifar10_mini")
    target = torch.device(name)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        data, tally = pretended(mode, config, target), Tally(target)
        inputs = StaticInputs(data, batch_size=32, steps=2, tally=tally)
        with pytest.raises(DataDependentOutputException):
            inputs.rate.item()
        with target:
            model = build_model("vgg16_bn", 10)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4, fused=True)
        optimizer.param_groups[0]["lr"] = inputs.rate
        for size in (32, 16):
            images, labels = inputs.next(size)
            if name == "cpu":
                loss, logits = take_step(model, optimizer, images, labels, PLAIN)
            else:
                logits = model(images)
                loss = F.cross_entropy(logits, labels)
            inputs.tally.add(loss, logits, labels)
        assert inputs.tally.loss.device.type == name


def test_what_a_gpu_recomputes_and_tests_is_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors that pretend to be on one: to mix them with the host's, or read one, is an error.

    The weights are cast to bf16 and there is a smaller last batch; streams and random numbers,
    which a GPU alone has, do nothing.
    """
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for place in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, place, lambda *_: stream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    random = SimpleNamespace(start=lambda *_: None, lent=contextlib.nullcontext)
    monkeypatch.setattr(recorded_pass, "RandomNumbers", lambda device: random)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    config, target = config_of("model=vgg16_bn", "batch_size=20"), torch.device("cuda")
    config = dataclasses.replace(config, device="cuda", precision="bf16")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        data = pretended(mode, config, target)
        with target:
            model = build_model("vgg16_bn", 10)
        seen: list[torch.Tensor] = []
        model.features[0].register_forward_hook(lambda layer, given, output: seen.append(output))
        RecordedPass(model, config, data).recompute(data.buffers(), seed=0, epoch=0)
        predictions, _ = predict(model, data.test_batches(30), hardware.autocast(config))
    assert [(len(one), one.dtype, one.device.type) for one in seen] == [
        (size, torch.bfloat16, "cuda") for size in (20, 20, 8, 30, 18)
    ]
    assert predictions.shape == (48, 10) and predictions.device.type == "cuda"


def test_what_uses_the_memory_of_draws_next_waits_for_their_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are drawn on the default stream and copied on that of the steps, before they go."""
    done: list[str] = []
    config = config_of(*TINY)
    data = to_device(random_images(config, 4), config, torch.device("cpu"))
    step: Any = TrainStep(config, fresh_state(config, data), data)
    step.stream = SimpleNamespace(wait_stream=lambda other: done.append("copies wait"))
    default = SimpleNamespace(wait_stream=lambda other: done.append("the next wait"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: default)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(step.inputs, "begin", lambda *_: done.append("copies"))
    step.begin_epoch(data.draw(0, 0, "train"), [0.1], seed=0, epoch=0)
    assert done == ["copies wait", "copies", "the next wait"]


def test_steps_go_on_without_graphs_where_one_cannot_be_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An epoch of batches of 3 and 2 as they are; then 3 is recorded, and with 2 it fails."""
    done: list[Any] = []
    recording = False

    def step(size: int) -> None:
        if not recording:
            done.append(size)
        elif size == 2:
            raise ValueError("cannot be recorded")

    @contextlib.contextmanager
    def record(*_: object, capture_error_mode: str) -> Iterator[None]:
        nonlocal recording
        recording = True
        try:
            yield
        except ValueError:
            raise RuntimeError("a previous error") from None
        finally:
            recording = False

    graph = SimpleNamespace(replay=lambda: done.append("replayed"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    for name in ("graph_pool_handle", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    random: Any = SimpleNamespace(leave_graphs=lambda: done.append("left"))
    take = GraphedSteps(step, 2, lambda: done.append("forgotten"), random)
    for size in (3, 2, 3, 3, 2, 3, 2):
        take(size)
    assert done[:5] == [3, 2, "forgotten", "replayed", "replayed"]
    assert done[5:] == ["forgotten", "forgotten", "left", 2, 3, 2]
    (line,) = caplog.messages
    assert line.endswith("since a step cannot be recorded: cannot be recorded")
