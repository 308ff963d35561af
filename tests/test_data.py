"""Augmentation against torchvision's own transforms; random streams; batches."""

import itertools

import numpy as np
import pytest
import torch
from conftest import plan_of
from torchvision import transforms
from torchvision.transforms import functional as T

from swa_bench.data import images as sources
from swa_bench.data.batches import DeviceData, crop, stream_seed, to_device


@pytest.fixture(scope="module")
def arrays() -> sources.Arrays:
    return sources.read_mini()


def device_data(arrays: sources.Arrays, *overrides: str) -> DeviceData:
    config = plan_of("dataset=cifar10_mini", *overrides).config
    return to_device(arrays, config, torch.device("cpu"))


@pytest.mark.parametrize(
    ("mode", "torchvision_mode"), [("zeros", "constant"), ("reflect", "reflect")]
)
def test_every_crop_and_flip_is_torchvisions(
    arrays: sources.Arrays, mode: str, torchvision_mode: str
) -> None:
    data = device_data(arrays, f"dataset.augmentation.padding_mode={mode}")
    image = torch.tensor(arrays.train_images[7]).permute(2, 0, 1)
    padded = T.pad(image, 4, padding_mode=torchvision_mode)
    choices = list(itertools.product(range(9), range(9), (False, True)))
    rows, columns, flips = (torch.tensor(column) for column in zip(*choices, strict=True))
    index = torch.full((len(choices),), 7)
    ours = crop(data.train_images, index, rows, columns, flips, 32).permute(0, 3, 1, 2)
    for position, (row, column, flip) in enumerate(choices):
        expected = T.crop(padded, row, column, 32, 32)
        assert torch.equal(ours[position], T.hflip(expected) if flip else expected)


def test_draws_are_uniform_as_the_authors_transforms_are(arrays: sources.Arrays) -> None:
    """81 places and 2 flips, each of 162 equally likely: chi-square of 40,000 draws."""
    data = device_data(arrays)
    counts = torch.zeros(162)
    for epoch in range(20):
        draws = data.draw(0, epoch, "train")
        cell = (draws.row * 9 + draws.column) * 2 + draws.flip
        counts += torch.bincount(cell, minlength=162)
    expected = 40_000 / 162
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert 109 < chi_square < 224  # 0.1 % and 99.9 % points for 161 degrees of freedom


def test_padding_is_black_before_normalisation(arrays: sources.Arrays) -> None:
    """A corner that lies outside the image is (0 - mean) / std, not 0, as in the authors' order."""
    data = device_data(arrays)
    draws = data.draw(3, 5, "train")
    images, labels = next(data.train_batches(draws, 128))
    position = int(((draws.row[:128] == 0) & ~draws.flip[:128]).nonzero()[0])
    index = int(draws.order[position])
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # VGG16's
    for channel in range(3):
        assert images[position, channel, 0, 10].item() == pytest.approx(
            -mean[channel] / std[channel], rel=1e-6
        )
    as_pil = transforms.ToPILImage()(arrays.train_images[index])
    chain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = chain(T.crop(T.pad(as_pil, 4), 0, int(draws.column[position]), 32, 32))
    assert torch.equal(images[position], expected)
    assert labels[position] == arrays.train_labels[index]


def test_an_epoch_holds_every_image_once_and_keeps_the_small_batch(arrays: sources.Arrays) -> None:
    data = device_data(arrays, "dataset.augmentation.flip=false", "dataset.augmentation.padding=0")
    draws = data.draw(0, 0, "train")
    assert torch.equal(draws.order.sort().values, torch.arange(2000))
    batches = list(data.train_batches(draws, 128))
    assert [len(labels) for _, labels in batches] == [128] * 15 + [80]
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.train_labels[draws.order])
    assert not draws.flip.any()


def test_streams_are_repeatable_and_independent(arrays: sources.Arrays) -> None:
    data = device_data(arrays)
    first, again = data.draw(1, 2, "train"), data.draw(1, 2, "train")
    assert torch.equal(first.order, again.order) and torch.equal(first.row, again.row)
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


def test_layout_changes_no_value(arrays: sources.Arrays) -> None:
    last, first = (device_data(arrays, f"channels_last={flag}") for flag in ("true", "false"))
    ours, theirs = (next(d.train_batches(d.draw(0, 0, "train"), 16))[0] for d in (last, first))
    assert torch.equal(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert theirs.is_contiguous()


def test_test_images_stay_as_they_are(arrays: sources.Arrays) -> None:
    data = device_data(arrays, "model=preresnet20")
    images = torch.cat([images for images, _ in data.test_batches(300)])
    pixels = arrays.test_images[123].astype(np.float64) / 255
    expected = (pixels - (0.4914, 0.4822, 0.4465)) / (0.2023, 0.1994, 0.2010)
    np.testing.assert_allclose(images[123].permute(1, 2, 0).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_images_on_the_host_make_the_same_batches(arrays: sources.Arrays, mode: str) -> None:
    options = ["dataset.image_size=30", f"dataset.augmentation.padding_mode={mode}"]
    on_device, on_host = (
        device_data(arrays, *options, f"dataset.memory={memory}") for memory in ("device", "host")
    )
    assert on_host.train_images.shape == (2000, 32, 32, 3)  # as they are, not padded
    draws = on_device.draw(0, 3, "train")
    assert draws.row.max() == 32 + 2 * 4 - 30
    assert all(torch.equal(*pair) for pair in zip(draws, on_host.draw(0, 3, "train"), strict=True))
    for one, other in (
        (on_device.train_batches(draws, 300), on_host.train_batches(draws, 300)),
        (on_device.test_batches(300), on_host.test_batches(300)),
    ):
        for ours, theirs in zip(one, other, strict=True):
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
            assert ours[0].shape[1:] == (3, 30, 30)
