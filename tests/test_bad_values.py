"""Bad values: one line that names field, value and what would be right, and nothing written."""

from pathlib import Path

import pytest
import torch
from training_helpers import TINY, SwaTrain, epochs_of, plan_of, records_of

from swa_bench.data.batches import to_device
from swa_bench.data.images import load_images
from swa_bench.training.network import fresh_model
from swa_bench.training.states import weights_sha256

# Each is refused before anything is fetched or written, so that the default data set is not needed.
BAD = {
    "model=resnet": "model=resnet: no such option; did you mean resnet50? choose one of dense",
    "budget=-1": "budget=-1: must be 0 or more",
    "budget=0": "budget=0.0: less than one epoch (model.budget_epochs=200), and method=swa trains",
    "method=pretrained": "init=random: choose pretrained or a .safetensors file: method=pretrained",
    "method=pretrained init=pretrained budget=1": "budget=1.0: must be 0, its default: method=pre",
    "budget=nan": "budget=nan: must be a finite number",
    "budget=0.001": "budget=0.001: less than one epoch",
    "seed=abc": "seed=abc: must be an integer",
    "seed=-1": "seed=-1: must be 0 or more",
    "precision=fp8": "precision=fp8: must be 'auto', 'fp32', 'tf32' or 'bf16'",
    "precision=tf32 device=cpu": "precision=tf32: this cpu has no such arithmetic; choose one of",
    "budget=1 method.collect_from=201": "method.collect_from=201: the run ends after epoch 200",
    "budget=1 model.swa_start=201": "method.collect_from=201: the run ends after epoch 200",
    "method=fge method.cycle_epochs=3": "method.cycle_epochs=3: must be even: a member is taken",
    "method=snapshot model.budget_epochs=7": "model.budget_epochs=7: must be a multiple of 5",
    "method=fge budget=1.5": "budget=1.5: fge counts whole runs of one budget each",
    "method.collect_from=0": "method.collect_from=0: must be 1 or more",
    "epochs=5": "epochs=5: follows from budget",
    "model.name=alexnet": "model name 'alexnet' is unknown; choose one of vgg16",
    "schedule.learning_rat=1": "no such option; did you mean schedule.learning_rate?",
    "+schedule.learning_rat=1": "schedule=swa_bench.schedules.authors: cannot be used",
    "schedule._target_=nowhere.rate": "schedule=nowhere.rate: cannot be used",
    "optimiser.momentum=0.5": "no such option; did you mean optimizer.momentum?",
    "batch_size=0": "batch_size=0: must be 1 or more",
    "augmentation.padding=40": "augmentation.padding=40: must be from 0 to 31",
    "results_dir=/proc/results": "results_dir=/proc/results: cannot write to /proc",
    "seed=0,1": "seed=0,1: several values make a sweep: add -m",
    "model.learning_rate=0": "model.learning_rate=0: must be greater than 0",
    "dataset.recipe=cifar11": "Interpolation key 'model.swa_learning_rate.cifar11' not found",
    "method=sgd schedule=cyclic": "schedule=swa_bench.schedules.cyclic: cannot be used: collect_"
    "from, cycle_epochs is null with method=sgd",
    "dataset.image_size=33": "dataset.resize=32: must be at least dataset.image_size=33",
    "dataset=cifar10_mini dataset.resize=40": "dataset.resize=40: the images of cifar10_mini are",
    "dataset.name=a/b": "dataset.name=a/b: names a folder",
    "init=pretained": "init=pretained: choose random, pretrained or the path of a .safetensors",
    "init=w.safetensors": "init=w.safetensors: no such file",
    "init=pretrained": "pretrained=False, as init=pretrained asks: ",
    "model=own": "model._target_=???: has no default: add model._target_=module.Class",
    "model.name=a model._target_=nowhere.Net": "model._target_=nowhere.Net: cannot be built with",
    "model._target_=nowhere.Net": "model.name=vgg16: names a shipped model, which nowhere.Net is",
    "dataset._target_=mine.load": "dataset.name=cifar10: names a shipped dataset, which mine.load",
    "dataset=image_folder": "dataset.root=data/images: needs train/CLASS/*.jpg and val/CLASS/*.jpg",
    "budget=1000": "budget=1000.0: 10,000 epochs or more",
    "dataset=cifar10_mini dataset.classes=3": "dataset.classes=3: cifar10_mini has 10",
    "device=tpu": "device=tpu: must be 'auto', 'cpu' or 'cuda'",
}

