"""What swa-check measures: speed, memory, and whether compiling works (training/checks.py)."""

import dataclasses
import gc
import time
from typing import Any

import torch
from torch import Tensor, nn

from swa_bench.config.schema import Device, TrainConfig
from swa_bench.config.spec import compose_spec
from swa_bench.data.batches import to_device
from swa_bench.data.images import load_images
from swa_bench.training import hardware, timing
from swa_bench.training.averaging import Weights
from swa_bench.training.evaluation import predict_test_images
from swa_bench.training.network import Spare
from swa_bench.training.self_check import Measured, NotOkError, SkippedError, Trial
from swa_bench.training.states import fresh_state, with_weights
from swa_bench.training.step import TrainStep, train_epoch
from swa_bench.training.threads import measure_threads

# The networks that are timed by default.
MODELS = {
    "cuda": ("vgg16", "preresnet110", "wrn28_10", "preresnet164"),
    "cpu": ("preresnet20", "vgg16"),
}
STEPS = {"cuda": 20, "cpu": 1}  # of an epoch that is timed


def config_of(device: str, *overrides: str) -> TrainConfig:
    """The options that a run on a device would have."""
    return hardware.resolve(compose_spec(f"device={device}", *overrides)).config


def memory(trial: Trial) -> Measured:
    """Memory after epochs 3 and 6, with a recomputation and a test pass after each epoch."""
    device = trial.device
    images = 64 if device == "cpu" else 1024  # batches of one size: a graph of another takes some
    small = [f"dataset.train_images={images}", f"dataset.test_images={images // 2}"]
    config = config_of(device, "model=preresnet20", "dataset=cifar10_mini", *small)
    data = to_device(load_images(config.dataset), config, hardware.prepare(config))
    state, spare = fresh_state(config, data), Spare(config)
    step = TrainStep(config, state, data)
    kept, seconds = {}, [0.0, 0.0]
    for epoch in range(6):
        rates = [config.model.learning_rate] * len(step.sizes)
        step.begin_epoch(data.draw(0, epoch, "train"), rates, seed=0, epoch=epoch)
        train_epoch([step])
        started = time.perf_counter()
        weights: Weights = dict(state.model.named_parameters())
        model, _ = with_weights(config, state, weights, data, spare)
        between = _now(device)
        predict_test_images(model, data, config, epoch)
        seconds = [between - started, _now(device) - between]
        kept[epoch + 1] = _memory(device)
    pair = f"{kept[3] / 1e6:.2f} MB after 3 epochs, {kept[6] / 1e6:.2f} MB after 6"
    if kept[6] > kept[3]:
        raise NotOkError(f"it grows: {pair}")
    counts = config.dataset.train_images, config.dataset.test_images
    recomputed, tested = (1e6 * s / count for s, count in zip(seconds, counts, strict=True))
    return f"{pair}; an image recomputed in {recomputed:,.0f}, tested in {tested:,.0f} microseconds"


def _now(device: Device) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _memory(device: Device) -> int:
    """Bytes of all tensors that are alive; on a GPU, of all that is allocated there."""
    gc.collect()
    if device == "cuda":
        return torch.cuda.memory_allocated()
    alive = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
    return sum(one.nbytes for one in alive)


def compiles(trial: Trial) -> Measured:
    """A small network compiled, forward and backward; only whether it works."""
    if trial.device == "cpu":
        raise SkippedError("on a GPU only; on a CPU it takes a minute and gains little")
    if time.monotonic() > trial.until:
        raise SkippedError("no time left")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(model, nn.Linear(8 * 30 * 30, 10)).cuda()
    started = time.perf_counter()
    compiled = torch.compile(model, dynamic=False)
    compiled(torch.randn(8, 3, 32, 32, device="cuda")).sum().backward()
    torch.cuda.synchronize()
    return f"works: {time.perf_counter() - started:.0f} s for a small network"


def threads(trial: Trial) -> Measured:
    """On a CPU: the threads that threads=auto takes now; what is timed later has them too."""
    if trial.device == "cuda":
        raise SkippedError("on a CPU only")
    config = config_of("cpu", "model=preresnet20", "batch_size=64", "precision=auto")
    count, why = measure_threads(config)
    torch.set_num_threads(count)
    return f"{count}: {why}"


def step_time(model: str, trial: Trial) -> Measured:
    """Milliseconds a step in fp32 and bf16; on a GPU eager, recorded, and of three seeds."""
    on_gpu = trial.device == "cuda"
    if time.monotonic() > trial.until:
        raise SkippedError(f"no time left: swa-check --models {model}")
    images_s: dict[str, float] = {}
    found: dict[str, Any] = {"image_s": {model: images_s}}
    texts, steps = [], STEPS[trial.device]
    size = [] if on_gpu else ["batch_size=64"]  # as in the demonstrations that a CPU is for
    native = hardware.native_precisions(trial.device)
    for precision in native:
        if precision == "tf32":
            continue
        options = [f"model={model}", f"precision={precision}", f"cuda_graphs={trial.graphs}", *size]
        config = config_of(trial.device, *options)
        seconds = _step_seconds([config], steps)
        images_s[precision] = seconds / config.batch_size
        text = f"{precision} {1e3 * seconds:,.2f} ms a step"
        if on_gpu and precision == native[-1]:
            eager = _step_seconds([dataclasses.replace(config, cuda_graphs=False)], steps)
            three = _three_seeds(config, steps)
            shares = {"cuda_graphs": [seconds / eager], "seeds_together": [three / seconds]}
            found["shares"] = shares
            text += f" (eager {1e3 * eager:,.2f}, three seeds {1e3 * three:,.2f} each)"
        texts.append(text)
    return f"{', '.join(texts)}, batch size {config.batch_size}", found


def _three_seeds(config: TrainConfig, steps: int) -> float:
    """Seconds a step of three seeds that train together, for each of them."""
    try:
        return _step_seconds([dataclasses.replace(config, seed=seed) for seed in range(3)], steps)
    except torch.OutOfMemoryError:
        return float("inf")


def _step_seconds(configs: list[TrainConfig], steps: int) -> float:
    """Seconds of a step of networks that train together, for each; as many epochs warm up."""
    hardware.free_memory()
    trained = [timing.step_on_noise(config, steps) for config in configs]
    half = timing.WARM_UP[configs[0].device]
    return timing.usual_seconds(trained, warm_up=half, epochs=half) / (steps * len(configs))
