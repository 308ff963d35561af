"""Images that stream from their files: the same bits whoever makes them, and what can go wrong."""

import dataclasses
import gc
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_folder
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as T
from training_helpers import TINY_NET, SwaTrain, config_of, records_of

from swa_bench.analysis.trust import with_own_data
from swa_bench.config.identity import recipe_hash
from swa_bench.config.schema import TrainConfig, from_dict, to_dict
from swa_bench.data import file_set, listing
from swa_bench.data.augmentation import load_augmentation
from swa_bench.data.batches import Feed, Images, to_device
from swa_bench.data.decoding import read_rgb, read_tensor
from swa_bench.data.images import load_images
from swa_bench.data.random import stream_seed
from swa_bench.errors import SwaBenchError

PAGE = Path(__file__).parent.parent / "docs" / "own.md"
CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]


class Noisy:
    """A user's own augmentation: the centre, with one number of each generator in its corner."""

    def __init__(self, resize: int, image_size: int, most: int) -> None:
        self.size, self.most = image_size, most

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        import random

        centre = T.center_crop(image, [self.size]).clone()
        centre[0, 0, 0] = int(torch.randint(self.most, (), generator=generator))
        centre[1, 0, 0] = int(np.random.randint(self.most))
        centre[2, 0, 0] = random.randrange(self.most)
        return centre


class Wide(Noisy):
    """Makes images of another size."""

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return image.new_zeros(3, self.size, self.size + 1)


class Fails(Noisy):
    """Fails for dark images, but not for noise."""

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        if image.max() == 0:
            raise ValueError("it is dark")
        return super().__call__(image, generator)


CROP = ["augmentation=random_resized_crop"]
OWN = [*CROP, f"augmentation._target_={__name__}.Noisy", "+augmentation.most=256"]
OWN += [f"~augmentation.{name}" for name in ("scale", "ratio", "flip")]


def options(root: Path, *more: str) -> list[str]:
    small = ["dataset.resize=36", "dataset.image_size=32", "dataset.workers=0"]
    crop = CROP if "augmentation=" not in str(more) else []
    return [
        "dataset=image_folder",
        f"dataset.root={root}",
        "dataset.memory=disk",
        *small,
        *crop,
        *more,
    ]


def streamed(root: Path, *more: str) -> tuple[Images, TrainConfig]:
    """The folder as it is now."""
    listing.register()
    config = config_of(*options(root, *more))
    return to_device(load_images(config.dataset), config, CPU), config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training and 6 test images, PNG and JPEG, of three classes."""
    root = tmp_path_factory.mktemp("images")
    make_folder(root)
    return root


def a_pass(data: Images, batch_size: int = 5, epoch: int = 3) -> list[Batch]:
    return list(data.train_batches(data.draw(0, epoch, "train"), batch_size))


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


@pytest.mark.parametrize("augmentation", [CROP, OWN])
def test_the_bits_depend_on_no_process(folder: Path, augmentation: list[str]) -> None:
    """Nor on where a pass begins, nor on what else is drawn."""
    data, _ = streamed(folder, *augmentation)
    before = torch.get_rng_state()
    whole, tested = a_pass(data), list(data.test_batches(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(labels) for _, labels in whole] == [5, 5, 2]
    assert not same(whole[:1], a_pass(data, epoch=4)[:1])
    for workers in (1, 3):
        others, _ = streamed(folder, *augmentation, f"dataset.workers={workers}")
        torch.rand(7)
        assert same(whole, a_pass(others)) and same(tested, list(others.test_batches(4)))
        feed = Feed(others, 5)
        feed.begin(others.draw(0, 3, "train"), first=1)
        assert feed.batches_done.item() == 1
        assert same(whole[1:], [feed.next(5), feed.next(2)])


def test_seeds_take_turns_on_the_same_processes(folder: Path) -> None:
    data, _ = streamed(folder, "dataset.workers=1")
    alone = {seed: list(data.train_batches(data.draw(seed, 0, "train"), 4)) for seed in (0, 1)}
    feeds = {seed: Feed(data, 4) for seed in alone}
    for seed, feed in feeds.items():
        feed.begin(data.draw(seed, 0, "train"))
    for step in range(2):
        for seed, feed in feeds.items():
            assert same([feed.next(4)], alone[seed][step : step + 1])
    tests = list(data.test_batches(6))  # in the middle of both
    assert tests[0][1].tolist() == [0, 1, 2] * 2
    for seed, feed in feeds.items():
        assert same([feed.next(4)], alone[seed][2:])


def test_images_and_labels_are_those_of_the_files(folder: Path) -> None:
    """Numbers of an image's stream stand in its corner, in the order of the pass."""
    data, config = streamed(folder, *OWN)
    draws = data.draw(0, 3, "train")
    ((images, labels),) = data.train_batches(draws, 12)
    mean, std = config.model.normalisation.mean, config.model.normalisation.std
    (files,) = [load_images(config.dataset)]
    for place, index in enumerate(draws.order.tolist()):
        image = torch.from_numpy(np.array(read_rgb(files.train.path(index)))).permute(2, 0, 1)
        expected = T.center_crop(image, [32]).clone()
        number = stream_seed(0, 3, "train", index)
        drawn = torch.randint(256, (), generator=torch.Generator().manual_seed(number))
        expected[0, 0, 0] = drawn
        numpys = np.random.RandomState(number % 2**32).randint(256)
        expected[1, 0, 0] = int(numpys)
        expected[2, 0, 0] = round(float(images[place, 2, 0, 0] * std[2] + mean[2]) * 255)
        torch.testing.assert_close(images[place], T.normalize(expected / 255, mean, std))
        assert labels[place] == index % 3
    corners = images[:, 2, 0, 0].tolist()
    assert len(set(corners)) > 6


