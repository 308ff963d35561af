"""The authors' own program: mended where a current Python or torch refuses it, and run on a CPU.

It needs a clone of the authors' repository (github timgaripov/swa), of which nothing is in this
project: a copy of the clone is mended, in the few lines of MENDED. `python authors_program.py
FOLDER OPTION...` runs the copy's train.py in a process of its own.
"""

import concurrent.futures
import importlib
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from swa_bench.config.spec import compose_spec
from swa_bench.data.images import ImageSet, load_images
from swa_bench.errors import SwaBenchError

# In which file, what is replaced by what, and why it does not run as it is.
MENDED = [
    ("utils.py", "async=True", "non_blocking=True", "async is a keyword since Python 3.7"),
    ("utils.py", "loss.data[0]", "loss.item()", "torch no longer indexes a tensor of no dimension"),
    ("train.py", "train_set.train_labels", "train_set.targets", "torchvision renamed it"),
]
SETTINGS = ("experiment=quickstart", "precision=fp32")
EVERY = 3  # epochs between two tests of theirs, so that all three budgets are tested


def mended(clone: Path, out: Path) -> Path:
    """Copy a clone's program to a folder, with MENDED; return the copy."""
    if not (clone / "train.py").is_file():
        raise SwaBenchError(f"{clone}: no clone of the authors' repository (github timgaripov/swa)")
    program = out / "program"
    shutil.copytree(clone, program, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git"))
    for file, old, new, why in MENDED:
        text = (program / file).read_text()
        lines = [number for number, line in enumerate(text.splitlines(), 1) if old in line]
        print(f"mended: {file}, lines {', '.join(map(str, lines))}: {new} for {old} ({why})")
        (program / file).write_text(text.replace(old, new))
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
    with_small_network(importlib.import_module("models"))
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


def train(
    program: Path, out: Path, methods: Iterable[str], seeds: Iterable[int], processes: int
) -> pd.DataFrame:
    """Run their program for each method and seed that has no finished log.

    Returns:
        A row for each method, seed and budget, with the test error in %; it is in errors.csv too.
    """
    seeds = list(seeds)
    jobs = {
        (method, seed): out / f"{method}-seed{seed}.log" for method in methods for seed in seeds
    }

    def run(method: str, seed: int) -> None:
        log = jobs[method, seed]
        if log.exists() and errors_of(log, method):
            return
        options = [*command_of(method, seed), f"--dir={out / log.stem}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            command = [sys.executable, __file__, str(program), *options]
            subprocess.run(command, stdout=file, check=True, env=environment)

    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        list(pool.map(run, *zip(*jobs, strict=True)))
    rows = [
        (method, budget, seed, error)
        for (method, seed), log in jobs.items()
        for budget, error in errors_of(log, method).items()
    ]
    frame = pd.DataFrame(rows, columns=["method", "budget", "seed", "error"])
    frame.to_csv(out / "errors.csv", index=False)
    return frame


if __name__ == "__main__":
    one_run(Path(sys.argv[1]), sys.argv[2:])
