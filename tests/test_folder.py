"""A folder of images: how they are decoded, and what is said of one that is spoilt."""

import os
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers import COLOURS, make_folder
from PIL import Image
from torchvision.transforms import functional as T
from training_helpers import SwaTrain, config_of, plan_of

from swa_bench.config.identity import recipe_hash
from swa_bench.config.schema import DatasetConfig
from swa_bench.data import listing
from swa_bench.data.batches import to_device
from swa_bench.data.images import load_images
from swa_bench.errors import ConfigError, SwaBenchError


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
    return "dataset.root=images: no images in train/blue (files that end in .jpg .jpeg"


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
    dataset = plan_of("dataset=image_folder", f"dataset.root={tmp_path}").config.dataset
    load_images(dataset)
    (cache,) = tmp_path.glob("decoded-train-36px-*.npy")
    content = bytearray(cache.read_bytes())
    content[-1] ^= 1
    cache.write_bytes(content)
    with pytest.raises(SwaBenchError, match=f"{cache.name} is altered: delete it"):
        load_images(dataset)
    cache.write_bytes(content[:-100])
    with pytest.raises(SwaBenchError, match=f"{cache.name} is damaged"):
        load_images(dataset)


def folder_options(root: Path, *more: str) -> list[str]:
    return ["model=preresnet20", "dataset=image_folder", f"dataset.root={root}", *more]


def dataset_of(root: Path, *more: str) -> DatasetConfig:
    """The options of a folder as it is now, not as an earlier job listed it."""
    listing.register()
    return config_of(*folder_options(root, *more)).dataset


def make_bitmaps(root: Path) -> None:
    """Classes and folders whose order is not that of their letters alone."""
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(("b", "a-x", "a", "B")):
            for place in range(count + label % 2):
                path = root / split / name / ("deep/" * (place % 2)) / f"{place}.bmp"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.arange(40 * 50 * 3).reshape(40, 50, 3) * (7 + label) // (place + 1)
                Image.fromarray((pixels % 256).astype(np.uint8)).save(path)


def test_plain_folders_keep_their_identity(tmp_path: Path) -> None:
    """As version 0.2 had it, which listed with torchvision's ImageFolder."""
    make_bitmaps(tmp_path)
    dataset = dataset_of(tmp_path)
    assert dataset.content == "d377cf62ead68d50a0f876f3b11e4e8ff4b344306ae014f098c9a350dd2e22ca"
    config = config_of(*folder_options(tmp_path, "precision=fp32"))
    assert recipe_hash(config) == "910e7172ce27"
    found = load_images(dataset)
    assert found.class_names == ["B", "a", "a-x", "b"]
    known = "080472af1e4216c3be7a70fd2380e65d4f014af0174157ea6fedf65a6635f313"
    assert found.identity().sha256 == known


def test_what_is_not_an_image_is_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(tmp_path)
    plain = load_images(dataset_of(tmp_path)).identity().sha256
    red = tmp_path / "train" / "red"
    for name in (".ipynb_checkpoints/0.png", ".DS_Store", "notes.txt", "more.TXT", "README"):
        (red / name).parent.mkdir(exist_ok=True)
        shutil.copy(red / "1.png", red / name)
    for split in ("train", "val"):
        shutil.copytree(red, tmp_path / split / ".ipynb_checkpoints")
    (tmp_path / "train" / "labels.csv").touch()
    os.mkfifo(red / "pipe.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(red / "socket.jpg"))
    (tmp_path / "elsewhere").mkdir()
    (red / "0.jpg").rename(tmp_path / "elsewhere" / "0.jpg")
    (red / "0.jpg").symlink_to(tmp_path / "elsewhere" / "0.jpg")
    caplog.set_level("INFO")
    dataset = dataset_of(tmp_path)
    assert (dataset.classes, dataset.train_images, dataset.test_images) == (3, 12, 6)
    for _ in range(2):
        assert load_images(dataset).identity().sha256 == plain
    summary = (
        f"{tmp_path}: 3 classes (blue, green, red); 12 train images (4 a class); "
        "6 test images (2 a class); skipped: 2 .txt, 2 not a regular file, 1 outside the classes, "
        "1 without an ending"
    )
    assert caplog.messages.count(summary) == 1


@pytest.mark.parametrize("target", ["..", "../..", ".", "../../val/blue"])
def test_a_link_to_a_folder_that_holds_it_is_refused(tmp_path: Path, target: str) -> None:
    make_folder(tmp_path / "images")
    blue = tmp_path / "images" / "train" / "blue"
    (tmp_path / "images" / "val" / "blue" / "back").symlink_to(blue)  # which alone is none
    assert dataset_of(tmp_path / "images").test_images == 6 + 4
    (blue / "link").symlink_to(target)
    with pytest.raises(ConfigError, match="is a link to a folder that holds it: remove it"):
        dataset_of(tmp_path / "images")


def test_too_many_pixels_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path)
    Image.new("1", (10_000, 9_000)).save(tmp_path / "train" / "red" / "large.png")
    with pytest.raises(SwaBenchError, match=r"large.png cannot be read .*limit of 89478485 pixels"):
        load_images(dataset_of(tmp_path))


@pytest.mark.parametrize("locks", [True, False])
def test_several_decode_a_folder_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, locks: bool
) -> None:
    make_folder(tmp_path)
    dataset = dataset_of(tmp_path)
    if not locks:

        def refuse(*_: object, **__: object) -> None:
            raise NotImplementedError

        monkeypatch.setattr(FileLock, "acquire", refuse)
    caplog.set_level("INFO")
    start = threading.Barrier(6)

    def load(_: int) -> str:
        start.wait()
        return load_images(dataset).identity().sha256

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(load, range(6)))) == 1
    decoded = sum(message.startswith("Decoding") for message in caplog.messages)
    assert decoded == 2 if locks else decoded >= 2
    names = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert names == ["decoded"] * 4 + ["decoded.lock"] * locks + ["train", "val"]


def test_images_that_keep_name_size_and_time_are_decoded_again(tmp_path: Path) -> None:
    make_bitmaps(tmp_path)
    before = load_images(dataset_of(tmp_path))
    path = tmp_path / "train" / "a" / "0.bmp"
    content, times = bytearray(path.read_bytes()), path.stat()
    content[-3000:] = bytes(3000)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = load_images(dataset_of(tmp_path))
    assert dataset_of(tmp_path).content and after.identity().sha256 != before.identity().sha256
    assert not np.array_equal(after.train_images[1], before.train_images[1])
    assert np.array_equal(after.train_images[0], before.train_images[0])
