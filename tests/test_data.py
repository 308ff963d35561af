"""Augmentation against torchvision's own transforms; random streams; batches."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import mini_images
from torchvision import transforms
from torchvision.transforms import functional as T
from training_helpers import plan_of

from swa_bench.data.augmentation import load_augmentation
from swa_bench.data.batches import DeviceImages, to_device
from swa_bench.data.images import ImageSet
from swa_bench.data.random import stream_seed
from swa_bench.errors import ConfigError

EXAMPLES = Path(__file__).parent.parent / "examples" / "own"


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return mini_images()


def on_device(images: ImageSet, *overrides: str) -> DeviceImages:
    config = plan_of("dataset=cifar10_mini", *overrides).config
    return to_device(images, config, torch.device("cpu"))


@pytest.mark.parametrize(
    ("mode", "torchvision_mode"), [("zeros", "constant"), ("reflect", "reflect")]
)
def test_every_crop_and_flip_is_torchvisions(
    images: ImageSet, mode: str, torchvision_mode: str
) -> None:
    data = on_device(images, f"augmentation.padding_mode={mode}")
    image = torch.tensor(images.train_images[7]).permute(2, 0, 1)
    padded = T.pad(image, 4, padding_mode=torchvision_mode)
    places = list(itertools.product(range(9), range(9), (False, True)))
    columns = (torch.tensor(column) for column in zip(*places, strict=True))
    choices = dict(zip(("row", "column", "flip"), columns, strict=True))
    stored = data.train_images[7].expand(len(places), -1, -1, -1)
    ours = data.augmentation.apply(stored, choices).permute(0, 3, 1, 2)
    for position, (row, column, flip) in enumerate(places):
        expected = T.crop(padded, row, column, 32, 32)
        assert torch.equal(ours[position], T.hflip(expected) if flip else expected)


def test_draws_are_uniform_as_the_authors_transforms_are(images: ImageSet) -> None:
    """81 places and 2 flips, each of 162 equally likely: chi-square of 40,000 draws."""
    data = on_device(images)
    counts = torch.zeros(162)
    for epoch in range(20):
        choices = data.draw(0, epoch, "train").choices
        cell = (choices["row"] * 9 + choices["column"]) * 2 + choices["flip"]
        counts += torch.bincount(cell, minlength=162)
    expected = 40_000 / 162
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert 109 < chi_square < 224  # 0.1 % and 99.9 % points for 161 degrees of freedom


def test_padding_is_black_before_normalisation(images: ImageSet) -> None:
    """A corner that lies outside the image is (0 - mean) / std, not 0, as in the authors' order."""
    data = on_device(images)
    draws = data.draw(3, 5, "train")
    batch, labels = next(data.train_batches(draws, 128))
    outside = (draws.choices["row"][:128] == 0) & ~draws.choices["flip"][:128]
    position = int(outside.nonzero()[0])
    index, column = int(draws.order[position]), int(draws.choices["column"][position])
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # VGG16's
    for channel in range(3):
        assert batch[position, channel, 0, 10].item() == pytest.approx(
            -mean[channel] / std[channel], rel=1e-6
        )
    as_pil = transforms.ToPILImage()(images.train_images[index])
    chain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = chain(T.crop(T.pad(as_pil, 4), 0, column, 32, 32))
    assert torch.equal(batch[position], expected)
    assert labels[position] == images.train_labels[index]


def test_an_epoch_holds_every_image_once_and_keeps_the_small_batch(images: ImageSet) -> None:
    data = on_device(images, "augmentation.flip=false", "augmentation.padding=0")
    draws = data.draw(0, 0, "train")
    assert torch.equal(draws.order.sort().values, torch.arange(2000))
    batches = list(data.train_batches(draws, 128))
    assert [len(labels) for _, labels in batches] == [128] * 15 + [80]
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.train_labels[draws.order])
    assert not draws.choices["flip"].any()


