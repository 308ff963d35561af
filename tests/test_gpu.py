"""What only a GPU can show; `make test-gpu` runs these, and `make test` leaves the GPU alone."""

import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import make_folder
from safetensors.torch import save_file
from torch.nn import functional as F
from training_helpers import DROPOUT, SHAKE, SHORT_RECIPE, SwaTrain, TinyNet, records_of

from swa_bench.analysis import export
from swa_bench.analysis.restore import User
from swa_bench.commands import check, width
from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import compose_spec
from swa_bench.data.batches import to_device
from swa_bench.data.images import load_images
from swa_bench.data.random import RandomNumbers
from swa_bench.errors import SwaBenchError
from swa_bench.results.locks import EndRequest
from swa_bench.results.verdicts import read_verdicts
from swa_bench.training import check_speed, hardware, timing
from swa_bench.training.faults import device_faults
from swa_bench.training.network import fresh_model
from swa_bench.training.recorded_pass import RecordedPass

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: see make test-gpu"),
]

# Steps are recorded in the second epoch of a process, so that most of these are replayed.
# VGG16 has dropout, PreResNet20 has batch norm, Shake-Shake draws for the backward pass too.
VGG16 = ["model=vgg16", *SHORT_RECIPE, "model.budget_epochs=2", "model.swa_start=1", "budget=4"]
VGG16 += ["dataset.train_images=64", "dataset.test_images=20", "batch_size=24"]
PRERESNET20 = ["model=preresnet20", *SHORT_RECIPE]
# A network of torchvision, whose steps are recorded too.
DENSENET161 = ["model=densenet161", *VGG16[1:]]
NETS = {"vgg16": VGG16, "preresnet20": [*PRERESNET20, "budget=1.5"], "densenet161": DENSENET161}
NETS["shake"] = [*SHAKE, *SHORT_RECIPE, "budget=1.5"]


# A device-side assertion, after which every later call fails; then what is made of it.
LOSES_THE_GPU = """
import torch
from swa_bench.training.faults import device_faults
with device_faults("less"):
    torch.zeros(3, device="cuda")[torch.tensor([7], device="cuda")].sum().item()
"""


def config_of(*overrides: str) -> TrainConfig:
    return hardware.resolve(compose_spec(*overrides, "device=cuda")).config


def test_this_gpu_can_be_used() -> None:
    assert hardware.cuda_fault() is None
    assert hardware.decide_device("auto") == "cuda"


def test_small_memory_and_a_lost_gpu_are_told_apart() -> None:
    line = r"memory is too small \([\d.]+ \w+ asked for, [\d.]+ \w+ of [\d.]+ \w+ free\): less$"
    with pytest.raises(SwaBenchError, match=line), device_faults("less"):
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    assert torch.ones(3, device="cuda").sum().item() == 3
    command = [sys.executable, "-c", LOSES_THE_GPU]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "DeviceLostError: the GPU is lost for this process (CUDA error: dev" in done.stderr


def weights(results: Path) -> dict[str, tuple[str, float]]:
    """{seed and budget: digest of the weights, test loss}; only options differ in folders' names.

    The loss also depends on the recomputed batch-norm statistics.
    """
    found = {}
    for name, record in records_of(results).items():
        result = record["result"]
        bits = result["weights_sha256"], result["test_loss"]
        found[f"seed {record['seed']} {name.split('/')[1]}"] = bits
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("net", NETS)
def test_graphs_seeds_together_and_resume_change_no_bit(
    tmp_path: Path, swa_train: SwaTrain, net: str, precision: str
) -> None:
    """Against the same steps without graphs, a seed at a time, in one go."""
    arguments = [*NETS[net], "device=cuda", "deterministic=true", f"precision={precision}"]
    for seed in (0, 1, 2):
        assert swa_train(*arguments, f"seed={seed}", "cuda_graphs=false").code == 0
    expected = weights(tmp_path / "results")
    for folder, options in {
        "again": ["cuda_graphs=false"],
        "graphs": [],
        "together": ["seeds_together=3"],
    }.items():
        outcome = swa_train(*arguments, f"results_dir={folder}", *options)
        assert outcome.code == 0, outcome.err
        found = weights(tmp_path / folder)
        assert len(found) in (len(expected) / 3, len(expected))
        assert {name: expected[name] for name in found} == found, folder
    assert swa_train(*arguments, "results_dir=resumed", "budget=1").code == 0
    assert "Going on after" in swa_train(*arguments, "results_dir=resumed").err
    found = weights(tmp_path / "resumed")
    assert {name: expected[name] for name in found} == found


