"""Device and precision of a run, and the versions that its figures depend on."""

import contextlib
import functools
import gc
import importlib.metadata
import logging
import os
import platform
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch

import swa_bench
from swa_bench.config.schema import Device, Precision, TrainConfig
from swa_bench.config.seeds import seed_block
from swa_bench.config.spec import RunSpec
from swa_bench.errors import ConfigError
from swa_bench.labels import counted
from swa_bench.results.machine import cpu_has_bf16, cpu_name, driver_version, output_of
from swa_bench.results.verdicts import Verdict, verdict_on
from swa_bench.training.cuda_fault import cuda_fault as cuda_fault

log = logging.getLogger(__name__)


def resolve(spec: RunSpec, swept: Container[int] = ()) -> RunSpec:
    """The spec with what this machine has instead of `auto`; ConfigError for what it has not.

    Args:
        swept: the seeds of the sweep whose jobs are done here one after the other.
    """
    config = spec.config
    device, precision = decide(config.device, config.precision)
    verdict = _verdict(config, device)
    if config.compile and verdict and verdict.compile is False:
        reason = verdict.because.get("compile", "it fails here")
        raise ConfigError("compile", True, f"swa-check found: {reason}; run it again when mended")
    graphs, together = config.cuda_graphs, config.seeds_together
    if graphs == "auto":
        lose = verdict is not None and verdict.cuda_graphs is False
        here = device == "cuda" and graphs_possible()
        graphs = here and config.dataset.memory == "device" and is_shipped(config) and not lose
    if together == "auto":
        together = verdict.seeds_together if verdict else 1
        asked_for = all(seed in swept for seed in seed_block(config.seed, together))
        if not asked_for or spec.is_ensemble_of_runs:  # whose runs are of other seeds too
            together = 1
    return spec.replace(
        device=device, precision=precision, cuda_graphs=graphs, seeds_together=together
    )


def is_shipped(config: TrainConfig) -> bool:
    """Whether all that a step runs is torch's or this project's.

    A graph would freeze what other code keeps or draws in Python.
    """
    parts = [vars(config.model), config.augmentation, *config.method.predictors.values()]
    shipped = all(str(part.get("_target_")).startswith("swa_bench.") for part in parts)
    return shipped and config.optimizer.get("_target_") == "torch.optim.SGD"


def _verdict(config: TrainConfig, device: Device) -> Verdict | None:
    """What swa-check said about the GPU, with this driver and torch; None for a CPU."""
    if device != "cuda":
        return None
    name, version = device_name(torch.device(device)), str(torch.__version__)
    return verdict_on(Path(config.results_dir), name, driver_version() or "unknown", version)


@functools.cache
def say_once(text: str) -> None:
    """Log a warning, unless this process has said it already."""
    log.warning("%s", text)


def decide(device: Device, precision: Precision) -> tuple[Device, Precision]:
    """What `auto` stands for on this machine; see `resolve`."""
    device = decide_device(device)
    native = native_precisions(device)
    if precision == "auto":
        precision = "bf16" if "bf16" in native else "fp32"
    if precision not in native:
        expected = f"this {device} has no such arithmetic; choose one of {', '.join(native)}, auto"
        raise ConfigError("precision", precision, expected)
    return device, precision


def decide_device(device: Device) -> Device:
    """What `auto` stands for; ConfigError where a GPU is there, or asked for, and of no use."""
    if device == "cpu":
        return "cpu"
    # Weeks on a CPU without a word are the worst that can happen.
    if fault := cuda_fault():
        raise ConfigError("device", device, f"{fault}; device=cpu computes without it")
    if torch.cuda.is_available():
        if torch.version.hip:
            say_once(f"ROCm {torch.version.hip} is untried: no CUDA graphs and no tf32")
        return "cuda"
    if device == "cuda":
        raise ConfigError("device", "cuda", "torch sees no CUDA GPU here; choose cpu or auto")
    others = {"Apple": torch.backends.mps.is_available(), "Intel": torch.xpu.is_available()}
    for maker in (name for name, there in others.items() if there):
        say_once(f"device=cpu: this {maker} GPU is not used, only those of NVIDIA are (by CUDA)")
    return "cpu"


