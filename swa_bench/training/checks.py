"""What swa-check checks: that this machine computes as a run needs it (training/self_check.py).

A check returns what it measured, and raises NotOkError or SkippedError. Most need no GPU, so that
they are tested on a CPU.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swa_bench.config.resolvers import register_resolvers
from swa_bench.config.spec import RunSpec, compose_spec
from swa_bench.data.batches import to_device
from swa_bench.data.images import load_images
from swa_bench.errors import SwaBenchError
from swa_bench.results.epochs import read_epochs
from swa_bench.results.machine import driver_version
from swa_bench.results.record import read_record, record_path, run_folder
from swa_bench.results.verdicts import Topic
from swa_bench.training import check_speed, hardware, job, timing
from swa_bench.training.check_speed import config_of
from swa_bench.training.cuda_graphs import GraphedSteps
from swa_bench.training.self_check import Measured, NamedCheck, NotOkError, SkippedError, Trial
from swa_bench.training.states import fresh_state
from swa_bench.training.step import TrainStep, train_epoch

# How far from the exact result (fp64) a product and a convolution are; less would be another one.
# fp32 is off by 2e-7, or by Winograd's algorithm, which cuDNN may choose, about 1e-5; tf32 by 3e-4.
ERRORS = {"fp32": (0.0, 1e-4), "tf32": (1e-5, 1e-2), "bf16": (1e-5, 2e-2)}
# Two sizes of batches, the smaller one often enough to be recorded as a graph and replayed.
SHORT_RUN = [
    "dataset=cifar10_mini",
    "dataset.train_images=36",
    "dataset.test_images=20",
    "batch_size=8",
    "model.swa_start=2",
    "budget=1",
    "evaluation.average_every=1",
    "deterministic=true",
    "threads=1",
]


def all_checks(trial: Trial) -> list[NamedCheck]:
    """The checks of a device, which begin with the device itself."""
    register_resolvers()
    device = trial.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() or hardware.cuda_fault() else "cpu"
    trial = dataclasses.replace(trial, device=device)
    models = trial.models or check_speed.MODELS[device]
    checks: list[tuple[str, Topic, Callable[[Trial], Measured]]] = [
        ("threads", "", check_speed.threads),  # their number is part of a processor's name
        ("device", "device", find_device),
        ("arithmetic", "device", arithmetic),
        ("steps as on the CPU", "device", steps_as_on_cpu),
        ("stopped, resumed", "device", resumed),
        ("CUDA graphs", "cuda_graphs", graphs),
        ("seeds together", "seeds_together", together),
        ("no waiting", "cuda_graphs", no_waiting),
        ("memory", "", check_speed.memory),
        *((model, "", functools.partial(check_speed.step_time, model)) for model in models),
        ("compile", "compile", check_speed.compiles),
        ("data", "", data_set),
    ]
    return [(name, topic, functools.partial(check, trial)) for name, topic, check in checks]


def find_device(trial: Trial) -> Measured:
    """Name, driver and versions; on a GPU, whether this torch can use it."""
    on_gpu, version = trial.device == "cuda", str(torch.__version__)
    if on_gpu and (fault := hardware.cuda_fault()):
        raise NotOkError(fault)
    if on_gpu and not torch.cuda.is_available():
        raise NotOkError("torch sees no CUDA GPU here")
    name = hardware.device_name(torch.device(trial.device))
    driver = (driver_version() or "unknown") if on_gpu else ""
    text = f"{name}, torch {version}"
    if on_gpu:
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        text += f" for CUDA {torch.version.cuda}, driver {driver}, "
        text += f"capability {capability} of {' '.join(torch.cuda.get_arch_list())}"
    return text, {"device": name, "driver": driver, "torch": version}


def arithmetic(trial: Trial) -> Measured:
    """A product and a convolution in each precision, against fp64 on the CPU."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 384, 384).unbind()
    images, kernel = torch.randn(16, 64, 16, 16), torch.randn(64, 64, 3, 3)
    exact = a.double() @ b.double(), F.conv2d(images.double(), kernel.double())
    texts, wrong = [], False
    for precision in hardware.native_precisions(trial.device):
        config = config_of(trial.device, f"precision={precision}")
        target = hardware.prepare(config)
        with hardware.autocast(config):
            found = (
                a.to(target) @ b.to(target),
                F.conv2d(images.to(target), kernel.to(target)),
            )
        error = max(_error(one, of) for one, of in zip(found, exact, strict=True))
        low, high = ERRORS[precision]
        wrong |= not low <= error < high
        limits = f"{low:g} to {high:g}" if low else f"below {high:g}"
        texts.append(f"{precision} {error:.1e} ({limits})")
    if wrong:
        raise NotOkError(", ".join(texts))
    return ", ".join(texts)


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.cpu().double() - exact).norm() / exact.norm())


def steps_as_on_cpu(trial: Trial) -> Measured:
    """Three fp32 steps from the same weights on the same batches, here and on the CPU."""
    if trial.device == "cpu":
        raise SkippedError("this is the CPU")
    texts, wrong = [], False
    for model in ("preresnet20", "vgg16"):
        here, cpu = (loss_of_three_steps(device, model) for device in ("cuda", "cpu"))
        wrong |= not math.isclose(here, cpu, rel_tol=1e-4)
        texts.append(f"{model} loss {here:.6f}, on the CPU {cpu:.6f}")
    if wrong:
        raise NotOkError(", ".join(texts))
    return ", ".join(texts)


