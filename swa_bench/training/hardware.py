"""Device and precision of a run, and the versions that its figures depend on."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import swa_bench
from swa_bench.config.schema import Device, Precision, TrainConfig
from swa_bench.config.spec import RunSpec
from swa_bench.errors import ConfigError
from swa_bench.labels import counted
from swa_bench.results.machine import cpu_has_bf16


def resolve(spec: RunSpec) -> RunSpec:
    """The spec with what this machine has instead of `auto` in device and precision.

    Raises:
        ConfigError: what was asked for cannot be had here.
    """
    device, precision = decide(spec.config.device, spec.config.precision)
    return spec.replace(device=device, precision=precision)


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
