"""swa-train as a user types it: plans, help, bad values, sweeps."""

import csv
import io
import itertools
from pathlib import Path

import pytest
import yaml
from conftest import TINY, SwaTrain, plan_of

from swa_bench.config.schema import Device, Precision
from swa_bench.training import hardware as device
from swa_bench.training.network import count_parameters

EXPERIMENTS = Path(__file__).parent.parent / "conf" / "experiment"


def test_dry_run_is_a_csv_of_the_plan(swa_train: SwaTrain, tmp_path: Path) -> None:
    outcome = swa_train("model=vgg16", "budget=1.5", "dry_run=true")
    assert outcome.code == 0
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert list(rows[0]) == ["epoch", "learning_rate", "collects", "records_budget"]
    assert [int(row["epoch"]) for row in rows] == list(range(1, 301))
    assert float(rows[80]["learning_rate"]) == 0.05
    assert float(rows[81]["learning_rate"]) == pytest.approx(
        0.05 * (1 - 0.8 * (81 / 161 - 0.5) / 0.4)
    )
    assert float(rows[299]["learning_rate"]) == pytest.approx(0.01)
    assert next(row["epoch"] for row in rows if row["collects"] == "1") == "161"
    recorded = {row["epoch"]: row["records_budget"] for row in rows if row["records_budget"]}
    assert recorded == {"200": "1", "250": "1.25", "300": "1.5"}
    assert "vgg16 (15,245,130 parameters) on cifar10, swa, seed 0: 300 epochs" in outcome.err
    assert "117,300 steps" in outcome.err
    assert "precision fp32, about " in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_help_fits_a_screen_and_names_the_options(swa_train: SwaTrain) -> None:
    outcome = swa_train("--help")
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) <= 45
    for word in ("swa-train", "budget", "preresnet164", "swa_cyclic", "quickstart", "dry_run"):
        assert word in outcome.out


BAD = {
    "model=resnet": "model=resnet: no such option; choose one of own, preresnet110",
    "budget=-1": "budget=-1.0: must be a positive number",
    "budget=nan": "budget=nan: must be a positive number",
    "budget=0.001": "budget=0.001: less than one epoch",
    "seed=abc": "seed=abc: Value 'abc' of type 'str' could not be converted to Integer",
    "seed=-1": "seed=-1: must be 0 or more",
    "precision=fp8": "Invalid value 'fp8', expected one of [auto, fp32, tf32, bf16]",
    "precision=tf32 device=cpu": "precision=tf32: this cpu has no such arithmetic; choose one of",
    "method.first_copy=201": "method.first_copy=201: the run ends after epoch 200",
    "model.swa_start=201": "method.first_copy=201: the run ends after epoch 200",
    "method=fge method.cycle_epochs=3": "method.cycle_epochs=3: must be even: a member is taken",
    "method=snapshot model.budget_epochs=7": "method.cycle_epochs=7 / 5: a cycle must be of whole",
    "method=fge budget=1.5": "budget=1.5: fge counts whole runs of one budget each",
    "method.first_copy=0": "method.first_copy=0: must be 1 or more",
    "epochs=5": "epochs=5: follows from budget",
    "model.name=alexnet": "model name 'alexnet' is unknown; choose one of vgg16",
    "schedule.learning_rat=1": "schedule.learning_rat: no such option; swa-train --cfg job",
    "+schedule.learning_rat=1": "schedule=swa_bench.schedules.authors: cannot be used",
    "schedule._target_=nowhere.rate": "schedule=nowhere.rate: cannot be used",
    "optimiser.momentum=0.5": "optimiser.momentum: no such option; swa-train --cfg job",
    "optimizer.batch_size=0": "optimizer.batch_size=0: must be 1 or more",
    "dataset.augmentation.padding=40": "dataset.augmentation.padding=40: must be from 0 to 31",
    "results_dir=/proc/results": "results_dir=/proc/results: cannot write to /proc",
    "seed=0,1": "seed=0,1: several values make a sweep: add -m",
    "model.learning_rate=0": "model.learning_rate=0.0: must be a positive number",
    "dataset.recipe=cifar11": "Interpolation key 'model.swa_learning_rate.cifar11' not found",
    "method=sgd schedule=cyclic": "schedule=swa_bench.schedules.cyclic: cannot be used: first_copy",
    "dataset.image_size=33": "dataset.resize=32: must be at least dataset.image_size=33",
    "dataset=cifar10_mini dataset.resize=40": "dataset.resize=40: the images of cifar10_mini are",
    "dataset.name=a/b": "dataset.name=a/b: names a folder",
    "init=pretained": "init=pretained: choose random, pretrained or the path of a .safetensors",
    "init=w.safetensors": "init=w.safetensors: no such file",
    "init=pretrained": "unexpected keyword argument 'pretrained'",
    "model=own": "model._target_=???: has no default: give it a value",
    "model._target_=nowhere.Net": "model._target_=nowhere.Net: cannot be built with num_classes=10",
    "dataset=image_folder": "dataset.root=data/images: needs train/CLASS/*.jpg and val/CLASS/*.jpg",
    "budget=1000": "budget=1000.0: 10,000 epochs or more",
    "dataset=cifar10_mini dataset.classes=3": "dataset.classes=3: cifar10_mini has 10",
    "device=tpu": "expected one of [auto, cpu, cuda]",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_values_get_a_clear_line_and_leave_nothing(
    swa_train: SwaTrain, tmp_path: Path, arguments: str
) -> None:
    outcome = swa_train(*arguments.split())
    assert outcome.code in (1, 2)
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("swa-train: ")
    assert BAD[arguments] in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_a_gpu(swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = swa_train("device=cuda")
    assert outcome.code == 2
    assert "device=cuda: torch sees no CUDA GPU here; choose cpu or auto" in outcome.err


def test_precisions_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (7, 5))
    assert device.native_precisions(Device.cuda) == [Precision.fp32]
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    every = [Precision.fp32, Precision.tf32, Precision.bf16]
    assert device.native_precisions(Device.cuda) == every
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: False)
    assert device.native_precisions(Device.cpu) == [Precision.fp32]


