"""A folder of images: how they are decoded, and what is said of one that is spoilt."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import COLOURS, make_folder
from PIL import Image
from torchvision.transforms import functional as T
from training_helpers import SwaTrain, plan_of

from swa_bench.data.batches import to_device
from swa_bench.data.images import ImageSet, load_images
from swa_bench.errors import SwaBenchError


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

    data = to_device(arrays, config, torch.device("cpu"))
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


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    options = ("dataset=image_folder", f"dataset.root={tmp_path}")
    device, host = (
        plan_of(*options, f"dataset.memory={memory}").config.dataset
        for memory in ("device", "host")
    )
    load_images(device)
    (cache,) = tmp_path.glob("decoded-train-36px-*.npy")
    content = bytearray(cache.read_bytes())
    content[-1] ^= 1
    cache.write_bytes(content)
    with pytest.raises(SwaBenchError, match=f"{cache.name} is altered: delete it"):
        load_images(device)
    cache.write_bytes(content[:-100])
    with pytest.raises(SwaBenchError, match=f"{cache.name} is damaged"):
        load_images(host)