MORE = {
    "budget=true": "budget=true: must be a number",
    "seed=null": "seed=null: must be an integer",
    "model.learning_rate=abc": "model.learning_rate=abc: must be a number",
    "model.normalisation.mean=[1,2]": "model.normalisation.mean=[1, 2]: must have at least 3 items",
    "method=snapshot method.cycle_epochs=0": "method.cycle_epochs=0: must be 1 or more",
    "method=fge method.cycle_epochs=null": "method.cycle_epochs=null: must be even",
    "method.collect_from=null": "method.collect_from=null: must be 1 or more to collect",
    "method.result=foo": "method.result=foo: must be one of last, swa, ensemble",
    "augmentation.padding_mode=foo": "augmentation.padding_mode=foo: choose zeros or reflect",
    "+augmentation.hole=3": "augmentation._target_=swa_bench.data.augmentation.CropAndFlip: cannot",
    "checkpoints.keep=foo": "checkpoints.keep=foo: must be 'ends', 'cells' or 'collected'",
    "+foo=1": "foo=1: there is no such option",
    "force=maybe": "force=maybe: must be true or false",
    "experiment=[quickstart,quick]": "experiment=quick: no such option; swa-train --help lists all",
    "experiment=quikstart": "experiment=quikstart: no such option; did you mean quickstart? choose",
    "+experiment=quikstart": "experiment=quikstart: no such option; did you mean quickstart?",
    "also_train=[foo]": "also_train=foo: choose from ema, fge",
    "budget=1.5 also_train=[sgd,fge]": "budget=1.5: fge counts whole runs",
    "checkpoints.keep_for=[foo]": "checkpoints.keep_for=foo: choose from ema, fge",
}
# Names that are almost right, or right elsewhere.
NAMES = {
    "lr=0.1": "lr: no such option; did you mean model.learning_rate?",
    "model.lr=0.1": "model.lr: no such option; did you mean model.learning_rate?",
    "+model.lr=0.1": "model.lr=0.1: there is no such option; did you mean model.learning_rate?",
    "learning_rate=0.1": "learning_rate: no such option; did you mean model.learning_rate?",
    "wd=0": "wd: no such option; did you mean model.weight_decay?",
    "swa_lr=0.01": "swa_lr: no such option; did you mean method.swa_learning_rate?",
    "epochs_per_budget=9": "epochs_per_budget: no such option; did you mean model.budget_epochs?",
    "batchsize=9": "batchsize: no such option; did you mean batch_size?",
    "evaluation.batchsize=9": "no such option; did you mean evaluation.batch_size?",
    "seeds=3": "seeds: no such option; did you mean seed?",
    "data=cifar10": "data: no such option; did you mean dataset?",
    "methods=sgd": "methods: no such option; did you mean method?",
    "model=VGG16": "model=VGG16: no such option; did you mean vgg16? choose one of dense",
    "num_workers=4": "num_workers: no such option; did you mean dataset.workers?",
    "+method.x=1": "method.x=1: there is no such option",
}
# What is no option and no flag, or cannot be what it is given to.
COMMAND_LINES = {
    "vgg16": "vgg16: options are written name=value; did you mean model=vgg16?",
    "--lr 0.1": "--lr: no such flag; options are written name=value, without dashes; did you mean "
    "model.learning_rate=...?",
    "--force": "did you mean force=...?",
    "-precision=bf16": "-precision: no such flag; options are written name=value, without dashes",
    "--foo": "--foo: no such flag; options are written name=value, without dashes",
    "seed=1 --config-dir nowhere": "--config-dir=nowhere: no such folder",
    "--config-name nope": "--config-name nope: no such option",
    "--cfg nope": "argument --cfg/-c: invalid choice: 'nope'",
    "--cfg": "argument --cfg/-c: expected one argument",
    "--resolve": "--resolve goes with --cfg job",
    "--info --cfg job": "--cfg and --info do not go together",
    "model=null": "model=null: leave it out, or choose one: swa-train --help lists all",
    "-m dataset=cifar10,null": "dataset=null: leave it out, or choose one",
    "model=vgg16,vgg19": "model=vgg16,vgg19: several values make a sweep: add -m",
    "seed=": "seed=: must be an integer",
    "budget=abc": "budget=abc: must be a number",
}
OPTIMISERS = {
    "optimizer=adamw": "optimizer=adamw: no such option; choose one of sgd",
    "optimizer._target_=torch.optim.Adamm": "optimizer._target_=torch.optim.Adamm: cannot be built",
    "optimizer._target_=torch.optim.AdamW": "unexpected keyword argument 'momentum'",
    "optimizer._target_=types.SimpleNamespace": "optimizer._target_=types.SimpleNamespace: ",
    "optimizer.momentum=abc": "torch.optim.SGD: cannot be built with momentum=abc, weight_decay=",
    "optimizer.momentum=-1": "Invalid momentum value: -1",
    "+optimizer.betas=[0.9]": "unexpected keyword argument 'betas'",
}
RENAMED = {
    "optimizer.batch_size=64": "optimizer.batch_size: is called batch_size now",
    "then=[sgd]": "then: is called also_train now",
    "share_with=[sgd]": "share_with: is called checkpoints.keep_for now",
    "record_budgets=[1]": "record_budgets: is called report_budgets now",
    "dataset.augmentation.flip=false": "dataset.augmentation.flip: is called augmentation.flip now",
    "method.first_copy=3": "method.first_copy: is called method.collect_from now",
    "method.combine=weights": "method.combine: is called method.result now",
    "method.runs_of=sgd": "method.runs_of: is called method.ensemble_of now",
    "schedule.first_copy=3": "schedule.first_copy: is called schedule.collect_from now",
    "+then=[sgd]": "then=['sgd']: is called also_train now",
    "checkpoints.keep=copies": "checkpoints.keep=copies: is called collected now",
}
ALL = BAD | MORE | NAMES | COMMAND_LINES | OPTIMISERS | RENAMED