def test_the_first_image_has_a_stream_of_its_own() -> None:
    """Zeros at the end of an entropy count for nothing in numpy."""
    assert stream_seed(0, 3, "train", 0) != stream_seed(0, 3, "train")
    assert len({stream_seed(0, 3, "train", index) for index in range(100)}) == 100


def test_tests_see_the_centre(tmp_path: Path) -> None:
    """Stripes of 24 on 72x36: the centre of 32 holds 4, 24 and 4 columns of them."""
    make_folder(tmp_path)
    colours = [(0, 0, 255), (0, 255, 0), (255, 0, 0)]
    stripes = np.repeat(np.array(colours, dtype=np.uint8), 24, axis=0)
    wide = np.broadcast_to(stripes, (36, 72, 3)).copy()
    Image.fromarray(wide).save(tmp_path / "val" / "blue" / "0.jpg", "PNG")
    data, config = streamed(tmp_path)
    images, _ = next(data.test_batches(6))
    mean, std = config.model.normalisation.mean, config.model.normalisation.std
    pixels = images[0].permute(1, 2, 0) * torch.tensor(std) + torch.tensor(mean)
    found = (pixels * 255).round().int()
    for columns, colour in zip((slice(4), slice(4, 28), slice(28, 32)), colours, strict=True):
        assert (found[:, columns] == torch.tensor(colour)).all()


def test_the_crop_is_torchvisions(folder: Path) -> None:
    from torchvision.transforms import v2

    _, config = streamed(folder)
    made = load_augmentation(config).prepare(
        np.arange(2 * 36 * 36 * 3).reshape(2, 36, 36, 3).astype(np.uint8)
    )
    assert made.shape == (2, 32, 32, 3) and made.dtype == np.uint8
    image = torch.arange(3 * 40 * 50).reshape(3, 40, 50).to(torch.uint8)
    crop = v2.RandomResizedCrop(32, (0.08, 1.0), (0.75, 4 / 3), antialias=True)
    torch.manual_seed(5)
    expected = v2.RandomHorizontalFlip()(crop(image))
    torch.manual_seed(5)
    ours = load_augmentation(config).change(image, torch.default_generator)
    assert torch.equal(ours, expected)


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
@pytest.mark.parametrize("kind", ["colour", "grey", "turned", "print", "png"])
def test_a_faster_reader_gives_the_same_pixels(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    pixels = Image.fromarray(rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)).resize((310, 203))
    exif = Image.Exif()
    exif[0x0112] = 6
    mode = {"grey": "L", "print": "CMYK"}.get(kind, "RGB")
    more = {"exif": exif} if kind == "turned" else {}
    path = tmp_path / "made.jpg"
    pixels.convert(mode).save(path, "PNG" if kind == "png" else "JPEG", **more)
    found = read_tensor(str(path))
    assert found.shape == ((3, 310, 203) if kind == "turned" else (3, 203, 310))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(read_rgb(str(path))))