def test_streams_are_repeatable_and_independent(images: ImageSet) -> None:
    data = on_device(images)
    first, again = data.draw(1, 2, "train"), data.draw(1, 2, "train")
    assert torch.equal(first.order, again.order)
    assert torch.equal(first.choices["row"], again.choices["row"])
    seeds = {
        stream_seed(seed, epoch, purpose)
        for seed in range(5)
        for epoch in range(50)
        for purpose in ("weights", "dropout", "train", "recompute")
    }
    assert len(seeds) == 5 * 50 * 4
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    data.draw(1, 2, "recompute")
    assert torch.equal(torch.rand(3), expected)


def test_draws_are_pinned(images: ImageSet) -> None:
    """Other numbers here make other results for the same seed."""
    draws = on_device(images).draw(3, 7, "recompute")
    assert stream_seed(3, 7, "recompute") == 56151162862707083
    assert draws.order[:4].tolist() == [523, 566, 642, 1607]
    choices = {name: drawn[:4].tolist() for name, drawn in draws.choices.items()}
    assert (choices["row"], choices["column"]) == ([2, 1, 8, 3], [7, 7, 2, 1])
    assert choices["flip"] == [True, False, True, False]


def test_layout_changes_no_value(images: ImageSet) -> None:
    last, first = (on_device(images, f"channels_last={flag}") for flag in ("true", "false"))
    ours, theirs = (next(d.train_batches(d.draw(0, 0, "train"), 16))[0] for d in (last, first))
    assert torch.equal(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert theirs.is_contiguous()


def test_test_images_stay_as_they_are(images: ImageSet) -> None:
    data = on_device(images, "model=preresnet20")
    tested = torch.cat([batch for batch, _ in data.test_batches(300)])
    pixels = images.test_images[123].astype(np.float64) / 255
    expected = (pixels - (0.4914, 0.4822, 0.4465)) / (0.2023, 0.1994, 0.2010)
    np.testing.assert_allclose(tested[123].permute(1, 2, 0).numpy(), expected, rtol=1e-4, atol=1e-5)


CUTOUT = ["augmentation._target_=cutout.Cutout", "+augmentation.hole=9"]


def test_an_augmentation_from_outside(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutout draws after the crop, so the rest of each image is as without it."""
    monkeypatch.syspath_prepend(EXAMPLES)
    plain, cut = on_device(images), on_device(images, *CUTOUT)
    draws = cut.draw(0, 0, "train")
    without = plain.draw(0, 0, "train")
    assert torch.equal(draws.order, without.order)
    whole, holed = (
        data.augmentation.apply(data.train_images[draws.order], draws.choices)
        for data in (plain, cut)
    )
    for image in range(50):
        row, column = (int(draws.choices[name][image]) for name in ("hole_row", "hole_column"))
        expected = whole[image].clone()
        expected[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5] = 0
        assert torch.equal(holed[image], expected)
    buffers = cut.buffers()
    buffers.copy_(draws)
    places = torch.arange(128, 256)
    ours, theirs = (cut.train_batch(d.at(places))[0] for d in (buffers, draws))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augmentation.padding=-1", "augmentation.padding=-1: must be from 0 to 31 pixels"),
        ("augmentation.padding=4.5", "augmentation.padding=4.5: must be from 0 to 31 pixels"),
        ("augmentation.padding_mode=edge", "augmentation.padding_mode=edge: choose zeros or"),
        ("augmentation.flip=perhaps", "augmentation.flip=perhaps: must be true or false"),
        ("+augmentation.hole=9", "augmentation._target_=.*CropAndFlip: cannot be used: .*hole"),
        ("augmentation._target_=no.Such", "augmentation._target_=no.Such: cannot be used: No mod"),
    ],
)
def test_a_bad_augmentation_is_named(override: str, message: str) -> None:
    config = plan_of("dataset=cifar10_mini", override).config
    with pytest.raises(ConfigError, match=message):
        load_augmentation(config)