def test_a_sweep_ends_with_the_table_and_says_which_jobs_failed(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    """Four jobs; with swa_start=6 an SWA run of 4 epochs cannot be, the SGD runs can."""
    outcome = swa_train("-m", *TINY, "model.swa_start=6", "method=swa,sgd", "seed=0,1")
    assert outcome.code == 2
    failed = [line for line in outcome.err.splitlines() if "FAILED" in line]
    assert len(failed) == 2
    assert "method.first_copy=6: the run ends after epoch 4" in failed[0]
    assert "2 jobs failed, see above" in outcome.err
    assert "Traceback" not in outcome.err
    assert len(list(tmp_path.rglob("cell-1.json"))) == 2
    assert "(n=2)" in outcome.out[outcome.out.rindex("PreResNet20") :]


def test_an_experiment_is_a_sweep_by_itself(swa_train: SwaTrain, tmp_path: Path) -> None:
    outcome = swa_train("+experiment=quickstart", *TINY, "optimizer.batch_size=128", "seed=0,1")
    assert outcome.code == 0, outcome.err
    cells = sorted(f"{p.parent.name[:9]} {p.stem}" for p in tmp_path.rglob("cell-*.json"))
    swa = [f"swa-seed{seed} cell-{budget}" for seed in (0, 1) for budget in ("1.25", "1.5", "1")]
    sgd = [f"sgd-seed{seed} cell-1" for seed in (0, 1)]
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
        for experiment in (f"+experiment={name}", f"+experiment=[quickstart,{name}]"):
            plan = plan_of(experiment, f"method={method}", model, "precision=fp32")
            assert plan.config.method.name == method
            assert len(plan.rates(0)) == plan.steps_per_epoch


MODELS = {path.stem for path in (EXPERIMENTS.parent / "model").glob("*.yaml")} - {"own"}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_file_names_its_network(name: str) -> None:
    assert count_parameters(plan_of(f"model={name}").config) > 0


def test_what_is_to_follow_is_checked_before_anything_is_trained(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    for options, expected in {
        "then=[sgd,fge]": "budget=1.5: fge counts whole runs",
        "then=[foo]": "then=foo: choose of sgd, sgd_bn, swa",
        "share_with=[foo]": "share_with=foo: choose of sgd, sgd_bn, swa",
    }.items():
        outcome = swa_train(*TINY, "budget=1.5", options)
        assert outcome.code == 2 and f"swa-train: {expected}" in outcome.err
        assert not (tmp_path / "results").exists()
