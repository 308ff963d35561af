"""Where a run computes, and in what arithmetic."""

import contextlib
import os
import platform
from pathlib import Path

import torch

from swa_bench.config.schema import Device, Precision, TrainConfig
from swa_bench.errors import ConfigError


def decide(config: TrainConfig) -> torch.device:
    """Replace `auto` in config.device and config.precision by what this machine has.

    Raises:
        ConfigError: what was asked for cannot be had here.
    """
    if config.device is Device.auto:
        config.device = Device.cuda if torch.cuda.is_available() else Device.cpu
    if config.device is Device.cuda and not torch.cuda.is_available():
        raise ConfigError("device", "cuda", "torch sees no CUDA GPU here; choose cpu or auto")
    native = native_precisions(config.device)
    if config.precision is Precision.auto:
        config.precision = Precision.bf16 if Precision.bf16 in native else Precision.fp32
    if config.precision not in native:
        choices = ", ".join(precision.value for precision in native)
        raise ConfigError(
            "precision",
            config.precision.value,
            f"this {config.device.value} has no such arithmetic; choose one of {choices}, auto",
        )
    if config.device is Device.cuda:
        tf32 = config.precision is Precision.tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        # As the authors: shapes do not change, so cuDNN may try which of its kernels is fastest.
        torch.backends.cudnn.benchmark = not config.deterministic
        torch.use_deterministic_algorithms(config.deterministic)
        if config.deterministic and torch.__version__ < "2.11":  # asks for it; set, it slows steps
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(config.device.value)


def native_precisions(device: Device) -> list[Precision]:
    """What the device computes in hardware, fp32 first."""
    if device is Device.cuda:
        ampere = torch.cuda.get_device_capability() >= (8, 0)
        return [Precision.fp32] + ([Precision.tf32, Precision.bf16] if ampere else [])
    features = torch.backends.cpu.get_cpu_capability()
    bf16 = "AVX512" in features and _cpu_has_bf16()
    return [Precision.fp32] + ([Precision.bf16] if bf16 else [])


def _cpu_has_bf16() -> bool:
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def autocast(config: TrainConfig) -> torch.autocast:
    """The context in which forward passes run; weights stay float32."""
    enabled = config.precision is Precision.bf16
    return torch.autocast(config.device.value, dtype=torch.bfloat16, enabled=enabled)


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
    return f"{name}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions that a figure depends on."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if torch.version.cuda and torch.cuda.is_available():
        found["cuda"] = torch.version.cuda
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    found["platform"] = f"{os.uname().sysname} {platform.machine()}"
    return found
