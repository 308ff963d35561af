"""Parts of the authors' program and of ours on the same numbers: what is equal to the last bit."""

import argparse
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from authors_program import SETTINGS, imported, mini_images, on_cpu, with_small_network
from PIL import Image
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from swa_bench.config.spec import compose_spec
from swa_bench.data.batches import EpochDraws, to_device
from swa_bench.models import build_model
from swa_bench.schedules import authors
from swa_bench.training.averaging import WeightAverage
from swa_bench.training.batch_norm import RunningStatistics
from swa_bench.training.forward import TrainingPass
from swa_bench.training.hardware import autocast
from swa_bench.training.step import take_step

# Our name and theirs.
NETWORKS = {
    "preresnet20": "PreResNet20",
    "preresnet110": "PreResNet110",
    "preresnet164": "PreResNet164",
    "vgg16": "VGG16",
    "vgg16_bn": "VGG16BN",
    "wrn28_10": "WideResNet28x10",
}
RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4


class Batches(list[tuple[Tensor, Tensor]]):
    """Batches, as their program asks for a loader."""

    @property
    def dataset(self) -> range:
        """As long as there are images."""
        return range(sum(len(labels) for _, labels in self))


def copy_by_order(source: nn.Module, target: nn.Module) -> None:
    """Copy parameters and buffers between two networks that name them differently."""
    theirs, ours = source.state_dict().values(), target.state_dict().values()
    for one, other in zip(theirs, ours, strict=True):
        other.copy_(one)


