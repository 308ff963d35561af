"""Networks and images that users bring: the commands of docs/own.md, and what can go wrong."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from conftest import TINY, SwaTrain, plan_of
from helpers import COLOURS, make_folder
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import functional as T

from swa_bench.data.batches import to_device
from swa_bench.data.images import ImageSet, load_images
from swa_bench.training.network import fresh_model
from swa_bench.training.run import weights_sha256

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
PAGE = (ROOT / "docs" / "own.md").read_text()
COMMANDS = [line.split()[1:] for line in re.findall(r"^    (swa-train .*)$", PAGE, re.MULTILINE)]


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
    assert set(records) == {"swa 1", "sgd 1"}
    assert records["swa 1"]["variant"]["model._target_"] == "mynet.Net"
    assert "model.name" not in records["swa 1"]["variant"]
    assert "mynet [a]" in outcome.out and "swa 1 seed 0: test error" in outcome.out
    # 3 epochs are common: T = 4 for SWA and 5 for SGD, whose decays begin after 2 and 2.5.
    assert "Going on after epoch 3" in outcome.err
    assert "Finished already" in swa_train(*command).err

    (mynet / "my" / "model").mkdir(parents=True)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (mynet / "my" / "model" / "mynet.yaml").write_text(recipe)
    outcome = swa_train(*COMMANDS[1], *few, "results_dir=with_file")
    assert outcome.code == 0, outcome.err
    (record,) = find_records(mynet / "with_file").values()
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
    assert set(records) == {"swa 1", "sgd 1"}
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

    # Longer and on the host it goes on from the same states; moved elsewhere it is the same folder.
    (mynet / "flowers").rename(mynet / "moved")
    moved = ["dataset.root=moved", "dataset.memory=host", "budget=1.5"]
    outcome = swa_train(*command, *moved)
    assert "Going on after epoch 10" in outcome.err
    longer = find_records(mynet)["swa 1.5"]
    assert swa_train(*command, *moved, "dataset.memory=device", "results_dir=alone").code == 0
    assert "Decoding" not in outcome.err
    alone = find_records(mynet / "alone")["swa 1.5"]
    assert alone["result"] == longer["result"]
    # Another image makes another data set.
    Image.new("RGB", (40, 50)).save(mynet / "moved" / "train" / "red" / "new.png")
    assert swa_train(*command, "dataset.root=moved").code == 0
    folders = {path.name.rsplit("-", 1)[1] for path in row.glob("s*")}
    assert len(folders) == 5  # two of SWA, two of SGD and the longer one of SGD


def test_images_are_resized_cut_and_dealt(tmp_path: Path) -> None:
    make_folder(tmp_path, test="test")
    stripes = np.repeat(np.array(list(COLOURS.values()), dtype=np.uint8), 24, axis=0)
    wide = np.broadcast_to(stripes, (36, 72, 3))  # the centre holds 6, 24 and 6 columns of them
    Image.fromarray(wide.copy()).save(tmp_path / "test" / "blue" / "0.jpg", "PNG")
    grey = Image.new("L", (18, 9), 77)  # becomes 72x36
    grey.save(tmp_path / "test" / "green" / "0.jpg", "PNG")
    options = ["dataset=image_folder", f"dataset.root={tmp_path}", "dataset.image_size=24"]
    config = plan_of(*options, "augmentation.padding=2").config
    arrays = load_images(config.dataset)
    assert arrays.train_images.shape == (12, 36, 36, 3)
    assert arrays.train_labels.tolist() == [0, 1, 2] * 4
    assert arrays.test_labels.tolist() == [0, 1, 2] * 2
    first = arrays.test_images[0]
    assert (first[:, :6] == COLOURS["blue"]).all() and (first[:, 30:] == COLOURS["red"]).all()
    assert (first[:, 6:30] == COLOURS["green"]).all()
    assert (arrays.test_images[1] == 77).all()
    hashed = ImageSet(*(getattr(arrays, name) for name in arrays.NAMES))
    assert arrays.known_sha256 and arrays.fingerprint() == hashed.fingerprint()

    data = to_device(arrays, config, CPU)
    draws = data.draw(0, 0, "train")
    row, column, flip = (draws.choices[name] for name in ("row", "column", "flip"))
    assert row.min() >= 0 and row.max() <= 36 + 2 * 2 - 24
    images, labels = next(data.train_batches(draws, 12))
    assert images.shape == (12, 3, 24, 24)
    mean, std = (config.model.normalisation.mean, config.model.normalisation.std)

    def as_input(image: torch.Tensor) -> torch.Tensor:
        return T.normalize(image.float() / 255, mean, std)

    for place, index in enumerate(draws.order):
        image = T.pad(torch.tensor(arrays.train_images[index]).permute(2, 0, 1), 2)
        window = T.crop(image, int(row[place]), int(column[place]), 24, 24)
        expected = as_input(T.hflip(window) if flip[place] else window)
        torch.testing.assert_close(images[place], expected)
        assert labels[place] == arrays.train_labels[index]
    tested, _ = next(data.test_batches(6))
    centre = T.center_crop(torch.tensor(arrays.test_images[3]).permute(2, 0, 1), [24, 24])
    torch.testing.assert_close(tested[3], as_input(centre))


def test_the_pages_fine_tuning(
    swa_train: SwaTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResNet-50 from weights that the test puts where torchvision keeps its own."""
    make_folder(tmp_path / "imagenet")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    small = ["dataset.resize=40", "dataset.image_size=32", "optimizer.batch_size=6"]
    command = [*COMMANDS[3], *small, "precision=fp32"]
    assert swa_train(*command, "dry_run=true").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["imagenet"]  # nothing is fetched for it
    torch.manual_seed(5)
    made = torchvision.models.resnet50().state_dict()
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(made, tmp_path / "torch" / "hub" / "checkpoints" / "resnet50-0676ba61.pth")
    outcome = swa_train(*command)
    assert outcome.code == 0, outcome.err
    records = find_records(tmp_path)
    assert set(records) == {"swa_cyclic 0.5", "swa_cyclic 1"}
    assert records["swa_cyclic 1"]["variant"]["init"] == "pretrained"
    (path,) = tmp_path.rglob("epochs.csv")
    rows = pd.read_csv(path)
    assert list(rows["n_averaged"]) == list(range(1, 11))
    # Two steps an epoch, a cycle an epoch: the rate of the second is that of the cycle's end.
    assert list(rows["learning_rate"]) == pytest.approx([1e-5] * 10)

    plan = plan_of(*command)
    assert plan.rates(0) == plan.rates(9) == pytest.approx([(1e-3 + 1e-5) / 2, 1e-5])
    start = fresh_model(plan.config, CPU).state_dict()
    assert records["swa_cyclic 1"]["initial_weights_sha256"] == weights_sha256(start)
    assert start["fc.weight"].shape == (3, 2048)
    for name, values in made.items():
        assert name.startswith("fc.") or torch.equal(start[name], values), name


