"""Why torch cannot use the NVIDIA GPU of this machine: the driver, the wheel, the card."""

import os
import re
import warnings

import torch

from swa_bench.results.machine import driver_version


def cuda_fault() -> str | None:
    """Why torch cannot use the NVIDIA GPU of this machine; None if it can, or there is no such GPU.

    A GPU that CUDA_VISIBLE_DEVICES hides, or that a container does not see, is none.
    """
    with warnings.catch_warnings(action="ignore"):  # torch's are about what is said here
        if not torch.cuda.is_available():
            return _why_unavailable()
        try:
            major, minor = torch.cuda.get_device_capability()
            codes = torch.cuda.get_arch_list() if torch.version.cuda else []
            if codes and not any(_runs_on(code, (major, minor)) for code in codes):
                gpu = f"{torch.cuda.get_device_name()} (capability {major}.{minor})"
                known = f"only for {' '.join(codes)}: install one that has"
                return f"torch {torch.__version__} has no code for {gpu}, {known}"
            _try_kernels()
        except Exception as error:
            reason = str(error).partition("\n")[0].strip(". ")
            return f"torch {torch.__version__} fails on this GPU: {reason}"
    return None


def _why_unavailable() -> str | None:
    driver, visible = driver_version(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not driver:
        return None
    found = f"torch {torch.__version__} cannot use this NVIDIA GPU (driver {driver})"
    if torch.version.cuda is None:
        return f"{found}: it is built without CUDA; install one with CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # raises what is_available keeps to itself
        reason = "it finds none"
    except Exception as error:
        text = str(error)
        numbered = re.search(r"Error \d+: .+", text)  # after advice about something else
        reason = numbered[0] if numbered else text.partition(". ")[0]
    if most := re.search(r"found version (\d+)", reason):
        most_cuda = f"{int(most[1]) // 1000}.{int(most[1]) % 1000 // 10}"
        return (
            f"{found}: the driver supports CUDA {most_cuda} and this torch is for CUDA "
            f"{torch.version.cuda}; install a newer driver, or a torch for CUDA {most_cuda}"
        )
    chosen = f" with CUDA_VISIBLE_DEVICES={visible}" if visible else ""
    return f"{found}{chosen}: {reason.strip('. ')} (CUDA {torch.version.cuda})"


def _runs_on(code: str, capability: tuple[int, int]) -> bool:
    """Whether code such as sm_86 or compute_90 (PTX, compiled by the driver) runs on a GPU."""
    kind, _, number = code.rstrip("af").partition("_")
    built_for = divmod(int(number), 10)
    same_major = built_for[0] == capability[0]
    return built_for <= capability and (same_major or kind == "compute")


def _try_kernels() -> None:
    """A convolution, since cuDNN supports fewer GPUs than torch itself.

    No product: earlier versions of torch look for CUBLAS_WORKSPACE_CONFIG in the first one, and
    `hardware.prepare` sets it later.
    """
    ones = torch.ones(2, 3, 8, 8, device="cuda")
    torch.nn.functional.conv2d(ones, ones).sum().item()