def compared(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> str:
    """Whether all tensors are equal to the last bit, or the largest difference."""
    pairs = list(zip(ours, theirs, strict=True))
    if all(torch.equal(one, other) for one, other in pairs):
        return "equal to the last bit"
    largest = max(float((one - other).detach().abs().max()) for one, other in pairs)
    return f"differ by {largest:.1e} at most"


def network_parts(models: Any, utils: Any, images: Tensor, labels: Tensor) -> list[list[str]]:
    """Each network: first weights, logits, steps, average and batch-norm statistics."""
    lines = []
    for name, class_name in NETWORKS.items():
        size = 2 if name == "wrn28_10" else 16  # images of a batch; the last of an epoch is smaller
        parts = (slice(0, size), slice(size, 2 * size), slice(2 * size, 2 * size + 1))
        batches = Batches((images[part], labels[part]) for part in parts)
        known = getattr(models, class_name)
        torch.manual_seed(0)
        theirs = known.base(*known.args, num_classes=10, **known.kwargs)
        torch.manual_seed(0)
        ours = build_model(name, 10)
        first = compared(list(ours.parameters()), list(theirs.parameters()))
        copy_by_order(theirs, ours)
        with torch.no_grad():
            logits = compared([ours.eval()(images[:8])], [theirs.eval()(images[:8])])
        steps = steps_part(ours, theirs, utils, batches)
        copy_by_order(theirs, ours)
        theirs_swa = known.base(*known.args, num_classes=10, **known.kwargs)
        copy_by_order(theirs, theirs_swa)
        average = average_part(ours, theirs, theirs_swa, utils)
        statistics = statistics_part(ours, theirs_swa, utils, batches)
        lines.append([name, first, logits, steps, average, statistics])
    return lines


def steps_part(ours: nn.Module, theirs: nn.Module, utils: Any, batches: Batches) -> str:
    """An epoch of three steps, with what the network draws of one seed."""
    options: dict[str, Any] = {"momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(theirs.parameters(), RATE, **options)
    utils.train_epoch(batches, theirs, F.cross_entropy, optimizer)
    config = compose_spec(*SETTINGS, "device=cpu").config
    optimizer = torch.optim.SGD(ours.train().parameters(), RATE, **options)
    optimizer.param_groups[0]["lr"] = torch.tensor(RATE)  # as in a run
    torch.manual_seed(1)
    for batch in batches:
        take_step(TrainingPass(ours), optimizer, *batch, autocast(config))
    return compared(list(ours.state_dict().values()), list(theirs.state_dict().values()))


def average_part(ours: nn.Module, theirs: nn.Module, theirs_swa: nn.Module, utils: Any) -> str:
    """The average of three sets of weights, which `theirs_swa` has afterwards."""
    swa = WeightAverage()
    for collected in range(3):
        for network in (ours, theirs):
            for parameter in network.parameters():
                parameter.data.mul_(1 + 0.1 * collected)
        swa.collect(ours, torch.zeros(1, 10))
        utils.moving_average(theirs_swa, theirs, 1.0 / (collected + 1))
    return compared(list(swa.weights().values()), list(theirs_swa.parameters()))


def statistics_part(ours: nn.Module, theirs_swa: nn.Module, utils: Any, batches: Batches) -> str:
    """The batch-norm statistics of one set of weights, recomputed."""
    if not utils.check_bn(theirs_swa):
        return "has none"
    copy_by_order(theirs_swa, ours)
    statistics = RunningStatistics(ours)
    with torch.no_grad():
        utils.bn_update(batches, theirs_swa)
        with statistics.recomputed():
            for images, _ in batches:
                ours(images)
    pairs = (
        [buffer for name, buffer in network.named_buffers() if "running" in name]
        for network in (ours, theirs_swa)
    )
    return compared(*pairs)


def schedule_part(program: Path) -> str:
    """The rates of every epoch of the paper's recipes."""
    source = (program / "train.py").read_text()
    function = re.search(r"def schedule\(epoch\):\n(?:    .*\n)+", source)
    assert function is not None
    epochs = 0
    networks, datasets = ("vgg16", "preresnet110", "wrn28_10"), ("cifar10", "cifar100")
    for row in itertools.product(networks, datasets, ("sgd", "swa")):
        name, dataset, method = row
        config = compose_spec(f"model={name}", f"dataset={dataset}", f"method={method}").config
        model = config.model
        args = argparse.Namespace(
            swa=method == "swa",
            epochs=config.epochs,
            swa_start=float(model.swa_start),
            swa_lr=model.swa_learning_rate[dataset],
            lr_init=model.learning_rate,
        )
        theirs: dict[str, Any] = {"args": args}
        exec(function[0], theirs)
        values = {key: value for key, value in config.schedule.items() if key != "_target_"}
        for epoch in range(config.epochs):
            if theirs["schedule"](epoch) != authors(epoch, 0, 1, **values):
                return f"{', '.join(row)}: differs in epoch {epoch + 1}"
        epochs += config.epochs
    return f"equal to the last bit ({epochs:,} epochs)"


def image_parts(models: Any) -> dict[str, str]:
    """Test images, and every window of the padded image with and without its mirror."""
    config = compose_spec(*SETTINGS, "device=cpu", "channels_last=false").config
    images = mini_images()
    data = to_device(images, config, torch.device("cpu"))
    normalised = models.PreResNet110.transform_test
    theirs = [normalised(Image.fromarray(image)) for image in images.test_images]
    (ours, _), *_ = data.test_batches(len(theirs))
    found = {"test images": compared([ours], [torch.stack(theirs)])}
    changes = models.PreResNet110.transform_train.transforms
    (crop,) = (change for change in changes if isinstance(change, transforms.RandomCrop))
    image = Image.fromarray(images.train_images[0])
    padded = transforms.functional.pad(image, crop.padding)
    windows, choices = [], []
    for row, column, flip in np.ndindex(9, 9, 2):
        window = transforms.functional.crop(padded, row, column, *crop.size)
        windows.append(normalised(transforms.functional.hflip(window) if flip else window))
        choices.append((row, column, flip))
    row, column, flip = torch.tensor(choices).T
    draws = EpochDraws(
        torch.zeros_like(row), {"row": row, "column": column, "flip": flip.bool()}, (0, 0, "train")
    )
    ours, _ = data.train_batch(draws)
    found["training images, all 162 windows"] = compared([ours], [torch.stack(windows)])
    return found


def show_parts(program: Path) -> None:
    """Print what is equal to the last bit."""
    on_cpu()
    models, utils = with_small_network(imported(program, "models")), imported(program, "utils")
    images = mini_images()
    pixels = torch.from_numpy(images.train_images[:64]).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(images.train_labels[:64])
    lines = network_parts(models, utils, pixels.float() / 255 - 0.5, labels)
    header = ["network", "first weights", "logits", "three steps", "average", "batch norm of it"]
    print(tabulate(lines, header, "github"))
    others = {"rates": schedule_part(program)} | image_parts(models)
    print(tabulate(others.items(), tablefmt="github"))
