"""The authors' own program beside ours: the same parts bit for bit, and the same runs by seeds.

It needs a clone of the authors' repository (github timgaripov/swa). Nothing of it is in this
project: the clone is copied to --out, and there the few lines are mended that a current Python or
torch refuses (MENDED). See docs/fidelity.md.

    python scripts/beside_authors.py CLONE parts
    python scripts/beside_authors.py CLONE train --seeds 0 1 2 3 4 5
    python scripts/beside_authors.py CLONE compare --records FOLDER
"""

import argparse
import concurrent.futures
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torchvision
from PIL import Image
from scipy import stats
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision import transforms

from swa_bench.config.spec import compose_spec
from swa_bench.data.batches import EpochDraws, to_device
from swa_bench.data.images import ImageSet, load_images
from swa_bench.models import build_model
from swa_bench.results.frames import cells_frame
from swa_bench.results.record import read_records
from swa_bench.results.references import Estimate
from swa_bench.schedules import authors
from swa_bench.training.averaging import WeightAverage
from swa_bench.training.batch_norm import RunningStatistics
from swa_bench.training.hardware import autocast
from swa_bench.training.step import take_step

# In which file, what is replaced by what, and why it does not run as it is.
MENDED = [
    ("utils.py", "async=True", "non_blocking=True", "async is a keyword since Python 3.7"),
    ("utils.py", "loss.data[0]", "loss.item()", "torch no longer indexes a tensor of no dimension"),
    ("train.py", "train_set.train_labels", "train_set.targets", "torchvision renamed it"),
]
SETTINGS = ["experiment=quickstart", "precision=fp32"]
BOUND = 3.0  # points of test error, within which two means are taken as equivalent
EVERY = 3  # epochs between two tests of theirs, so that all three budgets are tested
NETWORKS = {  # our name, their name, depth of a network for which they have no name
    "preresnet20": ("PreResNet20", 20),
    "preresnet110": ("PreResNet110", None),
    "preresnet164": ("PreResNet164", None),
    "vgg16": ("VGG16", None),
    "vgg16_bn": ("VGG16BN", None),
    "wrn28_10": ("WideResNet28x10", None),
}


