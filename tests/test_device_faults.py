"""Memory that is too small and GPUs that fail: one line, and the other jobs of a sweep go on."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.torch_version import TorchVersion
from training_helpers import SHORT_RECIPE, TINY, SwaTrain, TinyNet, config_of, records_of

from swa_bench.commands import export
from swa_bench.training import faults, hardware, job

SMALL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of "
SMALL += "which 512.00 MiB is free. Process 1 has 7.00 GiB memory in use."
LOST = "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`."
CUDNN = "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"
ERRORS = {
    "memory": torch.OutOfMemoryError(SMALL),
    "host": MemoryError("Unable to allocate 7.11 PiB for an array"),
    "lost": RuntimeError(LOST),
    "cudnn": RuntimeError(CUDNN),
}
FAILING = ["model=own", "model.name=failing", f"model._target_={__name__}.Failing", *SHORT_RECIPE]
FAILING += ["model.swa_learning_rate.cifar10=0.01", "budget=1", "method=sgd"]


class Failing(TinyNet):
    """Fails on whole batches, which a rehearsal on a CPU does not try."""

    def __init__(self, num_classes: int, error: str) -> None:
        super().__init__(num_classes)
        self.error = ERRORS.get(error)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, S, S) to logits (N, num_classes)."""
        if self.error is not None and self.training and len(images) > 100:
            raise self.error
        return super().forward(images)


HELPS = "precision=bf16 helps; a smaller batch_size is another recipe"
FAULTS = {
    "memory": f"memory is too small (2.00 GiB asked for, 512.00 MiB of 7.79 GiB free): {HELPS}",
    "host": f"memory is too small (7.11 PiB asked for): {HELPS}",
    "cudnn": f"the GPU fails ({CUDNN}): start the command again",
}


@pytest.mark.parametrize("error", FAULTS)
def test_the_other_jobs_of_a_sweep_go_on(swa_train: SwaTrain, tmp_path: Path, error: str) -> None:
    outcome = swa_train("-m", *FAILING, f"+model.arguments.error=no,{error},none")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    (failed,) = (line for line in outcome.err.splitlines() if "FAILED" in line)
    assert failed.endswith(f"error={error}: {FAULTS[error]}")
    assert len(records_of(tmp_path)) == 2
    (traceback,) = tmp_path.rglob("traceback.txt")
    assert "in forward" in traceback.read_text()


def test_images_that_memory_does_not_hold(
    swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(dataset: Any) -> None:
        raise ERRORS["host"]

    monkeypatch.setattr(job, "load_images", fail)
    outcome = swa_train(*TINY)
    assert outcome.code == 1 and "Traceback" not in outcome.err
    expected = "swa-train: this machine's memory is too small: Unable to allocate 7.11 PiB"
    assert outcome.err.splitlines()[-1].startswith(expected)


def test_a_gpu_that_is_lost_ends_the_sweep(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "device_is_lost", lambda: True)
    sweep = ["+model.arguments.error=no,lost,none", "also_train=[swa]"]
    outcome = swa_train("-m", *FAILING, *sweep)
    assert outcome.code == 3
    said = [line for line in outcome.err.splitlines() if line.startswith("swa-train: ")]
    assert len(said) == 3 and "Traceback" not in outcome.err
    assert said[0].startswith("swa-train: FAILED ") and said[0].endswith(
        "the GPU is lost for this process (CUDA error: device-side assert triggered): start the "
        "command again, which goes on from the last checkpoint; CUDA_LAUNCH_BLOCKING=1 shows where "
        "it fails"
    )
    assert said[2] == "swa-train: the sweep ends here, without the jobs after it"
    assert [name[:5] for name in records_of(tmp_path)] == ["sgd-s", "swa-s"]  # of the first job
    assert len(list(tmp_path.rglob("config.yaml"))) == 3  # SWA was not tried on the lost GPU
    assert outcome.out.endswith("swa-tables makes the tables of all runs.\n")


def test_whether_a_gpu_is_lost_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that goes away costs a run, not the process."""
    assert not faults.device_is_lost()
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    assert not faults.device_is_lost()

    def fail() -> None:
        raise RuntimeError(LOST)

    monkeypatch.setattr("torch.cuda.synchronize", fail)
    assert faults.device_is_lost()


def test_tests_go_by_as_many_images_as_memory_holds(
    swa_train: SwaTrain, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 test images it holds 30: 100, 50, 25."""
    assert swa_train(*TINY).code == 0
    sizes, forward = [], TinyNet.forward

    def limited(model: TinyNet, images: Tensor) -> Tensor:
        sizes.append(len(images))
        if len(images) > 30:
            raise torch.OutOfMemoryError(SMALL)
        return forward(model, images)

    (path,) = Path("results").rglob("cell-1.json")
    export.swa_export([str(path), "net.safetensors", "--trust"])
    capfd.readouterr()
    monkeypatch.setattr(TinyNet, "forward", limited)
    export.swa_evaluate(["net.safetensors", "--trust"])
    ours, recorded = capfd.readouterr().out.splitlines()
    assert recorded.startswith(f"its record: {ours.removeprefix('test error ')}")
    assert sizes == [100, 50, 25, 25, 25, 25]
    monkeypatch.setattr(
        TinyNet, "forward", lambda model, images: limited(model, images[:1].expand(31, -1, -1, -1))
    )
    with pytest.raises(SystemExit, match=r"swa-evaluate: memory is too small \(2.00 GiB asked for"):
        export.swa_evaluate(["net.safetensors", "--trust"])


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_record_is_evaluated_without_its_arithmetic(
    swa_train: SwaTrain,
    capfd: Any,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    """A CPU computes both somehow; only training asks for what is native."""
    options = [*TINY, f"precision={precision}"]
    monkeypatch.setattr(hardware, "native_precisions", lambda device: ["fp32", precision])
    assert swa_train(*options).code == 0
    monkeypatch.setattr(hardware, "native_precisions", lambda device: ["fp32"])
    assert f"precision={precision}: this cpu has no such" in swa_train(*options, "force=true").err
    (path,) = Path("results").rglob("cell-1.json")
    said: set[str] = set()
    monkeypatch.setattr(hardware, "say_once", said.add)
    export.swa_export([str(path), "net.safetensors", "--trust"])
    export.swa_evaluate(["net.safetensors", "--trust"])
    _, ours, recorded = capfd.readouterr().out.splitlines()
    assert recorded.startswith(f"its record: {ours.removeprefix('test error ')}")
    how = {"bf16": "emulated", "tf32": "computed in fp32"}[precision]
    assert said == {f"precision={precision} is {how} on this cpu: figures differ in rounding"}


@pytest.mark.parametrize(("version", "set_to"), [("2.10.0", ":4096:8"), ("2.11.0", None)])
def test_earlier_torch_has_its_workspace_before_the_first_product(
    monkeypatch: pytest.MonkeyPatch, version: str, set_to: str | None
) -> None:
    """They look for it once: a run with deterministic=true may follow one without."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    hardware.prepare(replace(config_of(*TINY), device="cuda"))
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == set_to
