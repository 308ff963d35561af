"""The rehearsal: what would fail later says so in one line before anything is written."""

import functools
import json
import random
from pathlib import Path
from typing import Any

import network_helpers
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from training_helpers import (
    DROPOUT,
    SHORT_RECIPE,
    SwaTrain,
    config_of,
    records_of,
    spec_of,
    untimed,
)

from swa_bench.analysis.export import evaluate, export
from swa_bench.analysis.restore import User
from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import RunSpec
from swa_bench.errors import ConfigError
from swa_bench.training import job
from swa_bench.training.job import train_missing
from swa_bench.training.network import Spare, copy_of, fresh_model
from swa_bench.training.rehearsal import Rehearsal, rehearse

CPU = torch.device("cpu")
OWN = ["model=own", "model.name=net", *SHORT_RECIPE, "batch_size=50", "precision=fp32"]


def options_of(name: str, *more: str) -> list[str]:
    return [*OWN, f"model._target_=network_helpers.{name}", *more]


@functools.cache
def base_spec(*more: str) -> RunSpec:
    return spec_of(*options_of("Base", *more))


def spec_with(name: str, *more: str) -> RunSpec:
    """As spec_of(*options_of(name, *more)), but composed once for all networks."""
    cfg = base_spec(*more).cfg.copy()
    OmegaConf.update(cfg, "model._target_", f"network_helpers.{name}")
    return RunSpec.of(cfg)


def with_network(name: str, *more: str) -> TrainConfig:
    return spec_with(name, *more).config