def loss_of_three_steps(device: str, model: str) -> float:
    """The mean loss of three steps without dropout, whose draws are a device's own."""
    config = config_of(device, f"model={model}", "batch_size=64")
    images = timing.random_images(config, 3 * config.batch_size)
    on_cpu = to_device(images, config, torch.device("cpu")).draw(0, 0, "train")
    data = to_device(images, config, hardware.prepare(config))
    draws = data.buffers()
    draws.copy_(on_cpu)
    state = fresh_state(config, data)
    for layer in state.model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    step = TrainStep(config, state, data)
    step.begin_epoch(draws, [config.model.learning_rate] * 3, seed=0, epoch=0)
    (score,) = train_epoch([step])
    return score.loss


@functools.cache
def digests(trial: Trial, name: str, *options: str) -> dict[int, str | None]:
    """Digests of the predictions by the averaged weights that a short run ends with, by seed.

    The network has batch norm, whose recomputed statistics show there too, and on a GPU dropout.

    Args:
        name: of the folder of its results.
    """
    spec = _spec(trial, name, *options)
    found = {}
    for report in job.train_missing(spec):
        record = read_record(record_path(report))
        found[report.seed] = record.result.predictions_sha256 if record else None
    return found


def _spec(trial: Trial, name: str, *options: str) -> RunSpec:
    kind = ["model=vgg16_bn", "model.budget_epochs=6"]
    if trial.device == "cpu":
        kind = ["model=preresnet20", "model.budget_epochs=4"]
    folder = Path(trial.folder) / name
    common = [*SHORT_RUN, *kind, f"device={trial.device}", f"results_dir={folder}"]
    return hardware.resolve(compose_spec(*common, *options))


def _alone(trial: Trial, seed: int) -> str | None:
    """The digest of a seed that is trained alone, in one go, without graphs."""
    return digests(trial, "alone", "cuda_graphs=false", f"seed={seed}")[seed]


def _same(trial: Trial, found: object, expected: object, what: str) -> str:
    if found == expected:
        return f"{what}: the same bits"
    if digests(trial, "again", "cuda_graphs=false")[0] != _alone(trial, 0):
        raise SkippedError("deterministic=true does not repeat a run's bits here: none to compare")
    raise NotOkError(f"{what}: OTHER bits")


def resumed(trial: Trial) -> Measured:
    """A run that goes on from its checkpoint in the middle, against one in one go."""
    digests(trial, "resumed", "budget=0.5", "cuda_graphs=false")
    table = run_folder(_spec(trial, "resumed").config) / "epochs.csv"
    before = read_epochs(table)
    found = digests(trial, "resumed", "cuda_graphs=false")[0]
    if read_epochs(table)[: len(before)] != before:
        raise NotOkError("the checkpoint was not used")
    return _same(trial, found, _alone(trial, 0), "stopped midway, and in one go")


def graphs(trial: Trial) -> Measured:
    """Recorded steps and recomputation passes against eager ones: two sizes, tests in between.

    The rates change and there is dropout: a graph that froze either would give other bits.
    """
    if trial.device == "cpu":
        raise SkippedError("on a GPU only")
    found = digests(trial, "graphs", "cuda_graphs=true")[0]
    return _same(trial, found, _alone(trial, 0), "steps recorded and eager")


def together(trial: Trial) -> Measured:
    """Seeds that take turns on a device, against each alone."""
    seeds = 2 if trial.device == "cpu" else 3
    options = f"seeds_together={seeds}", f"cuda_graphs={trial.graphs}"
    found = digests(trial, "together", *options)
    expected = {seed: _alone(trial, seed) for seed in range(seeds)}
    return _same(trial, found, expected, f"{seeds} seeds at the same time, and each alone")


def no_waiting(trial: Trial) -> Measured:
    """Replayed steps, none of which waits for the device."""
    if trial.device == "cpu" or not trial.graphs:
        raise SkippedError("on a GPU only, with graphs")
    config = config_of(trial.device, "model=vgg16_bn", "cuda_graphs=true")
    step = timing.step_on_noise(config, steps=8)
    for _ in range(timing.WARM_UP["cuda"]):  # recording waits on purpose
        timing.epoch_seconds([step])
    if not (isinstance(step.advance, GraphedSteps) and step.advance.recorded):
        raise NotOkError("no step was recorded")
    step.begin_epoch(step.inputs.data.draw(0, 1, "train"), [0.1] * 8, seed=0, epoch=1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for size in step.sizes:
            step.step(size)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    step.score()
    return "no replayed step waits for the device"


def data_set(trial: Trial) -> Measured:
    """Whether CIFAR-10 is there; nothing is fetched."""
    dataset = dataclasses.replace(config_of(trial.device).dataset, source="local")
    try:
        images = load_images(dataset)
    except SwaBenchError:
        how = "swa-train fetches it, or make bundle brings it"
        return f"CIFAR-10 is not in {dataset.root}/ yet: {how}"
    return f"CIFAR-10 in {dataset.root}/: {len(images.train_labels):,} training images"
