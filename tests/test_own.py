"""Networks and images that users bring: the commands of docs/own.md, and what can go wrong."""

import json
import pkgutil
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_folder
from PIL import Image
from safetensors.torch import save_file
from training_helpers import SHORT_RECIPE, SwaTrain, plan_of

from swa_bench.training.network import fresh_model
from swa_bench.training.states import weights_sha256

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
PAGE = (ROOT / "docs" / "own.md").read_text()
(RECIPE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line.split()[1:] for line in re.findall(r"^    (swa-train .*)$", PAGE, re.MULTILINE)]


def _files() -> dict[str, str]:
    """{name: text} of the indented files that the page shows, each after a line that ends in it."""
    found, lines = {}, PAGE.splitlines()
    for place, line in enumerate(lines):
        named = re.search(r"`([\w/]+\.(?:py|yaml))`[^`]*,$", line)
        if named and re.match("    (?!swa-train )", lines[place + 2]):
            end = place + 2
            while lines[end].startswith("    ") or not lines[end]:
                end += 1
            text = "\n".join(one[4:] for one in lines[place + 2 : end])
            found[named[1]] = text.rstrip() + "\n"
    return found


FILES = _files()


def find_records(folder: Path) -> dict[str, dict[str, Any]]:
    """{method and budget: record}."""
    found = [json.loads(path.read_text()) for path in folder.rglob("cell-*.json")]
    return {f"{record['method']} {record['budget']:g}": record for record in found}