def fingerprint(root: Path, *more: str) -> str:
    listing.register()
    return load_images(config_of(*options(root, *more)).dataset).identity().sha256


def test_files_are_known_by_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    make_folder(tmp_path / "one")
    first = fingerprint(tmp_path / "one")
    assert "Reading 18 files (0.0 GB) once, to know them by their content." in caplog.messages
    caplog.clear()
    assert fingerprint(tmp_path / "one") == first
    assert not [text for text in caplog.messages if text.startswith("Reading")]
    (tmp_path / "one").rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "copy", ignore=lambda *_: ["file-hashes"])
    assert fingerprint(tmp_path / "moved") == first == fingerprint(tmp_path / "copy")
    assert [text.split()[1] for text in caplog.messages if "Reading" in text] == ["18"]
    caplog.clear()
    # The same size and time of modification, and another content.
    path = tmp_path / "moved" / "train" / "red" / "1.png"
    content, times = bytearray(path.read_bytes()), path.stat()
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(tmp_path / "moved") != first
    assert [text.split()[1] for text in caplog.messages if "Reading" in text] == ["1"]
    # Another label.
    blue, red = (tmp_path / "copy" / "train" / name for name in ("blue", "red"))
    blue.rename(tmp_path / "away")
    red.rename(blue)
    (tmp_path / "away").rename(red)
    assert fingerprint(tmp_path / "copy") != first
    # A damaged file of hashes is made again.
    hashes = tmp_path / "moved" / "file-hashes"
    known = hashes.read_bytes()
    hashes.write_bytes(known[:-1] + b"!")
    caplog.clear()
    assert fingerprint(tmp_path / "moved") != first
    assert [text.split()[1] for text in caplog.messages if "Reading" in text] == ["18"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_changes_under_a_run_is_named(tmp_path: Path, workers: int) -> None:
    """Not one whose times alone are others: its content is what counts."""
    make_folder(tmp_path)
    listing.register()
    config = config_of(*options(tmp_path, f"dataset.workers={workers}"))
    images = load_images(config.dataset)
    images.identity()
    data = to_device(images, config, CPU)
    before = a_pass(data)
    path = tmp_path / "train" / "red" / "1.png"
    path.touch()
    assert same(before, a_pass(data))
    times = path.stat()
    Image.new("RGB", (40, 40)).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(SwaBenchError, match=f"{path} was changed while it was in use: start again"):
        a_pass(data)


def test_hashes_of_a_folder_that_cannot_be_written_are_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "images")
    (tmp_path / "images" / "file-hashes").mkdir()  # no file can take its place
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = fingerprint(tmp_path / "images")
    (found,) = (tmp_path / "cache" / "swa_bench").glob("file-hashes-*")
    assert found.stat().st_size == 32 + 18 * (16 + 32)
    before = found.stat().st_mtime_ns
    assert fingerprint(tmp_path / "images") == first and found.stat().st_mtime_ns == before


def test_hashes_are_written_before_all_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal may end the process in the hour that this takes."""
    make_folder(tmp_path)
    there: list[bool] = []
    clock = itertools.count(0, 60)
    monkeypatch.setattr(file_set.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(
        file_set, "duration", lambda _: there.append((tmp_path / file_set.HASHES).exists())
    )
    fingerprint(tmp_path)
    assert there == [False, *[True] * 17]


def test_other_options_of_a_run_keep_its_name(folder: Path) -> None:
    """Where images are, and who reads them, is none of its results' business; the crop is."""
    listing.register()
    plain = ["dataset=image_folder", f"dataset.root={folder}"]
    names = [recipe_hash(config_of(*plain, *more)) for more in ([], ["dataset.workers=3"])]
    assert names[0] == names[1] != recipe_hash(config_of(*options(folder)))