@pytest.mark.parametrize("net", NETS)
def test_runs_that_are_stopped_in_epochs_end_with_the_same_bits(
    tmp_path: Path, swa_train: SwaTrain, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to end again and again, at steps that are replayed and between batches of a test.

    A process takes three steps before it replays any; a graph is then recorded in mid-epoch.
    """
    together = [*NETS[net], "device=cuda", "deterministic=true", "seeds_together=2"]
    assert swa_train(*together).code == 0
    looks, check = itertools.count(1), EndRequest.check

    def look(request: EndRequest) -> None:
        if next(looks) % 17 == 0:
            request.note(signal.SIGTERM, None)
        check(request)

    monkeypatch.setattr(EndRequest, "check", look)
    seldom = "checkpoints.every_s=1000"
    codes = [swa_train(*together, seldom, "results_dir=stopped").code]
    while codes[-1] == 128 + signal.SIGTERM:
        codes.append(swa_train(*together, seldom, "results_dir=stopped").code)
    assert codes[-1] == 0 and len(codes) > 2
    assert weights(tmp_path / "stopped") == weights(tmp_path / "results")


def test_a_position_of_a_gpus_stream_is_gone_on_from_in_its_place() -> None:
    """The state that graphs were recorded with stays; what is drawn is what would have been."""
    device = torch.device("cuda")
    first = RandomNumbers(device).start(0, 0, "dropout")
    with first.lent():
        torch.rand(7, device=device)
    position, draws = first.position(), []
    second = RandomNumbers(device)
    state = second.on_gpu
    second.go_on(position)
    for stream in (first, second):
        with stream.lent():
            draws.append((torch.rand(5, device=device).tolist(), torch.rand(5).tolist()))
    assert draws[0] == draws[1] and second.on_gpu is state


def test_first_weights_have_the_loss_that_they_have_on_a_cpu(
    tmp_path: Path, swa_train: SwaTrain
) -> None:
    """Before training, by method=pretrained."""
    weights = fresh_model(config_of("model=resnet50"), torch.device("cpu")).state_dict()
    save_file({name: values.contiguous() for name, values in weights.items()}, "w.safetensors")
    few = ["dataset=cifar10_mini", "dataset.train_images=40", "dataset.test_images=100"]
    options = ["model=resnet50", "init=w.safetensors", "method=pretrained", "precision=fp32", *few]
    for device in ("cpu", "cuda"):
        assert swa_train(*options, f"device={device}", f"results_dir={device}").code == 0
    (one,), (other,) = (records_of(tmp_path / device).values() for device in ("cpu", "cuda"))
    assert one["result"]["weights_sha256"] == other["result"]["weights_sha256"]
    assert other["result"]["test_loss"] == pytest.approx(one["result"]["test_loss"], rel=1e-3)


def test_what_is_kept_after_every_step_is_kept_in_graphs_too(
    tmp_path: Path, swa_train: SwaTrain
) -> None:
    arguments = [*PRERESNET20, "method=ema", "device=cuda", "deterministic=true"]
    for graphs in ("true", "false"):
        outcome = swa_train(*arguments, f"cuda_graphs={graphs}", f"results_dir={graphs}")
        assert outcome.code == 0, outcome.err
    found, expected = (weights(tmp_path / graphs) for graphs in ("true", "false"))
    assert len(found) == 1 and found == expected


class Unrecordable(TinyNet):
    """Reads a value on the host in its forward pass, which a CUDA graph cannot record."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As its base, with a pooling that a GPU can also repeat bit by bit."""
        features = F.relu(self.norm(self.conv(images)))
        pooled = F.avg_pool2d(features, 4, 3).flatten(1)
        logits: torch.Tensor = self.linear(self.dropout(pooled))
        assert logits.sum().item() is not None
        return logits


def test_steps_that_cannot_be_recorded_are_taken_to_the_same_bits(
    tmp_path: Path, swa_train: SwaTrain
) -> None:
    """It draws for its dropout before and after the recording fails."""
    arguments = [*DROPOUT, f"model._target_={__name__}.Unrecordable", "budget=2"]
    arguments += ["device=cuda", "deterministic=true"]
    said = {}
    for graphs in ("true", "false"):
        outcome = swa_train(*arguments, f"cuda_graphs={graphs}", f"results_dir={graphs}")
        assert outcome.code == 0, outcome.err
        said[graphs] = outcome.err.count("Going on without CUDA graphs")
    assert said == {"true": 1, "false": 0}
    assert weights(tmp_path / "true") == weights(tmp_path / "false")


def test_swa_check_finds_no_fault(tmp_path: Path) -> None:
    """Nor a check that only this command does: among them that no step waits for the host."""
    check.swa_check(["--device", "cuda", "--results-dir", str(tmp_path)])
    (verdict,) = read_verdicts(tmp_path)
    assert [one for one in verdict.checks if one.outcome == "not ok"] == []
    skipped = {one.name for one in verdict.checks if one.outcome == "skipped"}
    # All but the first network if time was short.
    assert skipped <= {"threads", "compile", *check_speed.MODELS["cuda"][1:]}


@pytest.mark.parametrize("graphs", ["true", "false"])
def test_a_recomputation_pass_waits_for_nothing(graphs: str) -> None:
    """Eight whole batches and a smaller one; the first pass records the graph."""
    options = ["dataset=cifar10_mini", "dataset.train_images=200", "batch_size=24"]
    config = config_of("model=preresnet20", f"cuda_graphs={graphs}", "precision=bf16", *options)
    data = to_device(load_images(config.dataset), config, torch.device("cuda"))
    one = RecordedPass(fresh_model(config, data.device), config, data)
    for epoch in range(3):
        draws = data.draw(0, epoch, "recompute")
        torch.cuda.set_sync_debug_mode("error" if epoch else "default")
        one.recompute(draws, seed=0, epoch=epoch)
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite().all() for value in one.sums)