def graphs_possible() -> bool:
    """Whether CUDA graphs may be used: on ROCm, which calls itself CUDA, they are untried."""
    return torch.cuda.is_available() and torch.version.hip is None


def recorded_precision(device: Device, precision: Precision) -> Precision:
    """In what a record of some precision is computed on a device that may lack its arithmetic.

    bf16 is emulated anywhere, and the weights of tf32 are fp32.
    """
    if precision == "auto" or precision in native_precisions(device):
        return decide(device, precision)[1]
    used: Precision = "fp32" if precision == "tf32" else precision
    how = "emulated" if used == precision else f"computed in {used}"
    say_once(f"precision={precision} is {how} on this {device}: figures differ in rounding")
    return used


def native_precisions(device: Device) -> list[Precision]:
    """What the device computes in hardware, fp32 first."""
    if device == "cuda":
        if torch.version.hip:
            return ["fp32", "bf16"]
        ampere = torch.cuda.get_device_capability() >= (8, 0)
        return ["fp32", "tf32", "bf16"] if ampere else ["fp32"]
    features = torch.backends.cpu.get_cpu_capability()
    return ["fp32", "bf16"] if "AVX512" in features and cpu_has_bf16() else ["fp32"]


def prepare(config: TrainConfig) -> torch.device:
    """Set torch's arithmetic as the configuration asks, and return its device."""
    if config.device == "cuda":
        tf32 = config.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        # As the authors: shapes do not change, so cuDNN may try which of its kernels is fastest.
        torch.backends.cudnn.benchmark = not config.deterministic
        torch.use_deterministic_algorithms(config.deterministic)
        # It would write NaN into every new tensor; all are written to before they are read.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        # For deterministic=true, now or later: these look for it in their first product alone.
        if torch.__version__ < "2.11":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(config.device)


def free_memory() -> None:
    """Give back what earlier runs of this process left on the GPU: graphs, networks, data sets."""
    gc.collect()
    with contextlib.suppress(RuntimeError):  # of a GPU that is lost
        torch.cuda.empty_cache()


def autocast(config: TrainConfig) -> torch.autocast:
    """The context in which forward passes run; weights stay float32."""
    return torch.autocast(config.device, dtype=torch.bfloat16, enabled=config.precision == "bf16")


def device_name(device: torch.device) -> str:
    """A name for records, such as 'NVIDIA H100 80GB HBM3' or 'AMD EPYC, 2 threads'."""
    name = model_name(device)
    on_cpu = device.type == "cpu"
    return f"{name}, {counted(torch.get_num_threads(), 'thread')}" if on_cpu else name


def model_name(device: torch.device) -> str:
    """The name of the GPU or processor, such as 'NVIDIA H100 80GB HBM3' or 'AMD EPYC'."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def versions() -> dict[str, Any]:
    """Versions that a figure depends on; the git commit ends in '+' if the checkout was changed."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": str(torch.__version__)}
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if on_gpu and torch.version.hip:
        found["hip"] = torch.version.hip
    elif on_gpu:
        found["cuda"] = torch.version.cuda
        with contextlib.suppress(RuntimeError):  # of a GPU beside this one that is too old for it
            found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    found["platform"] = f"{os.uname().sysname} {platform.machine()}"
    found["swa_bench"] = importlib.metadata.version("swa-bench")
    return found | {"commit": _commit(Path(swa_bench.__file__).parent.parent)}


def _commit(checkout: Path) -> str | None:
    if not (checkout / ".git").exists():
        return None
    git = ("git", "-C", str(checkout))
    head = output_of(*git, "rev-parse", "HEAD")
    changed = output_of(*git, "status", "--porcelain", "--untracked-files=no")
    return head and head + ("+" if changed else "")