def test_init_from_a_file(swa_train: SwaTrain, mynet: Path) -> None:
    options = ["model=own", "model._target_=mynet.Net", "+model.arguments.width=4", *TINY[1:]]
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


def without_val(root: Path) -> str:
    shutil.rmtree(root / "val")
    return "dataset.root=images: needs train/CLASS/*.jpg and val/CLASS/*.jpg (or test)"


def another_class(root: Path) -> str:
    (root / "val" / "red").rename(root / "val" / "pink")
    return "dataset.root=images: train and val differ in the classes pink, red"


def no_images(root: Path) -> str:
    for path in (root / "train" / "blue").iterdir():
        path.unlink()
    return "Found no valid file for the classes blue"


def broken_image(root: Path) -> str:
    (root / "train" / "red" / "2.jpg").write_text("no image")
    return "images/train/red/2.jpg cannot be read as an image"


def cut_image(root: Path) -> str:
    path = root / "train" / "green" / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    return "images/train/green/1.png cannot be read as an image"


@pytest.mark.parametrize("spoil", [without_val, another_class, no_images, broken_image, cut_image])
def test_a_spoilt_folder_is_named(
    swa_train: SwaTrain, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    make_folder(tmp_path / "images")
    expected = spoil(tmp_path / "images")
    outcome = swa_train("model=preresnet20", "dataset=image_folder", "dataset.root=images")
    assert outcome.code in (1, 2)
    line = outcome.err.splitlines()[-1]
    assert line.startswith("swa-train: ") and expected in line
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.rglob("*.npy")) and not list(tmp_path.rglob("*.part"))
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_damaged_cache_is_named(swa_train: SwaTrain, tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    options = ["model=preresnet20", "dataset=image_folder", "dataset.root=images", "method=sgd"]
    options += ["model.budget_epochs=1", "model.swa_start=1"]
    assert swa_train(*options).code == 0
    (cache,) = tmp_path.glob("images/decoded-train-36px-*.npy")
    content = bytearray(cache.read_bytes())
    content[-1] ^= 1
    cache.write_bytes(content)
    outcome = swa_train(*options, "seed=1")
    assert outcome.code == 1
    assert f"images/{cache.name} is altered: delete it" in outcome.err
    cache.write_bytes(content[:-100])
    outcome = swa_train(*options, "seed=1", "dataset.memory=host")
    assert f"images/{cache.name} is damaged" in outcome.err


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