@pytest.mark.parametrize("arguments", ALL)
def test_bad_values_get_a_clear_line_and_leave_nothing(
    swa_train: SwaTrain, tmp_path: Path, arguments: str
) -> None:
    outcome = swa_train(*arguments.split())
    assert outcome.code in ((2,) if arguments not in BAD else (1, 2))
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("swa-train: ")
    assert ALL[arguments] in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


# What a file of the user's own says, with options under the names of version 0.1.
OWN_FILES = {
    "method": ("name: mine\nfirst_copy: 3\n", "method.first_copy=3: is called method.collect_from"),
    "optimizer": ("batch_size: 64\n", "optimizer.batch_size=64: is called batch_size now"),
    "dataset": ("augmentation: {flip: false}\n", "dataset.augmentation.flip=false: is called augm"),
    "experiment": ("# @package _global_\nthen: [sgd]\n", "then=['sgd']: is called also_train now"),
}


@pytest.mark.parametrize("group", OWN_FILES)
def test_old_names_in_a_users_own_file(swa_train: SwaTrain, tmp_path: Path, group: str) -> None:
    text, expected = OWN_FILES[group]
    shipped = {"method": "swa", "optimizer": "sgd", "dataset": "cifar10_mini"}
    base = f"defaults: [{shipped[group]}]\n" if group in shipped else ""
    folder = tmp_path / "my" / group
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"{text}{base}" if "#" in text else f"{base}{text}")
    outcome = swa_train("--config-dir", "my", f"{group}=mine")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("swa-train: ") and expected in line
    assert [path.name for path in tmp_path.iterdir()] == ["my"]


def test_an_optimiser_from_outside_trains(swa_train: SwaTrain, tmp_path: Path) -> None:
    """AdamW by a file of the user's own; its recipe and its states have names of their own."""
    folder = tmp_path / "my" / "optimizer"
    folder.mkdir(parents=True)
    text = "_target_: torch.optim.AdamW\nweight_decay: ${model.weight_decay}\nbetas: [0.9, 0.99]\n"
    (folder / "adamw.yaml").write_text(text)
    options = ["--config-dir", "my", *TINY, "optimizer=adamw", "model.learning_rate=0.01"]
    outcome = swa_train(*options, "method=sgd")
    assert outcome.code == 0, outcome.err
    (record,) = records_of(tmp_path / "results").values()
    assert record["recipe_diff"]["optimizer._target_"] == "torch.optim.AdamW"
    assert record["config"]["optimizer"]["betas"] == [0.9, 0.99]
    rates = list(epochs_of(tmp_path / "results", "sgd")["learning_rate"])
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.01 * (1 - 0.99 * 0.25 / 0.4)])
    # Steps by hand: the optimiser's own, with the rate of each epoch.
    plan = plan_of(*TINY, "method=sgd", "model.learning_rate=0.01")
    config = plan.config
    data = to_device(load_images(config.dataset), config, torch.device("cpu"))
    model = fresh_model(config, torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=3e-4, betas=(0.9, 0.99))
    for epoch in range(4):
        model.train()
        for images, labels in data.train_batches(data.draw(0, epoch, "train"), 128):
            optimizer.param_groups[0]["lr"] = plan.rates(epoch)[0]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    assert record["result"]["weights_sha256"] == weights_sha256(model.state_dict())

    bad = swa_train(*options, "optimizer.betas=[2,0.99]", "results_dir=other")
    assert bad.code == 2
    (line,) = bad.err.splitlines()
    assert line.startswith("swa-train: optimizer._target_=torch.optim.AdamW: cannot be built with ")
    assert "betas=[2, 0.99]: Invalid beta parameter at index 0: 2" in line
    assert not (tmp_path / "other").exists()