def test_the_pages_augmentation() -> None:
    """Of the red image the mean over the colours stays, in each of them, if `share` is 1."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    made: dict[str, type] = {}
    exec(code, made)
    red = torch.zeros(3, 40, 50, dtype=torch.uint8)
    red[0] = 90
    for share, expected in ((0, [90, 0, 0]), (1, [30, 30, 30])):
        image = made["Grey"](resize=36, image_size=32, share=share)(red, torch.default_generator)
        assert image.shape == (3, 32, 32) and image.dtype == torch.uint8
        assert image[:, 5, 5].tolist() == expected


IN_MEMORY = ["dataset=cifar10_mini"]
WRONG: list[tuple[list[str], str]] = [
    (
        [*IN_MEMORY, "dataset.memory=disk"],
        "dataset.memory=disk: cifar10_mini is no folder of images",
    ),
    ([*IN_MEMORY, "dataset.memory=host"], "dataset.memory=host: was removed: disk reads the"),
    ([*IN_MEMORY, "dataset.workers=-1"], "dataset.workers=-1: must be auto, or an integer of 0 or"),
    (
        [*IN_MEMORY, *CROP],
        "augmentation._target_=swa_bench.data.augmentation.RandomResizedCrop: is not for images in "
        "memory: dataset.memory=disk or augmentation=window helps",
    ),
    (["augmentation=window"], "is not for one image at a time, as dataset.memory=disk has it: cho"),
    ([*CROP, "augmentation.scale=[1,0.5]"], "augmentation.scale=[1, 0.5]: must be two positive"),
    ([*CROP, "augmentation.scale=[0.5,2]"], "augmentation.scale=[0.5, 2]: must be two positive"),
    ([*CROP, "augmentation.flip=1"], "augmentation.flip=1: must be true or false"),
    (
        [*OWN, f"augmentation._target_={__name__}.Wide"],
        f"augmentation._target_={__name__}.Wide: fails: makes (torch.uint8, (3, 32, 33)) of ",
    ),
]


@pytest.mark.parametrize(("arguments", "expected"), WRONG)
def test_what_does_not_fit_is_named(
    swa_train: SwaTrain, folder: Path, arguments: list[str], expected: str
) -> None:
    if arguments[0] != IN_MEMORY[0]:
        arguments = options(folder, *arguments)
    outcome = swa_train(*TINY_NET, *arguments)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("swa-train: ") and expected in line
    assert not Path("results").exists()


@pytest.mark.parametrize("memory", ["disk", "device"])
def test_a_part_of_the_classes_is_refused(folder: Path, memory: str) -> None:
    """Its labels would be others than those of the whole, which a network may have learnt."""
    dataset = config_of(*options(folder)).dataset
    dataset = dataclasses.replace(dataset, classes=4, memory=memory)
    with pytest.raises(SwaBenchError, match=r"dataset\.classes=4: image_folder has 3"):
        load_images(dataset)


def truncated(root: Path) -> str:
    path = root / "train" / "green" / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    return f"{path} cannot be read as an image: "


def too_large(root: Path) -> str:
    path = root / "val" / "red" / "1.png"
    Image.new("1", (10_000, 9_000)).save(path)
    return f"{path} cannot be read as an image: Image size (90000000 pixels) exceeds limit of"


def dark(root: Path) -> str:
    path = root / "train" / "blue" / "0.jpg"
    Image.new("RGB", (40, 40)).save(path)
    return f"augmentation._target_={__name__}.Fails: fails for {path}: it is dark"


SHORT = ["batch_size=5", "model.budget_epochs=2", "model.swa_start=1", "precision=fp32"]
SHORT += ["evaluation.average_every=1", "checkpoints.every_s=0", "budget=1"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("spoil", [truncated, too_large, dark])
def test_a_file_that_fails_is_named(
    swa_train: SwaTrain, tmp_path: Path, spoil: Callable[[Path], str], workers: int
) -> None:
    make_folder(tmp_path / "images")
    expected = spoil(tmp_path / "images")
    own = [*OWN, f"augmentation._target_={__name__}.Fails"] if spoil is dark else CROP
    arguments = options(tmp_path / "images", *own, f"dataset.workers={workers}")
    outcome = swa_train(*TINY_NET, *SHORT, *arguments, "method=sgd")
    assert outcome.code == 1
    line = outcome.err.splitlines()[-1]
    assert line.startswith("swa-train: ") and expected in line and "Traceback" not in outcome.err


def test_small_shared_memory_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory: No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", refuse)  # also in processes that are forked
    data, _ = streamed(folder, "dataset.workers=1")
    expected = r"no room for images in shared memory, /dev/shm \(.*No space.*fewer dataset.workers"
    with pytest.raises(SwaBenchError, match=expected):
        a_pass(data)


def children() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid}


def test_processes_end_with_their_data_alone(folder: Path) -> None:
    """No signal ends them but SIGKILL, which is named; other passes go on with new ones."""
    before = children()
    data, _ = streamed(folder, "dataset.workers=2")
    whole = a_pass(data)
    (one, other) = children() - before
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(one, number)
    assert same(whole, a_pass(data)) and {one, other} <= children()
    os.kill(one, signal.SIGKILL)
    with pytest.raises(SwaBenchError, match="a process that reads images was killed"):
        a_pass(data)
    assert same(whole, a_pass(data)) and not {one, other} & children()
    ring: list[object] = [data]  # as the objects of a run are
    ring.append(ring)
    del data, ring
    gc.collect()
    assert children() == before


def pass_in_a_process(root: Path) -> set[int]:
    """Its process; it stays, as one does that an error's frames hold."""
    sys.held, _ = streamed(root, "dataset.workers=1")  # type: ignore[attr-defined]
    a_pass(sys.held)  # type: ignore[attr-defined]
    return children()


