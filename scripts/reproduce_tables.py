"""The whole grid of the paper's CIFAR tables: say what is missing and what it costs, then do it.

Run by `make reproduce-tables`; arguments are options of swa-train that hold for every run.
Without a GPU it stops before training, unless ALLOW_CPU=1 is in the environment.
"""

import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import hydra
import torch
from hydra.errors import HydraException
from tabulate import tabulate

from swa_bench.config import schema as configs
from swa_bench.config.plan import Plan, make_plan, state_keys
from swa_bench.config.schema import DatasetConfig, Device, TrainConfig
from swa_bench.data import images as sources
from swa_bench.errors import ConfigError, SwaBenchError
from swa_bench.labels import PAPER_DATASETS, PAPER_MODELS
from swa_bench.results.status import METHODS, SEEDS, read_row
from swa_bench.train import explain
from swa_bench.training import checkpoints
from swa_bench.training import hardware as device
from swa_bench.training import timing as estimate
from swa_bench.training.progress import duration


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
        states = {key for plan in self.missing for key in state_keys(plan, self.dataset, "")[1:]}
        return sum(plan.config.epochs for plan in self.missing), len(states)


def plan_grid(overrides: list[str]) -> list[Row]:
    """Compose every run of the grid and see which of them have all their records."""
    rows = []
    with hydra.initialize_config_module("swa_bench.conf", version_base="1.3"):
        for dataset in PAPER_DATASETS:
            for model in PAPER_MODELS:
                grid = [(seed, method) for seed in SEEDS for method in METHODS]
                plans = [_plan(dataset, model, *one, overrides) for one in grid]
                missing = [plan for plan in plans if plan.missing()]
                finished = len(plans) - len(missing)
                rows.append(Row(dataset, model, plans[0].config, finished, missing))
    return rows


def _plan(dataset: str, model: str, seed: int, method: str, overrides: list[str]) -> Plan:
    choice = [f"dataset={dataset}", f"model={model}", f"seed={seed}", f"method={method}"]
    # How the jobs are launched does not change what they do.
    own = [override for override in overrides if not override.startswith("hydra")]
    cfg = hydra.compose("train", ["+experiment=paper_tables", *choice, *own])
    config = configs.to_config(cfg)
    device.decide(config)
    return make_plan(cfg, config)


def show(rows: list[Row], elsewhere: bool) -> None:
    """Print the plan: cells, epochs, and the time by the speed of this device.

    Args:
        elsewhere: whether other machines will train; then by the speed of what ran already.
    """
    lines, total, jobs, epochs, saved = [], 0.0, 0, 0, 0
    speeds: dict[str, float] = {}
    for row in rows:
        config = row.config
        on_disk = read_row(Path(config.results_dir), row.dataset, row.model)
        alone, shared = row.epochs()
        epochs, saved = epochs + alone, saved + alone - shared
        jobs += len({plan.config.seed for plan in row.missing})
        cost = "-"
        if row.missing and elsewhere:
            a_epoch = on_disk.epoch_seconds()
            cost = "unknown" if a_epoch is None else duration(shared * a_epoch)
        elif row.missing:
            if row.model not in speeds:
                speeds[row.model] = estimate.seconds_per_image(config)
            apart = sum(estimate.run_seconds(plan, speeds[row.model]) for plan in row.missing)
            total += apart * shared / alone
            cost = duration(apart * shared / alone)
        counts = [row.finished, len(on_disk.running()), len(on_disk.failed()), len(row.missing)]
        lines.append([row.dataset, row.model, *counts, shared, alone - shared, cost])
    header = "data set,model,runs finished,running,failed,missing,epochs,saved by sharing,time"
    print(tabulate(lines, header.split(","), "simple"))
    missing = sum(len(row.missing) for row in rows)
    time_left = "" if elsewhere else f", about {duration(total)} on this device"
    print(f"{missing} runs to train in {jobs} jobs of one model and seed{time_left}.")
    print(f"Sharing saves {saved:,} of {epochs:,} epochs.")


def show_store(config: TrainConfig) -> None:
    """Print how much disk the checkpoints take and may take."""
    size = checkpoints.limit_size(Path(config.results_dir), math.inf, ())
    limit = f"at most checkpoints.max_gb={config.checkpoints.max_gb:g}"
    print(f"Checkpoints: {size / 1e9:.2f} GB below {config.results_dir}, {limit}.")


def available(dataset: DatasetConfig) -> bool:
    """Whether a data set can be had, which fetches it; says why not."""
    try:
        sources.load_arrays(dataset)
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
    configs.register()
    rows = plan_grid(overrides)
    elsewhere = any(override.startswith("hydra/launcher=") for override in overrides)
    show(rows, elsewhere)
    torch.cuda.empty_cache()  # swa-train is to have the memory
    missing = [row for row in rows if row.missing]
    if not missing:
        return _call("swa-tables")
    config = missing[0].missing[0].config
    show_store(config)
    if not elsewhere and config.device is Device.cpu and os.environ.get("ALLOW_CPU") != "1":
        print(
            "No GPU here: stopped before training. ALLOW_CPU=1 make reproduce-tables trains on "
            "this CPU all the same; make quickstart shows the project at work in minutes."
        )
        return 1
    settings = {row.dataset: row.missing[0].config.dataset for row in missing}
    datasets = [name for name, dataset in settings.items() if available(dataset)]
    if not datasets:
        return 1
    sweep = ["+experiment=paper_tables", f"dataset={','.join(datasets)}"]
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
