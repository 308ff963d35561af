"""The paper's ImageNet experiment on a made folder, and networks that are tested untrained."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import mini_images
from PIL import Image
from record_helpers import write_record, write_run
from safetensors.torch import save_file
from torchvision.models import get_model, get_model_weights
from training_helpers import SwaTrain, plan_of

from swa_bench.analysis.export import load_model
from swa_bench.commands import export
from swa_bench.reporting.tables import tables_of_runs
from swa_bench.results.cost import costs
from swa_bench.results.frames import cells_frame, epochs_frame, rows
from swa_bench.results.record import read_records
from swa_bench.training.network import fresh_model
from swa_bench.training.states import weights_sha256

PAGE = (Path(__file__).parent.parent / "docs" / "own.md").read_text()
(COMMAND,) = re.findall(r"^    swa-train (experiment=imagenet .*)$", PAGE, re.MULTILINE)
# 24 images of the folder, in 3 steps an epoch, of 32 pixels.
SMALL = ["dataset.classes=3", "dataset.train_images=24", "dataset.test_images=12", "batch_size=8"]
SMALL += ["dataset.resize=40", "dataset.image_size=32", "precision=fp32"]
# Their rows, and the published errors in %: 100 minus the accuracies 76.15, 76.83 and so on.
PUBLISHED = {
    "resnet50": ("ResNet-50", ["23.85", "23.17 ± 0.01 (n=3)", "23.03 ± 0.05 (n=3)"]),
    "resnet152": ("ResNet-152", ["21.69", "21.18 ± 0.01 (n=3)", "21.06 ± 0.07 (n=3)"]),
    "densenet161": ("DenseNet-161", ["-", "-", "21.56"]),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED if name != "resnet50"]
# Tested on 20 images, in seconds.
UNTRAINED = ["model=preresnet20", "dataset=cifar10_mini", "dataset.train_images=40"]
UNTRAINED += ["dataset.test_images=20", "init=w.safetensors"]


def make_photos(root: Path) -> None:
    """Three classes of JPEGs as cameras make them, of several sizes: 80 and 10 images of each."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (500, 500, 3))
    for split, count in (("train", 80), ("val", 10)):
        for label, name in enumerate(("n01440764", "n01443537", "n01484850")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(333, 500, 2)
                pixels = noise[:height, :width] + np.array([60, 60, 60]) * (np.arange(3) == label)
                image = Image.fromarray((pixels + rng.integers(0, 100)).astype(np.uint8))
                image.save(folder / f"{name}_{number}.JPEG")


def make_weights(home: Path, network: str) -> dict[str, torch.Tensor]:
    """First weights of a network of 1,000 classes, where torchvision keeps those it fetched."""
    torch.manual_seed(5)
    made: dict[str, torch.Tensor] = get_model(network).state_dict()
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = get_model_weights(network)["IMAGENET1K_V1"].url
    torch.save(made, folder / url.rsplit("/", 1)[1])
    return made


def find_records(folder: Path) -> dict[str, dict[str, Any]]:
    """{method and budget: record}."""
    found = [json.loads(path.read_text()) for path in folder.rglob("cell-*.json")]
    return {f"{record['method']} {record['budget']:g}": record for record in found}


def columns_of(lines: list[str], name: str) -> dict[str, str]:
    """{title: cell} of the first line of a printed table that holds a name."""
    cells = [[part.strip() for part in line.split("│")] for line in lines if "│" in line]
    (line, *_) = [parts for parts in cells if name in parts]
    return dict(zip(cells[0], line, strict=True))


@pytest.mark.parametrize("network", ["resnet50", *SLOW])
def test_the_pages_fine_tuning(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    make_photos(tmp_path / "imagenet")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    command = [*COMMAND.split(), *SMALL, f"model={network}"]
    assert swa_train(*command, "dry_run=true").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["imagenet"]  # nothing is fetched for it
    made = make_weights(tmp_path / "torch", network)
    outcome = swa_train(*command)
    assert outcome.code == 0, outcome.err
    records = find_records(tmp_path)
    assert set(records) == {"pretrained 0", "swa 0.5", "swa 1"}
    before, after = records["pretrained 0"], records["swa 1"]
    # Nothing but what this test chose differs from the experiment.
    chosen = {option.split("=")[0] for option in SMALL}
    assert all(set(record["recipe_diff"]) == chosen for record in records.values())
    assert after["config"]["model"]["arguments"] == {"name": network, "weights": "IMAGENET1K_V1"}
    # Three steps an epoch, a cycle an epoch, from 0.001 down to 0.00001.
    plan = plan_of(*command)
    falling = pytest.approx([1e-3 * 2 / 3 + 1e-5 / 3, 1e-3 / 3 + 1e-5 * 2 / 3, 1e-5])
    assert plan.rates(0) == plan.rates(9) == falling
    (path,) = tmp_path.rglob("epochs.csv")
    assert list(pd.read_csv(path)["n_averaged"]) == list(range(1, 11))
    # The made weights, but for a last layer of three classes.
    start = fresh_model(plan.config, torch.device("cpu")).state_dict()
    changed = [name for name, values in made.items() if not torch.equal(start[name], values)]
    assert [start[name].shape[0] for name in changed] == [3, 3]
    first = weights_sha256(start)
    assert before["result"]["weights_sha256"] == after["initial_weights_sha256"] == first

    label, published = PUBLISHED[network]
    lines = outcome.out[outcome.out.index("ImageNet: test error") :].splitlines()
    titles = ["Before", "SWA, 5 epochs", "SWA, 10 epochs"]
    ours, theirs = columns_of(lines, label), columns_of(lines, "published")
    errors = [records[name]["result"]["test_error_pct"] for name in records]
    assert sorted(ours[title] for title in titles) == sorted(f"{e:.2f} (n=1)" for e in errors)
    assert [theirs[title] for title in titles] == published


@pytest.fixture
def first_weights(tmp_path: Path) -> dict[str, torch.Tensor]:
    """PreResNet20's, in w.safetensors."""
    model = fresh_model(plan_of("model=preresnet20", "seed=7").config, torch.device("cpu"))
    weights = {name: values.contiguous() for name, values in model.state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    return weights


def test_first_weights_are_tested_as_they_are(
    swa_train: SwaTrain, tmp_path: Path, first_weights: dict[str, torch.Tensor]
) -> None:
    dry = swa_train(*UNTRAINED, "method=pretrained", "dry_run=true").out
    assert "to test: the network as it is, before any training" in dry
    outcome = swa_train(*UNTRAINED, "method=pretrained", "-m", "seed=0,1")
    assert outcome.code == 0, outcome.err
    one, other = read_records([tmp_path])
    assert (one.budget, one.epochs, one.seed, other.seed) == (0, 0, 0, 1)
    result = one.result
    assert result.weights_sha256 == other.result.weights_sha256 == weights_sha256(first_weights)
    assert result.train_loss is result.train_error_pct is result.n_averaged is None
    assert one.timing.seconds is one.timing.images_per_s is None
    assert not list(tmp_path.rglob("epochs.csv")) and not list(tmp_path.rglob("*.pt"))

    config = plan_of(*UNTRAINED, "method=pretrained", f"init={tmp_path}/w.safetensors").config
    model, mini = fresh_model(config, torch.device("cpu")).eval(), mini_images()
    normalisation = config.model.normalisation
    mean, std = (torch.tensor(part).reshape(3, 1, 1) for part in normalisation.__dict__.values())
    pixels = torch.tensor(mini.test_images[:20]).permute(0, 3, 1, 2) / 255
    labels = torch.tensor(mini.test_labels[:20])
    with torch.no_grad():
        logits = model((pixels - mean) / std)
    wrong = (logits.argmax(1) != labels).sum().item()
    assert result.test_error_pct == pytest.approx(5 * wrong)  # of 20 images
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert result.test_loss == pytest.approx(loss, rel=1e-4)
    # Two seeds of the same weights are one measurement.
    assert columns_of(outcome.out.splitlines(), "ours")["Before"] == f"{5 * wrong:.2f} (n=1)"

    assert "Finished already" in swa_train(*UNTRAINED, "method=pretrained").err
    assert "Recorded" in swa_train(*UNTRAINED, "method=pretrained", "force=true").err
    # A typed budget is that of the method that trains.
    both = [*UNTRAINED, "model.swa_start=1", "budget=0.5", "also_train=[pretrained]"]
    dry = swa_train(*both, "dry_run=true").out
    budgets = re.findall("reported budgets: (.*)", dry)
    assert budgets == ["0.5 (epoch 75)", "0 (epoch 0)"]


def test_what_is_exported_of_an_untrained_network(
    swa_train: SwaTrain,
    tmp_path: Path,
    first_weights: dict[str, torch.Tensor],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert swa_train(*UNTRAINED, "method=pretrained").code == 0
    (record,) = tmp_path.rglob("cell-0.json")
    with pytest.raises(SystemExit, match=r"init=w.safetensors: is a file that .* with --trust"):
        export.swa_export([str(record), "out.safetensors"])
    export.swa_export([str(record), "out.safetensors", "--trust"])
    save_file({name: values + 1 for name, values in first_weights.items()}, "w.safetensors")
    exported = load_model("out.safetensors").state_dict()
    assert all(torch.equal(exported[name], values) for name, values in first_weights.items())
    capfd.readouterr()
    export.swa_evaluate(["out.safetensors"])
    ours, recorded = capfd.readouterr().out.splitlines()
    assert recorded.startswith(f"its record: {ours.removeprefix('test error ')}")
    with pytest.raises(SystemExit, match=r"init=w.safetensors gives other weights than the run"):
        export.swa_export([str(record), "out.safetensors", "--trust", "--force"])


def test_weights_that_cannot_be_fetched(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    few = ["dataset.train_images=20", "dataset.test_images=10", "batch_size=10"]
    options = ["dataset=cifar10_mini", "model=resnet50", "init=pretrained", "method=pretrained"]
    outcome = swa_train(*options, *few)
    line = outcome.err.splitlines()[-1]
    assert outcome.code == 1 and "Traceback" not in outcome.err
    assert line.startswith("swa-train: init=pretrained: the weights could not be fetched")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    assert re.search(rf"put https://\S+/resnet50-\w+.pth into {folder} by hand$", line)


def made_table(folder: Path, digest: Callable[[int], str], **recipe: int) -> dict[str, str]:
    """The row of three seeds of ResNet-50, whose first weights have these digests."""
    of = {"dataset": "imagenet", "model": "resnet50", "recipe_diff": recipe}
    for seed in range(3):
        result = {"weights_sha256": digest(seed)}
        made = of | {"seed": seed, "method": "pretrained", "budget": 0.0, "epochs": 0}
        write_record(folder, error=24.0, result=result, **made)
        errors = {0.5: 23.1 + seed / 10, 1.0: 23.0}
        write_run(folder, errors, [0.1] * 4, method="swa", seed=seed, **of)
    (table,) = tables_of_runs(read_records([folder]))
    return dict(zip(table.header, table.rows[0], strict=True))


def test_seeds_with_the_same_first_weights_are_one_measurement(tmp_path: Path) -> None:
    one = made_table(tmp_path / "one", lambda _: "a" * 64)
    assert one["Before"] == "24.00 (n=1)"
    assert one["SWA, 5 epochs"] == "23.20 ± 0.10 (n=3)"
    three = made_table(tmp_path / "three", lambda seed: str(seed) * 64)
    assert three["Before"] == "24.00 ± 0.00 (n=3)"  # as with a fresh last layer
    other = made_table(tmp_path / "other", lambda _: "a" * 64, **{"model.budget_epochs": 20})
    assert "SWA 0.5" in other and "SWA, 5 epochs" not in other
    # What was not trained costs nothing, and hides not what the rest costs: 4 hours a seed.
    cells = cells_frame(read_records([tmp_path / "one"]))
    cost = costs(rows(cells, epochs_frame(cells))).iloc[0]
    assert (cost["runs"], cost["epochs"], cost["hours"]) == (3, 12, 12.0)
