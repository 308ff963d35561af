"""Device and precision of a run, and the versions that its figures depend on."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch

import swa_bench
from swa_bench.config.schema import Device, Precision, TrainConfig
from swa_bench.config.spec import RunSpec, seed_block
from swa_bench.errors import ConfigError
from swa_bench.labels import counted
from swa_bench.results.verdicts import Verdict, verdict_on


def resolve(spec: RunSpec, swept: Container[int] = ()) -> RunSpec:
    """The spec with what this machine has instead of `auto`.

    Args:
        swept: the seeds of the sweep whose jobs are done here one after the other.

    Raises:
        ConfigError: what was asked for cannot be had here.
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
        nvidia = device == "cuda" and not torch.version.hip
        graphs = nvidia and config.dataset.memory == "device" and is_shipped(config) and not lose
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
    return verdict_on(Path(config.results_dir), name, driver_version(), version)


def driver_version() -> str:
    """The version of NVIDIA's driver, such as 550.54.15."""
    with contextlib.suppress(OSError):
        return Path("/sys/module/nvidia/version").read_text().strip()
    return "unknown"


def cuda_fault() -> str | None:
    """Why torch cannot use the NVIDIA GPU of this machine; None if it can, or there is none."""
    if not torch.cuda.is_available():
        there = Path("/proc/driver/nvidia/version").exists()
        needs = f"torch {torch.__version__} is for CUDA {torch.version.cuda}"
        return f"torch cannot use driver {driver_version()} ({needs})" if there else None
    major, minor = torch.cuda.get_device_capability()
    known = torch.cuda.get_arch_list()
    if not any(_runs_on(arch, major, minor) for arch in known):
        built = f"torch {torch.__version__} was built for {' '.join(known)}"
        return f"the GPU has capability {major}.{minor}; {built}"
    try:
        torch.ones(2, device="cuda").sum().item()
    except RuntimeError as error:
        return f"its first kernel fails: {str(error).splitlines()[0]}"
    return None


def _runs_on(arch: str, major: int, minor: int) -> bool:
    """Whether code for sm_86 runs here: on the same major, any later minor; compute_80 on later."""
    kind, _, number = arch.partition("_")
    of = divmod(int("".join(filter(str.isdigit, number))), 10)
    return of <= (major, minor) if kind == "compute" else of[0] == major and of[1] <= minor


def decide(device: Device, precision: Precision) -> tuple[Device, Precision]:
    """What `auto` stands for on this machine; see `resolve`."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", "cuda", "torch sees no CUDA GPU here; choose cpu or auto")
    native = native_precisions(device)
    if precision == "auto":
        precision = "bf16" if "bf16" in native else "fp32"
    if precision not in native:
        expected = f"this {device} has no such arithmetic; choose one of {', '.join(native)}, auto"
        raise ConfigError("precision", precision, expected)
    return device, precision


def native_precisions(device: Device) -> list[Precision]:
    """What the device computes in hardware, fp32 first."""
    if device == "cuda":
        ampere = torch.cuda.get_device_capability() >= (8, 0)
        return ["fp32", "tf32", "bf16"] if ampere else ["fp32"]
    features = torch.backends.cpu.get_cpu_capability()
    return ["fp32", "bf16"] if "AVX512" in features and _cpu_has_bf16() else ["fp32"]


def _cpu_has_bf16() -> bool:
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def prepare(config: TrainConfig) -> torch.device:
    """Set torch's arithmetic as the configuration asks, and return its device."""
    if config.device == "cuda":
        tf32 = config.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        # As the authors: shapes do not change, so cuDNN may try which of its kernels is fastest.
        torch.backends.cudnn.benchmark = not config.deterministic
        torch.use_deterministic_algorithms(config.deterministic)
        if config.deterministic and torch.__version__ < "2.11":  # later ones need no such workspace
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(config.device)


def autocast(config: TrainConfig) -> torch.autocast:
    """The context in which forward passes run; weights stay float32."""
    return torch.autocast(config.device, dtype=torch.bfloat16, enabled=config.precision == "bf16")


def device_name(device: torch.device) -> str:
    """A name for records, such as 'NVIDIA H100 80GB HBM3' or 'AMD EPYC, 2 threads'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {counted(torch.get_num_threads(), 'thread')}"


def versions() -> dict[str, Any]:
    """Versions that a figure depends on; the git commit ends in '+' if the checkout was changed."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if torch.version.cuda and torch.cuda.is_available():
        found["cuda"] = torch.version.cuda
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    found["platform"] = f"{os.uname().sysname} {platform.machine()}"
    found["swa_bench"] = importlib.metadata.version("swa-bench")
    return found | {"commit": _commit(Path(swa_bench.__file__).parent.parent)}


def _commit(checkout: Path) -> str | None:
    if not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout)]
    head = _output([*git, "rev-parse", "HEAD"])
    changed = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    return head and head + ("+" if changed else "")


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
