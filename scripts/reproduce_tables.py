"""The whole grid of the paper's CIFAR tables: print what is missing and its cost, then train it.

Run by `make reproduce-tables`; arguments are options of swa-train that hold for every run.
Without a GPU it stops before training, unless ALLOW_CPU=1 is in the environment.
"""

import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from hydra.errors import HydraException
from tabulate import tabulate

from swa_bench.commands.explain import explain
from swa_bench.config.grid import PAPER_DATASETS, PAPER_METHODS, PAPER_MODELS, PAPER_SEEDS
from swa_bench.config.plan import Plan, make_plan
from swa_bench.config.schema import DatasetConfig, TrainConfig
from swa_bench.config.spec import compose_spec
from swa_bench.data.images import load_images
from swa_bench.errors import ConfigError, SwaBenchError
from swa_bench.labels import duration
from swa_bench.results.finished import missing
from swa_bench.results.status import read_row
from swa_bench.training import checkpoints, hardware, timing


@dataclass
class Row:
    """The runs of one data set and model: the finished ones counted, the missing ones planned."""

    dataset: str
    model: str
    config: TrainConfig
    finished: int = 0
    missing: list[Plan] = field(default_factory=list)

    def epochs(self) -> tuple[int, int]:
        """Epochs of the missing runs, each alone, and with shared epochs trained once."""
        states = {key for plan in self.missing for key in plan.state_keys(self.dataset, "")[1:]}
        return sum(plan.config.epochs for plan in self.missing), len(states)


def plan_grid(overrides: list[str]) -> list[Row]:
    """Every row of the grid, and which of its runs lack a record."""
    # How the jobs are launched does not change what they do.
    own = [override for override in overrides if not override.startswith("hydra")]
    rows = []
    for dataset in PAPER_DATASETS:
        for model in PAPER_MODELS:
            choice = ["experiment=paper_tables", f"dataset={dataset}", f"model={model}", *own]
            specs = {
                m: hardware.resolve(compose_spec(*choice, f"method={m}")) for m in PAPER_METHODS
            }
            plans = [
                make_plan(specs[method].replace(seed=seed))
                for seed in PAPER_SEEDS
                for method in PAPER_METHODS
            ]
            lacking = [plan for plan in plans if missing(plan)]
            finished = len(plans) - len(lacking)
            rows.append(Row(dataset, model, plans[0].config, finished, lacking))
    return rows


def show(rows: list[Row], elsewhere: bool) -> None:
    """Print the plan: runs, epochs, and the time by the speed of this device.

    Args:
        elsewhere: whether other machines will train; then by the speed of past runs.
    """
    lines, total, jobs, epochs, saved = [], 0.0, 0, 0, 0
    speeds: dict[str, float] = {}
    for row in rows:
        on_disk = read_row(Path(row.config.results_dir), row.dataset, row.model)
        alone, shared = row.epochs()
        epochs, saved = epochs + alone, saved + alone - shared
        jobs += len({plan.config.seed for plan in row.missing})
        cost = "-"
        if row.missing and elsewhere:
            a_epoch = on_disk.epoch_seconds()
            cost = "unknown" if a_epoch is None else duration(shared * a_epoch)
        elif row.missing:
            if row.model not in speeds:
                speeds[row.model] = timing.seconds_per_image(row.config)
            apart = sum(timing.run_seconds(plan, speeds[row.model]) for plan in row.missing)
            total += apart * shared / alone
            cost = duration(apart * shared / alone)
        counts = [row.finished, len(on_disk.running()), len(on_disk.failed()), len(row.missing)]
        lines.append([row.dataset, row.model, *counts, shared, alone - shared, cost])
    header = "data set,model,runs finished,running,failed,missing,epochs,saved by sharing,time"
    print(tabulate(lines, header.split(","), "simple"))
    runs = sum(len(row.missing) for row in rows)
    time_left = "" if elsewhere else f", about {duration(total)} on this device"
    print(f"{runs} runs to train in {jobs} jobs of one model and seed{time_left}.")
    print(f"Sharing saves {saved:,} of {epochs:,} epochs.")


def available(dataset: DatasetConfig) -> bool:
    """Whether a data set is available, which fetches it; prints why not."""
    try:
        load_images(dataset)
    except SwaBenchError as error:
        print(f"Left out: {error}")
        return False
    return True


def main(overrides: list[str]) -> int:
    """Plan, print, train, make the tables; the exit code is swa-train's."""
    for override in overrides:
        name, _, value = override.partition("=")
        if name in ("dataset", "model", "seed", "method", "budget"):
            raise ConfigError(name, value, "the grid sets it; use swa-train -m instead")
    rows = plan_grid(overrides)
    elsewhere = any(override.startswith("hydra/launcher=") for override in overrides)
    show(rows, elsewhere)
    torch.cuda.empty_cache()  # leave the memory to swa-train
    lacking = [row for row in rows if row.missing]
    if not lacking:
        return _call("swa-tables")
    config = lacking[0].config
    size = checkpoints.limit_size(Path(config.results_dir), math.inf, ()) / 1e9
    limit = f"at most checkpoints.max_gb={config.checkpoints.max_gb:g}"
    print(f"Checkpoints: {size:.2f} GB below {config.results_dir}, {limit}.")
    if not elsewhere and config.device == "cpu" and os.environ.get("ALLOW_CPU") != "1":
        print(
            "No GPU here: stopped before training. ALLOW_CPU=1 make reproduce-tables trains on "
            "this CPU all the same; make quickstart shows the project at work in minutes."
        )
        return 1
    settings = {row.dataset: row.config.dataset for row in lacking}
    datasets = [name for name, dataset in settings.items() if available(dataset)]
    if not datasets:
        return 1
    sweep = ["experiment=paper_tables", f"dataset={','.join(datasets)}"]
    code = _call("swa-train", *sweep, *overrides)
    return _call("swa-tables") or code


def _call(command: str, *arguments: str) -> int:
    """Run a console script that is installed beside this Python."""
    return subprocess.run(
        [Path(sys.executable).parent / command, *arguments], check=False
    ).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (SwaBenchError, HydraException) as error:
        sys.exit(f"reproduce-tables: {explain(error)}")