KILLED = """
import os, signal, sys
from pathlib import Path
import joblib
from test_streaming import pass_in_a_process
passes = [joblib.delayed(pass_in_a_process)(Path(sys.argv[1]))]
(found,) = joblib.Parallel(n_jobs=2 if sys.argv[2] == "launched" else 1)(passes)
print(*found, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["killed", "ended", "launched"])
def test_no_process_survives_the_main_one(folder: Path, how: str) -> None:
    """Nor one that a launcher started, as hydra/launcher=local_cpus does."""
    command = [sys.executable, "-c", KILLED, str(folder), how]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == (-signal.SIGKILL if how == "killed" else 0)
    worker = Path("/proc", done.stdout.strip())
    end = time.monotonic() + 60
    while worker.exists() and "Z" not in worker.joinpath("stat").read_text().split()[2]:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_runs_have_the_same_bits_with_any_workers(
    swa_train: SwaTrain, folder: Path, tmp_path: Path
) -> None:
    """Alone, resumed, and with another seed on the same processes."""
    arguments = [*TINY_NET, "+model.arguments.dropout=0.5", *SHORT, *options(folder)]
    found, before = {}, children()
    for name, more in {
        "0": ["budget=0.5"],
        "1": ["dataset.workers=1", "seeds_together=2"],
        "3": ["dataset.workers=3"],
    }.items():
        outcome = swa_train(*arguments, f"results_dir=of_{name}", *more)
        assert outcome.code == 0, outcome.err
        found[name] = records_of(tmp_path / f"of_{name}")
    assert children() <= before  # a job's processes end with it
    outcome = swa_train(*arguments, "results_dir=of_0", "dataset.workers=1")
    assert "Going on after epoch 1" in outcome.err
    results = {
        name: [
            (one["result"], one["data_sha256"])
            for key, one in records_of(tmp_path / f"of_{name}").items()
            if key.endswith("cell-1.json") and "seed0" in key
        ]
        for name in found
    }
    assert len(found["1"]) == 2 and len(results["0"]) == 1
    assert results["0"] == results["1"] == results["3"]
    (cell,) = (tmp_path / "of_3").rglob("cell-1.json")
    record = json.loads(cell.read_text())
    assert record["class_names"] == ["blue", "green", "red"]
    assert record["data_sha256"] == fingerprint(folder)


def test_records_of_images_on_the_host_can_still_be_used() -> None:
    """An option that earlier versions had, and that gave the bits of `device`."""
    values = to_dict(config_of("dataset=cifar10_mini"))
    del values["dataset"]["workers"]
    values["dataset"]["memory"] = "host"
    assert from_dict(with_own_data(values, None)).dataset.memory == "device"
