"""What this machine is, as far as it shows without torch, which takes seconds to import."""

import contextlib
import functools
import os
import platform
import re
import subprocess
from pathlib import Path

from swa_bench.config.schema import Device, Precision
from swa_bench.config.spec import RunSpec

CPU_INFO, DEVICES = Path("/proc/cpuinfo"), Path("/dev")
NVIDIA_INFO = Path("/proc/driver/nvidia/gpus")
NVIDIA_DRIVER = Path("/sys/module/nvidia/version")
BF16 = {"avx512_bf16", "amx_bf16"}  # a flag of processors that compute bf16
# In the environment of jobs that run side by side, where OMP_NUM_THREADS is not the user's wish.
SIDE_BY_SIDE = "SWA_TRAIN_SIDE_BY_SIDE"
THREADS = re.compile(r", (\d+) threads?$")  # ends the name that records have for a processor


def guess(spec: RunSpec) -> RunSpec:
    """The spec with what `auto` will probably stand for; it stays where that does not show."""
    device, precision = spec.config.device, spec.config.precision
    if device == "auto":
        device = _device()
    if precision == "auto":
        precision = _best_precision(device)
    return spec.replace(device=device, precision=precision)


def _device() -> Device:
    if gpu_names():
        return "cuda"
    return "auto" if (DEVICES / "kfd").exists() else "cpu"  # torch may see a GPU of AMD as CUDA


def _best_precision(device: Device) -> Precision:
    if device == "cpu":
        overridden = "ATEN_CPU_CAPABILITY" in os.environ  # torch's own view of the processor
        return "auto" if overridden else "bf16" if cpu_has_bf16() else "fp32"
    known = _nvidia_smi("compute_cap") if device == "cuda" else []
    if not known or len(set(known)) > 1:
        return "auto"
    return "bf16" if float(known[0]) >= 8 else "fp32"


def device_names(device: Device) -> str:
    """What is called so here, such as 'AMD EPYC'; "" if that does not show."""
    return cpu_name() if device == "cpu" else ", ".join(dict.fromkeys(gpu_names()))


@functools.cache
def cpu_name() -> str:
    """The processor's, such as 'AMD EPYC'."""
    found = re.search(r"^model name\s*: (.*)$", _cpu_info(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def cpu_has_bf16() -> bool:
    """Whether the processor computes bf16, by its flags."""
    found = re.search(r"^flags\s*: (.*)$", _cpu_info(), re.MULTILINE)
    return found is not None and not BF16.isdisjoint(found[1].split())


def _cpu_info() -> str:
    try:
        return CPU_INFO.read_text()
    except OSError:
        return ""


@functools.cache
def gpu_names() -> tuple[str, ...]:
    """The names of the NVIDIA GPUs that processes may use here; those of other makers are none."""
    if _are_hidden() or not (_devices() or (DEVICES / "dxg").exists()):
        return ()
    texts = (path.read_text() for path in sorted(NVIDIA_INFO.glob("*/information")))
    names = [found[1].strip() for text in texts if (found := re.search(r"Model:\s*(.*)", text))]
    names = names or _nvidia_smi("name")
    visible = re.findall(r"\b\d+\b", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    chosen = [names[int(index)] for index in visible if int(index) < len(names)]
    return tuple(chosen or names)


def driver_version() -> str:
    """The version of NVIDIA's driver, such as 550.54.15; "" where there is no GPU to use."""
    if _are_hidden():
        return ""
    if _devices():
        with contextlib.suppress(OSError):
            return NVIDIA_DRIVER.read_text().strip()
    return next(iter(_nvidia_smi("driver_version")), "unknown" if _devices() else "")


def _are_hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides all GPUs, as "", -1 and Slurm's NoDevFiles do."""
    return not re.match(r"\d|GPU-|MIG-", os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip())


def _devices() -> list[Path]:
    """Those of NVIDIA. A container has the host's /proc and /sys, but only its own devices."""
    return list(DEVICES.glob("nvidia[0-9]*"))


def _nvidia_smi(what: str) -> list[str]:
    """A value of each GPU, none where the tool is missing or fails."""
    command = ("nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader")
    listed = output_of(*command, timeout_s=10)
    return [line.strip() for line in (listed or "").splitlines()]


def output_of(*command: str, timeout_s: float | None = None) -> str | None:
    """What a command prints; None if it is not there, fails, or takes too long."""
    try:
        return subprocess.check_output(
            command, stderr=subprocess.DEVNULL, text=True, timeout=timeout_s
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None