# {network and options: the beginning and a part of the line}
ODD = "dataset.train_images=151"
FIRST = "+method.predictors.mine._target_=network_helpers"
FAULTS = {
    "ViewOfImages": ("channels_last=true: the network fails", ": channels_last=false helps"),
    "Frozen": ("model._target_=", "nothing to train: all its parameters are frozen"),
    "NoParameters": ("model._target_=", "has no parameters"),
    "TupleInEvaluation": (
        "model._target_=",
        "makes tuple of two images instead of logits (2, 10) in",
    ),
    "DictInTraining": (
        "model._target_=",
        "makes dict of two images instead of logits (2, 10) in tr",
    ),
    "AuxiliaryInTraining": ("model._target_=", "makes Outputs of two images"),
    "SoftmaxInEvaluation": (
        "model._target_=network_helpers.SoftmaxInEvaluation: ",
        "gives probabilities instead of logits in evaluation mode",
    ),
    "SoftmaxAlways": ("model._target_=", "gives probabilities instead of logits in training mode"),
    "Guesses": ("model._target_=", "makes (2,) of two images instead of logits (2, 10) in evalua"),
    f"NormOfVectors {ODD}": (
        "batch_size=50: the last batch is of 1 image, with which the network fails",
        "Expected more than 1 value per channel when training",
    ),
    f"NormOfVectors {ODD} batch_size=25": ("batch_size=25: ", ": 26 leaves no such batch"),
    "NormOfVectors batch_size=1": ("batch_size=1: the last batch is of 1 image", ": 2 leaves no"),
    "NormOfVectors dataset.train_images=1": ("batch_size=50: ", "Expected more than 1 value"),
    "Squeezed dataset.test_images=101 evaluation.batch_size=50": (
        "evaluation.batch_size=50: the last batch is of 1 image, with which the network makes ",
        "(10,) of one image instead of logits (1, 10) in evaluation mode: 51 leaves no such batch",
    ),
    "TooLarge": ("batch_size=50: fails on images", "memory is too small (9 GiB asked for): pre"),
    "EvenBatches dataset.train_images=87": (
        "batch_size=50: the last batch is of 37 images, wi",
        "even",
    ),
    "Huge": ("model._target_=", "memory is too small"),
    "NotFinite": ("model._target_=", "gives logits that are not finite in training mode"),
    "LargeImages": ("model._target_=", "fails on images of 32x32 in training mode"),
    "DoubleWeights": ("model._target_=", "Input type (float) and bias type (double)"),
    "OnNoDevice": ("model._target_=network_helpers.OnNoDevice: cannot be moved to cpu: ", "meta"),
    "Rounded": ("model._target_=", "fails in a training step: element 0 of tensors does not"),
    "Memory": ("model._target_=", "cannot be restored from a checkpoint: Error(s) in loading"),
    "LayerInForward": ("model._target_=", "makes late.bias in its forward pass, where the optim"),
    "Exits": ("model._target_=", "fails on images of 32x32 in training mode: no"),
    "ExtraState": ("model._target_=", "has _extra_state in its state dict, which is no tensor"),
    "Base optimizer._target_=network_helpers.UnstorableMomentum": (
        "optimizer._target_=network_helpers.UnstorableMomentum: cannot be restored from a checkp",
        "Weights only load failed",
    ),
    "Base ~optimizer.momentum ~optimizer.weight_decay optimizer._target_=torch.optim.LBFGS": (
        "optimizer._target_=torch.optim.LBFGS: takes no step: ",
        "closure",
    ),
    f"Base {FIRST}.Shapeless": (
        "method.predictors.mine=network_helpers.Shapeless: fails: ",
        "size",
    ),
    "Base augmentation._target_=network_helpers.LosesARow": (
        "augmentation._target_=network_helpers.LosesARow: makes images (2, 31, 32, 3)",
        "instead of (2, 32, 32, 3)",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_names_the_option_that_helps(case: str) -> None:
    with pytest.raises(ConfigError) as raised:
        rehearse(with_network(*case.split()))
    line, (beginning, part) = str(raised.value), FAULTS[case]
    assert line.startswith(beginning) and part in line, line
    assert "\n" not in line
    assert raised.value.__context__ is None  # which would keep the network in memory


def test_a_precision_that_a_network_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16, emulated where the CPU has none."""
    monkeypatch.setattr("swa_bench.training.hardware.cpu_has_bf16", lambda: True)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    with pytest.raises(
        ConfigError, match=r"precision=bf16: the network fails .*precision=fp32 helps"
    ):
        rehearse(with_network("NotInHalfPrecision", "precision=bf16"))
    assert rehearse(with_network("Base", "precision=bf16")).warnings == []


def test_a_fault_is_one_line_and_nothing_is_written(swa_train: SwaTrain, tmp_path: Path) -> None:
    outcome = swa_train(*options_of("SoftmaxInEvaluation"), "also_train=[sgd]")
    assert outcome.code == 2 and outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith(
        "swa-train: model._target_=network_helpers.SoftmaxInEvaluation: gives pr"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_option_that_the_line_names_helps(tmp_path: Path) -> None:
    short = ["model.budget_epochs=1", "model.swa_start=1", "checkpoints.keep_for=[]"]
    for case in ("ViewOfImages channels_last=false", f"NormOfVectors {ODD} batch_size=51"):
        train_missing(spec_with(*case.split(), *short).replace(results_dir=str(tmp_path)))
    assert len(list(tmp_path.rglob("cell-1.json"))) == 2


WORKS = "Lazy OldWeightNorm Tied Scripted Complex Cached"
ALSO_WORKS = "Parametrized OldSpectralNorm Parallel Compiled NonPersistent DoubleHead InPlace "
ALSO_WORKS += "Recurrent StochasticDepth InfiniteInEvaluation"


@pytest.mark.parametrize("name", ALSO_WORKS.split())
def test_what_works_passes_without_a_warning(name: str) -> None:
    assert rehearse(with_network(name)).warnings == []


@pytest.mark.parametrize("name", WORKS.split())
def test_what_works_trains_resumes_and_is_exported(tmp_path: Path, name: str) -> None:
    """A run that is continued and one that is not; the file, against its record."""
    options = ["dataset.train_images=100", "dataset.test_images=50", "checkpoints.keep_for=[]"]
    options += ["model.budget_epochs=2", "model.swa_start=1", "report_budgets=[]"]
    spec = spec_with(name, *options)
    assert rehearse(spec.config).warnings == []
    for folder, budget in (("results", 1.0), ("results", 1.5), ("alone", 1.5)):
        train_missing(spec.replace(budget=budget, results_dir=str(tmp_path / folder)))
    path, alone = (
        next((tmp_path / folder).rglob("cell-1.5.json")) for folder in ("results", "alone")
    )
    assert untimed(path)["result"] == untimed(alone)["result"]
    assert "warnings" not in untimed(path)
    user = User("cpu", trust=True)
    export(path, tmp_path / "net.safetensors", user)
    score, *_ = evaluate(tmp_path / "net.safetensors", user)
    assert score.error_pct == untimed(path)["result"]["test_error_pct"]
    assert score.loss == pytest.approx(untimed(path)["result"]["test_loss"])


# {network and options: the warnings}
LOST = "not in the state dict: a resumed run may differ. Make"
OTHER_WEIGHTS = (
    "A step after a restart gives other weights than without it: the network or the optimiser "
    "keeps something that is not in its state dict, or draws from a generator of its own. The same "
    "command may give other figures."
)
WARNINGS = {
    "Counting": [f"steps, drift, block.history change in a step but are {LOST} each a buffer."],
    "OwnGenerators": [f"python, rng, generator change in a step but are {LOST} each a buffer."],
    "FirstBatchDecides": [OTHER_WEIGHTS],
    "BuiltAnew": [
        "The network has other first weights each time it is built: it draws from a generator of "
        "its own. The same command gives other figures."
    ],
    "DrawsAnew +model.arguments.training=true": [OTHER_WEIGHTS],
    "DrawsAnew +model.arguments.training=false": [
        "The network gives other logits for the same images in evaluation mode: it draws from a "
        "generator of its own. The same command may give other figures."
    ],
    "ChangesInEvaluation": [
        "passes: changed in evaluation mode, so that results depend on evaluation.every. "
        "Change in training mode only."
    ],
    "PlainList": [
        "layers: layers or parameters in a plain list or dict, which are neither trained nor "
        "stored. Use torch.nn.ModuleList or ParameterList."
    ],
    "BFloat16Weights": [
        "330 parameters are of 16 bits: averages of them are rounded to that after every "
        "collection. Keep weights in float32."
    ],
    f"Base {FIRST}.CountingAverage": [
        "method.predictors.mine.calls changes in a step but is not stored: a resumed run may "
        "differ. Make it a part of `kept`."
    ],
}


@pytest.mark.parametrize("case", WARNINGS)
def test_what_is_not_quite_right_is_a_warning(case: str) -> None:
    assert rehearse(with_network(*case.split())).warnings == WARNINGS[case]


def test_a_warning_is_logged_once_and_stands_in_the_record(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    options = options_of("Counting", "seed=0,1", "dataset.train_images=99", "-m")
    outcome = swa_train(*options)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("change in a step") == 1
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("cell-1.json")]
    assert [record["warnings"] for record in records] == [WARNINGS["Counting"]] * 2


def test_a_run_has_the_same_bits_without_it(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout of torch's generator, whose state a rehearsal must leave as it was."""
    assert swa_train(*DROPOUT, "batch_size=23").code == 0
    monkeypatch.setattr(job, "rehearse", lambda config: Rehearsal(1, []))
    assert swa_train(*DROPOUT, "batch_size=23", "results_dir=without").code == 0
    assert records_of(tmp_path / "results") == records_of(tmp_path / "without")


def test_it_leaves_all_random_numbers_as_they_were() -> None:
    def states() -> tuple[Any, ...]:
        numpy = np.random.get_state()
        return random.getstate(), repr(numpy), torch.get_rng_state().tolist()

    before = states()
    config = config_of(*DROPOUT, "batch_size=22")
    assert rehearse(config).parameters == sum(
        p.numel() for p in fresh_model(config, CPU).parameters()
    )
    assert states() == before


def test_lazy_layers_draw_their_weights_from_the_seed() -> None:
    """Those of a linear layer of the right size that is built as the last."""
    first, again = (fresh_model(with_network("Lazy"), CPU).state_dict() for _ in range(2))
    other = fresh_model(with_network("Lazy", "seed=1"), CPU).state_dict()
    assert first["linear.weight"].shape == (10, 32)
    assert torch.equal(first["linear.weight"], again["linear.weight"])
    assert not torch.equal(first["linear.weight"], other["linear.weight"])
    assert first["norm.num_batches_tracked"] == 0 and not first["norm.running_mean"].any()


@pytest.mark.parametrize("name", ["Base", "NonPersistent", "OldWeightNorm", "Tied", "Counting"])
def test_a_copy_has_the_whole_state(name: str) -> None:
    config = with_network(name)
    model, spare = fresh_model(config, CPU), Spare(config)
    images = torch.rand(4, 3, 32, 32).to(memory_format=torch.channels_last)
    for values in (0.5, 0.25):
        model.train()
        model(images)  # moves running statistics
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(values * torch.randn_like(parameter))
        for buffer_name, buffer in model.named_buffers():
            if buffer_name in ("scale", "drift"):
                buffer.fill_(values)
        model.eval()
        for copy in (copy_of(model, config), spare.like(model)):
            assert not copy.training and copy.conv.weight.stride() == model.conv.weight.stride()
            assert torch.equal(copy(images), model(images))
            for (_, ours), (_, other) in zip(
                [*copy.named_parameters(), *copy.named_buffers()],
                [*model.named_parameters(), *model.named_buffers()],
                strict=True,
            ):
                assert torch.equal(ours, other) and ours.data_ptr() != other.data_ptr()
        assert spare.like(model) is spare.model
    assert isinstance(model, network_helpers.Base)
