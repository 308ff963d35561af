"""swa-train as a user types it: plans, help, bad values, sweeps."""

import itertools
from pathlib import Path

import pytest
import torch
import yaml
from training_helpers import SHORT_RECIPE, TINY, SwaTrain, config_of, plan_of

from swa_bench.training import hardware
from swa_bench.training.network import fresh_model

EXPERIMENTS = Path(__file__).parent.parent / "conf" / "experiment"


def test_help_fits_a_screen_and_names_the_options(swa_train: SwaTrain) -> None:
    outcome = swa_train("--help")
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) <= 45
    for word in ("swa-train", "budget", "preresnet164", "swa_cyclic", "quickstart", "dry_run"):
        assert word in outcome.out


def test_cuda_without_a_gpu(swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = swa_train("device=cuda")
    assert outcome.code == 2
    assert "device=cuda: torch sees no CUDA GPU here; choose cpu or auto" in outcome.err


def test_precisions_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (7, 5))
    assert hardware.native_precisions("cuda") == ["fp32"]
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    every = ["fp32", "tf32", "bf16"]
    assert hardware.native_precisions("cuda") == every
    monkeypatch.setattr(hardware, "_cpu_has_bf16", lambda: False)
    assert hardware.native_precisions("cpu") == ["fp32"]


def test_a_sweep_ends_with_the_table_and_says_which_jobs_failed(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    """Four jobs; with swa_start=6 an SWA run of 4 epochs cannot be, the SGD runs can."""
    outcome = swa_train("-m", *TINY, "model.swa_start=6", "method=swa,sgd", "seed=0,1")
    assert outcome.code == 2
    failed = [line for line in outcome.err.splitlines() if "FAILED" in line]
    assert len(failed) == 2
    assert "method.collect_from=6: the run ends after epoch 4" in failed[0]
    assert "2 jobs failed, see above" in outcome.err
    assert "Traceback" not in outcome.err
    assert len(list(tmp_path.rglob("cell-1.json"))) == 2
    assert "(n=2)" in outcome.out[outcome.out.rindex("tiny") :]


@pytest.mark.parametrize("plus", ["", "+"])
def test_an_experiment_is_a_sweep_by_itself(swa_train: SwaTrain, tmp_path: Path, plus: str) -> None:
    """With and without a plus; the network of the demonstration itself, on few images."""
    few = ["dataset.train_images=64", "dataset.test_images=50", *SHORT_RECIPE[3:]]
    seeds = "seed=0,1" if plus else "seed=0"
    outcome = swa_train(f"{plus}experiment=quickstart", *few, "batch_size=32", seeds)
    assert outcome.code == 0, outcome.err
    cells = sorted(f"{p.parent.name[:9]} {p.stem}" for p in tmp_path.rglob("cell-*.json"))
    found = (0, 1) if plus else (0,)
    swa = [f"swa-seed{seed} cell-{budget}" for seed in found for budget in ("1.25", "1.5", "1")]
    sgd = [f"sgd-seed{seed} cell-1" for seed in found]
    assert cells == sorted(sgd + swa)
    assert "PreResNet20 [a]" in outcome.out
    assert "model.swa_learning_rate.cifar10=0.05" in outcome.out


def test_config_is_composed_from_any_directory(swa_train: SwaTrain) -> None:
    outcome = swa_train("--cfg", "job", "model=wrn28_10", "dataset=cifar100")
    assert outcome.code == 0
    assert "name: wrn28_10" in outcome.out
    assert "classes: 100" in outcome.out


@pytest.mark.parametrize(
    "name", sorted({path.stem for path in EXPERIMENTS.glob("*.yaml")} - {"imagenet_finetune"})
)
def test_every_experiment_can_be_planned_also_on_the_small_set(name: str) -> None:
    """Each method of its sweep, alone with the paper's settings and after quickstart's."""
    content = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())
    sweep = content["hydra"]["sweeper"]["params"]
    methods = str(sweep.get("method", "swa")).split(",")
    models = [f"model={model}" for model in str(sweep.get("model", "preresnet20")).split(",")]
    for method, model in itertools.product(methods, models):
        for experiment in (f"experiment={name}", f"experiment=[quickstart,{name}]"):
            plan = plan_of(experiment, f"method={method}", model, "precision=fp32")
            assert plan.config.method.name == method
            assert len(plan.rates(0)) == plan.steps_per_epoch


MODELS = {path.stem for path in (EXPERIMENTS.parent / "model").glob("*.yaml")} - {"own"}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_file_names_its_network(name: str) -> None:
    config = config_of(f"model={name}")
    size = config.dataset.image_size
    with torch.no_grad():
        logits = fresh_model(config, torch.device("cpu"))(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, config.dataset.classes)