def mended(clone: Path, out: Path) -> Path:
    """Copy a clone's program to a folder, with MENDED; return the copy."""
    program = out / "program"
    shutil.copytree(clone, program, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git"))
    for file, old, new, why in MENDED:
        text = (clone / file).read_text()
        lines = [number for number, line in enumerate(text.splitlines(), 1) if old in line]
        print(f"mended: {file}, lines {', '.join(map(str, lines))}: {new} for {old} ({why})")
    for file in {file for file, *_ in MENDED}:
        text = (clone / file).read_text()
        for _, old, new, _ in (one for one in MENDED if one[0] == file):
            text = text.replace(old, new)
        (program / file).write_text(text)
    return program


def on_cpu() -> None:
    """Let .cuda() stay where it is, since the program knows no other device."""
    stay: Callable[..., Any] = lambda self, *_, **__: self  # noqa: E731
    nn.Module.cuda = Tensor.cuda = stay  # type: ignore[method-assign]


def imported(program: Path, name: str) -> Any:
    """A module or package of theirs, under a name that none of ours has."""
    path = program / name
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    places = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(
        f"authors_{name}", file, submodule_search_locations=places
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def with_small_network(models: Any) -> Any:
    """Their models, and PreResNet20: their class at a depth for which they have no name."""
    models.PreResNet20 = type("PreResNet20", (models.PreResNet110,), {"kwargs": {"depth": 20}})
    return models


class Mini(Dataset[tuple[Any, int]]):
    """The images of cifar10_mini, as their program asks for a data set of torchvision."""

    def __init__(self, root: str, train: bool, download: bool, transform: Any) -> None:
        images = mini_images()
        self.images, self.targets = (
            (images.train_images, images.train_labels.tolist())
            if train
            else (images.test_images, images.test_labels.tolist())
        )
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), self.targets[index]


def mini_images() -> ImageSet:
    """The images of cifar10_mini."""
    images = load_images(compose_spec(*SETTINGS).config.dataset)
    assert isinstance(images, ImageSet)
    return images


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
    config = compose_spec(*SETTINGS, "device=cpu", "channels_last=false").config
    for name, (class_name, _) in NETWORKS.items():
        size = 2 if name == "wrn28_10" else 16  # images of a batch
        batches = Batches(
            (images[start : start + size], labels[start : start + size])
            for start in range(0, 2 * size + 1, size)
        )
        batches[-1] = (batches[-1][0][:1], batches[-1][1][:1])  # the last of an epoch is smaller
        known = getattr(models, class_name)
        torch.manual_seed(0)
        theirs = known.base(*known.args, num_classes=10, **known.kwargs)
        torch.manual_seed(0)
        ours = build_model(name, 10)
        first = compared(list(ours.parameters()), list(theirs.parameters()))
        copy_by_order(theirs, ours)
        with torch.no_grad():
            logits = compared([ours.eval()(images[:8])], [theirs.eval()(images[:8])])
        rate = 0.05
        theirs_by = torch.optim.SGD(theirs.parameters(), rate, momentum=0.9, weight_decay=5e-4)
        torch.manual_seed(1)
        utils.train_epoch(batches, theirs, F.cross_entropy, theirs_by)
        ours_by = torch.optim.SGD(ours.parameters(), rate, momentum=0.9, weight_decay=5e-4)
        ours_by.param_groups[0]["lr"] = torch.tensor(rate)  # as in a run
        ours.train()
        torch.manual_seed(1)
        for batch in batches:
            take_step(ours, ours_by, *batch, autocast(config))
        steps = compared(list(ours.state_dict().values()), list(theirs.state_dict().values()))
        copy_by_order(theirs, ours)
        average, statistics = average_parts(ours, theirs, known, utils, batches)
        lines.append([name, first, logits, steps, average, statistics])
    return lines


def average_parts(
    ours: nn.Module, theirs: nn.Module, known: Any, utils: Any, batches: Batches
) -> tuple[str, str]:
    """The average of three sets of weights, and its batch-norm statistics."""
    theirs_swa = known.base(*known.args, num_classes=10, **known.kwargs)
    copy_by_order(theirs, theirs_swa)
    swa = WeightAverage()
    for collected in range(3):
        for network in (ours, theirs):
            for parameter in network.parameters():
                parameter.data.mul_(1 + 0.1 * collected)
        swa.collect(ours, torch.zeros(1, 10))
        utils.moving_average(theirs_swa, theirs, 1.0 / (collected + 1))
    average = compared(list(swa.weights().values()), list(theirs_swa.parameters()))
    if not utils.check_bn(theirs_swa):
        return average, "has none"
    copy_by_order(theirs_swa, ours)
    with torch.no_grad():
        utils.bn_update(batches, theirs_swa)
        statistics = RunningStatistics(ours)
        with statistics.recomputed():
            for images, _ in batches:
                ours(images)
    pairs = [
        [buffer for name, buffer in network.named_buffers() if "running" in name]
        for network in (ours, theirs_swa)
    ]
    return average, compared(*pairs)


def schedule_part(program: Path) -> str:
    """The rates of every epoch of the paper's recipes."""
    source = (program / "train.py").read_text()
    function = re.search(r"def schedule\(epoch\):\n(?:    .*\n)+", source)
    assert function is not None
    compared_epochs = 0
    for name in ("vgg16", "preresnet110", "wrn28_10"):
        for dataset in ("cifar10", "cifar100"):
            for method in ("sgd", "swa"):
                config = compose_spec(
                    f"model={name}", f"dataset={dataset}", f"method={method}"
                ).config
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
                        return f"{name}, {dataset}, {method}: differs in epoch {epoch + 1}"
                    compared_epochs += 1
    return f"equal to the last bit ({compared_epochs:,} epochs)"


def image_parts(models: Any) -> dict[str, str]:
    """Test images, and every window of the padded image with and without its mirror."""
    config = compose_spec(*SETTINGS, "device=cpu", "channels_last=false").config
    images = mini_images()
    data = to_device(images, config, torch.device("cpu"))
    normalised = models.PreResNet110.transform_test
    theirs = [normalised(Image.fromarray(image)) for image in images.test_images]
    (ours, _), *_ = data.test_batches(len(theirs))
    found = {"test images": compared([ours], [torch.stack(theirs)])}
    crop = next(
        one
        for one in models.PreResNet110.transform_train.transforms
        if isinstance(one, transforms.RandomCrop)
    )
    image = Image.fromarray(images.train_images[0])
    padded = transforms.functional.pad(image, list(crop.padding * np.ones(4, int)))
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
    print(
        tabulate(
            [["rates", schedule_part(program)], *image_parts(models).items()], tablefmt="github"
        )
    )


def command_of(method: str, seed: int) -> list[str]:
    """The options of their program that are the settings of ours."""
    config = compose_spec(*SETTINGS, f"method={method}").config
    model = config.model
    options = {
        "dataset": "Mini",
        "model": "PreResNet20",
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        "lr_init": model.learning_rate,
        "momentum": config.optimizer["momentum"],
        "wd": config.optimizer["weight_decay"],
        "eval_freq": EVERY,
        "save_freq": config.epochs,
        "num_workers": 0,
        "seed": seed,
        "data_path": "none",
    }
    if method == "swa":
        options["swa_start"] = model.swa_start
        options["swa_lr"] = model.swa_learning_rate["cifar10"]
    listed = [f"--{name}={value}" for name, value in options.items()]
    return listed + ["--swa"] * (method == "swa")


def one_run(program: Path, options: Sequence[str]) -> None:
    """Run their train.py in this process, with one thread."""
    torch.set_num_threads(1)
    on_cpu()
    torchvision.datasets.Mini = Mini
    sys.path.insert(0, str(program))
    models = importlib.import_module("models")
    with_small_network(models)
    sys.argv = ["train.py", *options]
    runpy.run_path(str(program / "train.py"), run_name="__main__")


def errors_of(log: Path, method: str) -> dict[float, float]:
    """Test error in % of each budget that a log reports; {} if it is not finished."""
    config = compose_spec(*SETTINGS, f"method={method}").config
    rows = [line.split() for line in log.read_text().splitlines() if re.match(r" +\d+ ", line)]
    accuracy = {int(row[0]): row[-2] for row in rows}
    if max(accuracy, default=0) < config.epochs:
        return {}
    lengths = {budget: int(budget * config.model.budget_epochs) for budget in config.report_budgets}
    return {
        budget: 100 - float(accuracy[epochs])
        for budget, epochs in lengths.items()
        if epochs <= config.epochs
    }


def train(program: Path, out: Path, seeds: Sequence[int], processes: int) -> None:
    """Run their program for each seed and method that has no finished log; print the figures."""
    jobs = {
        (method, seed): out / f"{method}-seed{seed}.log"
        for seed in seeds
        for method in ("swa", "sgd")
    }

    def run(method: str, seed: int) -> None:
        log = jobs[method, seed]
        if log.exists() and errors_of(log, method):
            return
        folder = out / log.stem
        arguments = [program, "--", *command_of(method, seed), f"--dir={folder}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            command = [sys.executable, __file__, "one", *map(str, arguments)]
            subprocess.run(command, stdout=file, check=True, env=environment)

    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        for done in [pool.submit(run, *job) for job in jobs]:
            done.result()
    rows = [
        (method, budget, seed, error)
        for (method, seed), log in jobs.items()
        for budget, error in errors_of(log, method).items()
    ]
    frame = pd.DataFrame(rows, columns=["method", "budget", "seed", "error"])
    frame.to_csv(out / "errors.csv", index=False)
    print(frame.groupby(["method", "budget"])["error"].agg(["mean", "std", "count"]))


def equivalence(
    ours: Sequence[float], theirs: Sequence[float], bound: float
) -> tuple[float, tuple[float, float], float, float]:
    """Compare two means by Welch's test, and by two one-sided tests with a bound on either side.

    Returns:
        The difference ours - theirs; its 90 % interval, which lies within the bounds if the means
        are equivalent at the 5 % level; the p-value of Welch's test; that of the equivalence.
    """
    one, other = np.array(ours), np.array(theirs)
    welch = stats.ttest_ind(one, other, equal_var=False)
    interval = welch.confidence_interval(0.9)
    above = stats.ttest_ind(one + bound, other, equal_var=False, alternative="greater")
    below = stats.ttest_ind(one - bound, other, equal_var=False, alternative="less")
    difference = float(np.mean(ours) - np.mean(theirs))
    ends = (float(interval.low), float(interval.high))
    return difference, ends, float(welch.pvalue), max(float(above.pvalue), float(below.pvalue))


def show_comparison(out: Path, records: Path) -> None:
    """Print each cell's errors, ours from records and theirs as `train` left them."""
    theirs = pd.read_csv(out / "errors.csv")
    lines = []
    ours = cells_frame(read_records([records]))
    for (method, budget), of_cell in theirs.groupby(["method", "budget"]):
        same = ours[(ours["method"] == method) & (ours["budget"] == budget)]
        one, other = list(same["error"]), list(of_cell["error"])
        difference, (low, high), p_value, p_equivalent = equivalence(one, other, BOUND)
        means = [str(Estimate(np.mean(of), np.std(of, ddof=1), len(of))) for of in (one, other)]
        interval = f"{low:+.2f} to {high:+.2f}"
        figures = [f"{difference:+.2f}", interval, f"{p_value:.2g}", f"{p_equivalent:.2g}"]
        lines.append([f"{method} {budget:g}", *means, *figures])
        print(f"{method} {budget:g}, theirs:", *(f"{error:.1f}" for error in other))
    header = ["", "ours", "theirs", "difference", "90 % interval", "Welch p", "equivalence p"]
    print(tabulate(lines, header, "github", disable_numparse=True))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="The authors' own program beside ours.")
    parser.add_argument("clone", type=Path, help="a clone of the authors' repository")
    parser.add_argument("action", choices=["parts", "train", "compare"])
    parser.add_argument("--seeds", type=int, nargs="+", default=range(6))
    parser.add_argument("--out", type=Path, default=Path("results/authors_program"))
    parser.add_argument("--processes", type=int, default=1, help="side by side, of one thread each")
    parser.add_argument("--records", type=Path, help="ours, with the same settings, to compare")
    options = parser.parse_args()
    if options.action == "compare":
        show_comparison(options.out, options.records)
        return
    program = mended(options.clone, options.out)
    if options.action == "parts":
        show_parts(program)
    else:
        train(program, options.out, options.seeds, options.processes)


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        one_run(Path(sys.argv[2]), sys.argv[4:])
    else:
        main()