@pytest.fixture
def mynet(tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the example's network in it."""
    shutil.copy(ROOT / "examples" / "own" / "mynet.py", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as a Python that is started here has it
    return tmp_path


def test_the_pages_network(swa_train: SwaTrain, mynet: Path) -> None:
    few = ["dataset.train_images=256", "dataset.test_images=50"]
    command = [*COMMANDS[0], *few]
    outcome = swa_train(*command)
    assert outcome.code == 0, outcome.err
    records = find_records(mynet)
    assert set(records) == {"swa 1", "swa 1.25", "swa 1.5", "sgd 1"}
    assert records["swa 1"]["recipe_diff"]["model._target_"] == "mynet.Net"
    assert "model.name" not in records["swa 1"]["recipe_diff"]
    assert "│ mynet │ ours │" in outcome.out and "swa 1 seed 0: test error" in outcome.out
    assert "All runs: " in outcome.out and "model._target_=mynet.Net" in outcome.out
    # 3 epochs are common: T = 4 for SWA and 5 for SGD, whose decays begin after 2 and 2.5.
    assert "Going on after epoch 3" in outcome.err
    assert "Finished already" in swa_train(*command).err

    (mynet / "my" / "model").mkdir(parents=True)
    (mynet / "my" / "model" / "mynet.yaml").write_text(RECIPE)
    outcome = swa_train(*COMMANDS[1], *few, "results_dir=with_file")
    assert outcome.code == 0, outcome.err
    record = find_records(mynet / "with_file")["swa 1.5"]
    assert record["config"]["model"]["arguments"] == {"width": 16}
    assert record["config"]["model"]["weight_decay"] == 3e-4  # of own.yaml
    assert record["config"]["method"]["swa_learning_rate"] == 0.02


def test_the_pages_images(swa_train: SwaTrain, mynet: Path) -> None:
    make_folder(mynet / "flowers")
    command = COMMANDS[2]
    outcome = swa_train(*command)
    assert outcome.code == 0, outcome.err
    assert "flowers: test error" in outcome.out and "mynet" in outcome.out
    assert "demonstration" not in outcome.out
    records = find_records(mynet)
    assert set(records) == {"swa 1", "swa 1.25", "swa 1.5", "sgd 1"}
    for record in records.values():
        dataset = record["config"]["dataset"]
        assert record["class_names"] == ["blue", "green", "red"]
        assert (dataset["classes"], dataset["train_images"], dataset["test_images"]) == (3, 12, 6)
    row = mynet / "results" / "runs" / "flowers" / "mynet"
    assert sorted(path.name.split("-")[0] for path in row.iterdir()) == [
        "checkpoints",
        "sgd",
        "swa",
    ]

    # Longer, it goes on from the same states; moved elsewhere it is the same folder.
    (mynet / "flowers").rename(mynet / "moved")
    moved = ["dataset.root=moved", "budget=2"]
    outcome = swa_train(*command, *moved)
    assert "Going on after epoch 15" in outcome.err
    longer = find_records(mynet)["swa 2"]
    assert swa_train(*command, *moved, "results_dir=alone").code == 0
    assert "Decoding" not in outcome.err
    alone = find_records(mynet / "alone")["swa 2"]
    assert alone["result"] == longer["result"]
    # Another image makes another data set.
    Image.new("RGB", (40, 50)).save(mynet / "moved" / "train" / "red" / "new.png")
    assert swa_train(*command, "dataset.root=moved").code == 0
    folders = {path.name.rsplit("-", 1)[1] for path in row.glob("s*")}
    assert len(folders) == 5  # two of SWA, two of SGD and the longer one of SGD


# What each command after those of networks, images and fine-tuning leaves in a record's options.
CHOICES = {
    "schedule=steps": ("schedule", {"_target_": "my_rates.steps", "first": 0.05, "drop": 0.1}),
    "method=late_swa": ("method.cycle_epochs", 2),
    "method=last_three": ("method.result", "last_three"),
    "optimizer=adamw": ("optimizer._target_", "torch.optim.AdamW"),
    "augmentation=cutout": ("augmentation.hole", 9),
    "dataset=squares": ("dataset._target_", "squares.load"),
    "metrics=brier": ("metrics.brier", {"_target_": "my_metrics.brier"}),
}


@pytest.fixture
def own_files(mynet: Path) -> Path:
    """The working folder with all files of the page."""
    shutil.copy(ROOT / "examples" / "own" / "cutout.py", mynet)
    for name, text in [*FILES.items(), ("my/model/mynet.yaml", RECIPE)]:
        (mynet / name).parent.mkdir(parents=True, exist_ok=True)
        (mynet / name).write_text(text)
    return mynet


@pytest.mark.parametrize("choice", CHOICES)
def test_the_pages_other_commands(swa_train: SwaTrain, own_files: Path, choice: str) -> None:
    (command,) = [command for command in COMMANDS[4:] if choice in command]
    mini = "dataset=cifar10_mini" in command
    few = ["dataset.train_images=128", "dataset.test_images=50"] if mini else []
    outcome = swa_train(*command, *few)
    assert outcome.code == 0, outcome.err
    records = find_records(own_files)
    group, chosen = choice.split("=")
    first = next(r for r in records.values() if group != "method" or r["method"] == chosen)
    (name, value), found = CHOICES[choice], first["config"]
    for part in name.split("."):
        found = found[part]
    assert found == value
    # All cells of a command are of one recipe, so they are in one row of the table.
    assert len({json.dumps(record["recipe_diff"]) for record in records.values()}) == 1
    labelled = {name.split(".")[0] for name in first["recipe_diff"]}
    assert (group in labelled) == (group not in ("method", "metrics"))
    if group == "method":
        assert {record["method"] for record in records.values()} >= {chosen, "sgd"}
    if group == "metrics":
        assert 0 < first["result"]["metrics"]["brier"] < 2


def test_every_command_of_the_page_is_run() -> None:
    assert len(COMMANDS[4:]) == len(CHOICES)


def test_the_pages_files_are_choices(swa_train: SwaTrain, own_files: Path) -> None:
    shown = swa_train("--config-dir", "my", "--help").out
    for group, choice in (choice.split("=") for choice in [*CHOICES, "model=mynet"]):
        (line,) = re.findall(rf"^{group}: (.*)$", shown, re.MULTILINE)
        assert choice in line.split(", ")


def test_the_pages_metric(own_files: Path) -> None:
    """Probabilities 0.8 and 0.4 of the label: (0.04 + 0.04 + 0.36 + 0.36) / 2."""
    brier = pkgutil.resolve_name("my_metrics.brier")
    predictions = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    assert float(brier(predictions, torch.tensor([0, 0]))) == pytest.approx(0.4)


def test_init_from_a_file(swa_train: SwaTrain, mynet: Path) -> None:
    options = ["model=own", "model._target_=mynet.Net", "+model.arguments.width=4"]
    options += SHORT_RECIPE
    config = plan_of(*options, "seed=7").config
    state = fresh_model(config, CPU).state_dict()
    weights = {name: values.contiguous() for name, values in state.items()}
    save_file(weights, mynet / "first.safetensors")
    outcome = swa_train(*options, "init=first.safetensors", "budget=0.5", "method=sgd")
    assert outcome.code == 0, outcome.err
    (record,) = find_records(mynet).values()
    assert record["seed"] == 0
    assert record["initial_weights_sha256"] == weights_sha256(weights)
    outcome = swa_train(*options, "init=first.safetensors", "model.arguments.width=8")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert "init=first.safetensors: does not fit" in line and "size mismatch" in line


UNFIT = {
    "def Net(classes): pass": "unexpected keyword argument 'num_classes'",
    "def Net(num_classes): return 3": "gives a int, not a torch.nn.Module",
    "import no_such_module": "No module named 'no_such_module'",
    "from torch.nn import Flatten\ndef Net(num_classes): return Flatten()": (
        "makes (2, 3072) of two images instead of logits (2, 10)"
    ),
    "from torch.nn import Linear\ndef Net(num_classes): return Linear(7, 10)": (
        "fails on images of 32x32"
    ),
}


@pytest.mark.parametrize("code", UNFIT)
def test_an_unfit_network_is_named(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    name = f"unfit{list(UNFIT).index(code)}"
    (tmp_path / f"{name}.py").write_text(code + "\n")
    outcome = swa_train("model=own", f"model._target_={name}.Net", "dataset=cifar10_mini")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"swa-train: model._target_={name}.Net: ") and UNFIT[code] in line
    assert not (tmp_path / "results").exists()
