"""GPUs that torch cannot use, or that are not NVIDIA's: no run goes to the CPU without a word."""

from pathlib import Path

import pytest
import torch
from training_helpers import TINY, SwaTrain

from swa_bench.training import cuda_fault, hardware

TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update it."
NOT_READY = "Unexpected error. Did you run some functions before? Error 802: system not yet ready"


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an NVIDIA GPU that torch does not see."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 535.104.05\n")
    smi.chmod(0o755)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", "13.0")


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that torch sees, of capability 8.6."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "A GPU")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (8, 6))
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_80"])


def initialised(reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        if reason is not None:
            raise RuntimeError(reason)

    monkeypatch.setattr("torch.cuda.init", init)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_driver_too_old_is_an_error_that_device_cpu_overrides(
    nvidia: None, swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    initialised(TOO_OLD, monkeypatch)
    outcome = swa_train(*TINY, f"device={device}")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        f"swa-train: device={device}: torch {torch.__version__} cannot use this NVIDIA GPU (driver "
        "535.104.05): the driver supports CUDA 12.2 and this torch is for CUDA 13.0; install a "
        "newer driver, or a torch for CUDA 12.2; device=cpu computes without it"
    ]
    assert not (tmp_path / "results").exists()
    assert swa_train(*TINY, "device=cpu", "dry_run=csv").code == 0
    for hidden in ("", "-1", "NoDevFiles"):  # the last is Slurm's
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert cuda_fault.cuda_fault() is None


@pytest.mark.parametrize(
    ("reason", "chosen", "expected"),
    [
        (NOT_READY, None, "(driver 535.104.05): Error 802: system not yet ready (CUDA 13.0)"),
        ("No CUDA GPUs are available", "7", "with CUDA_VISIBLE_DEVICES=7: No CUDA GPUs are av"),
        (None, None, "(driver 535.104.05): it finds none (CUDA 13.0)"),
    ],
)
def test_other_reasons_are_torchs_own(
    nvidia: None,
    monkeypatch: pytest.MonkeyPatch,
    reason: str | None,
    chosen: str | None,
    expected: str,
) -> None:
    initialised(reason, monkeypatch)
    if chosen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert expected in str(hardware.cuda_fault())


def test_a_torch_without_cuda(nvidia: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", None)
    assert str(cuda_fault.cuda_fault()).endswith("it is built without CUDA; install one with CUDA")


@pytest.mark.parametrize(
    ("codes", "capability", "runs"),
    [
        ("sm_75 sm_80 sm_90", (8, 6), True),  # as code for 8.0 does
        ("sm_75 sm_80 sm_90", (7, 0), False),
        ("sm_86", (8, 0), False),  # code does not run on what is older
        ("sm_90a", (9, 0), True),
        ("sm_80 sm_90", (12, 0), False),  # nor on another major version
        ("sm_80 compute_90", (12, 0), True),  # but the driver compiles PTX
        ("compute_90", (8, 9), False),
    ],
)
def test_a_card_that_the_wheel_has_no_code_for(
    visible: None,
    monkeypatch: pytest.MonkeyPatch,
    codes: str,
    capability: tuple[int, int],
    runs: bool,
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    monkeypatch.setattr("torch.cuda.get_arch_list", codes.split)
    monkeypatch.setattr(cuda_fault, "_try_kernels", lambda: None)
    fault, (major, minor) = cuda_fault.cuda_fault(), capability
    expected = f"has no code for A GPU (capability {major}.{minor}), only for {codes}: install"
    assert fault is None if runs else expected in str(fault)


def test_a_first_kernel_that_fails(visible: None) -> None:
    """There is no GPU here, whatever torch has been made to say."""
    fault = str(cuda_fault.cuda_fault())
    assert fault.startswith(f"torch {torch.__version__} fails on this GPU: ") and "\n" not in fault


def test_rocm_is_untried(
    visible: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.version.hip", "6.3")
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr(cuda_fault, "_try_kernels", lambda: None)
    hardware.say_once.cache_clear()
    for _ in range(2):
        assert hardware.decide("auto", "auto") == ("cuda", "bf16")
    assert caplog.messages == ["ROCm 6.3 is untried: no CUDA graphs and no tf32"]
    assert "tf32" not in hardware.native_precisions("cuda")
    assert not hardware.graphs_possible()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert hardware.versions()["hip"] == "6.3" and "cuda" not in hardware.versions()


def test_versions_do_not_touch_a_gpu_that_is_not_used(
    visible: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be too old for cuDNN, as another one beside that which is used may be."""

    def fail() -> None:
        raise RuntimeError("not compatible with devices with SM < 7.5")

    monkeypatch.setattr(torch.backends.cudnn, "version", fail)
    assert "cuda" not in hardware.versions()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    found = hardware.versions()
    assert found["cuda"] == torch.version.cuda and "cudnn" not in found


@pytest.mark.parametrize(("maker", "name"), [("Apple", "backends.mps"), ("Intel", "xpu")])
def test_other_gpus_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, maker: str, name: str
) -> None:
    monkeypatch.setattr(f"torch.{name}.is_available", lambda: True)
    hardware.say_once.cache_clear()
    assert hardware.decide_device("auto") == "cpu"
    (line,) = caplog.messages
    assert f"device=cpu: this {maker} GPU is not used" in line