def test_vgg16_trains_in_two_gigabytes() -> None:
    config = config_of("model=vgg16", "precision=bf16")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()  # such as workspaces of other tests' streams
    steps = [timing.step_on_noise(config, steps=391)]
    for _ in range(2):  # the second with graphs
        timing.epoch_seconds(steps)
    assert torch.cuda.max_memory_allocated() - before < 2e9


def test_ensembles_export_and_width_on_a_gpu(tmp_path: Path, swa_train: SwaTrain) -> None:
    """The error of the record from an exported file, also on the CPU up to rounding."""
    options = [*PRERESNET20, "device=cuda", "model.budget_epochs=5"]
    options += ["also_train=[sgd,fge,snapshot]"]
    assert swa_train(*options).code == 0
    found = records_of(tmp_path / "results")
    (path,) = tmp_path.rglob("swa-seed0-*/cell-1.json")
    export.export(path, tmp_path / "net.safetensors", User("cuda"))
    score, _, _ = export.evaluate(tmp_path / "net.safetensors", User("cuda"))
    result = next(r["result"] for name, r in found.items() if name.startswith("swa"))
    assert score.loss == pytest.approx(result["test_loss"], rel=1e-5)
    on_cpu, _, _ = export.evaluate(tmp_path / "net.safetensors", User("cpu"))
    assert on_cpu.loss == pytest.approx(score.loss, rel=1e-3)
    folder = tmp_path / "results/runs/cifar10_mini/preresnet20"
    width.swa_width([str(folder), "--device", "cuda", "--parts", "rays", "--steps", "2"])
    assert len(list(tmp_path.rglob("rays.png"))) == 1


def test_images_stream_to_the_gpu(tmp_path: Path, swa_train: SwaTrain) -> None:
    """From pinned memory, with the bits that the main process alone gives; a CPU sees them too."""
    make_folder(tmp_path / "images")
    arguments = ["dataset=image_folder", "dataset.root=images", "dataset.memory=disk", *VGG16[:1]]
    arguments += ["augmentation=random_resized_crop", "model.budget_epochs=2", "model.swa_start=1"]
    arguments += ["batch_size=5", "device=cuda", "deterministic=true", "precision=fp32"]
    for workers in (0, 3):
        outcome = swa_train(
            *arguments, f"dataset.workers={workers}", f"results_dir=of_{workers}", "budget=1"
        )
        assert outcome.code == 0, outcome.err
    alone, streamed = (weights(tmp_path / f"of_{workers}") for workers in (0, 3))
    assert len(alone) == 1 and alone == streamed
    config = config_of(*arguments)
    files = load_images(config.dataset)
    devices = map(torch.device, ("cuda", "cpu"))
    on_gpu, on_cpu = (list(to_device(files, config, one).test_batches(4)) for one in devices)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert ours[0].is_cuda and torch.equal(ours[1].cpu(), theirs[1])
        torch.testing.assert_close(ours[0].cpu(), theirs[0])
