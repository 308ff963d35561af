"""The whole grid of the paper's CIFAR tables: print what is missing and its cost, then train it.

Run by `make reproduce-tables`; arguments are options of swa-train that hold for every run.
Without a GPU it stops before training, unless ALLOW_CPU=1 is in the environment.
"""

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException
from tabulate import tabulate

from swa_bench.commands.explain import explain
from swa_bench.config.grid import PAPER_DATASETS, PAPER_METHODS, PAPER_MODELS, PAPER_SEEDS
from swa_bench.config.plan import make_plan
from swa_bench.config.schema import DatasetConfig, TrainConfig
from swa_bench.config.spec import compose_spec
from swa_bench.data.images import load_images
from swa_bench.errors import ConfigError, SwaBenchError
from swa_bench.labels import duration
from swa_bench.results import machine
from swa_bench.results.outlook import Outlook, look_ahead, seconds_of, total
from swa_bench.results.status import read_row
from swa_bench.results.stored import limit_size


@dataclass
class Row:
    """The runs of one data set and model, and what is left of each."""

    config: TrainConfig
    runs: list[Outlook]

    @property
    def missing(self) -> list[Outlook]:
        """The runs that are not finished."""
        return [run for run in self.runs if run.last is not None]


def plan_grid(overrides: list[str]) -> list[Row]:
    """Every row of the grid, and what is left of its runs."""
    # How the jobs are launched does not change what they do.
    own = [override for override in overrides if not override.startswith("hydra")]
    rows = []
    for dataset in PAPER_DATASETS:
        for model in PAPER_MODELS:
            choice = ["experiment=paper_tables", f"dataset={dataset}", f"model={model}", *own]
            specs = {m: machine.guess(compose_spec(*choice, f"method={m}")) for m in PAPER_METHODS}
            plans = [
                make_plan(specs[method].replace(seed=seed))
                for seed in PAPER_SEEDS
                for method in PAPER_METHODS
            ]
            rows.append(Row(plans[0].config, look_ahead(plans)))
    return rows


def show(rows: list[Row], elsewhere: bool) -> None:
    """Print runs, epochs and time by the speed of this device, or `elsewhere` of past runs."""
    lines = []
    for row in rows:
        dataset, model = row.config.dataset.name, row.config.model.name
        epochs, seconds = sum(len(run.epochs) for run in row.missing), seconds_of(row.missing)
        if elsewhere:
            a_epoch = read_row(Path(row.config.results_dir), dataset, model).epoch_seconds()
            seconds = None if a_epoch is None else epochs * a_epoch
        cost = "-" if not row.missing else "unknown" if seconds is None else duration(seconds)
        counts = [len(row.runs) - len(row.missing), len(row.missing)]
        saved = sum(run.shared for run in row.missing)
        lines.append([dataset, model, *counts, epochs, saved, cost])
    header = ["\ndata set", "\nmodel", "runs\nfinished", "\nmissing", "\nepochs"]
    print(tabulate(lines, [*header, "saved by\nsharing", "\ntime"], "simple"))
    print(total([run for row in rows for run in row.missing], here=not elsewhere))


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
    lacking = [row for row in rows if row.missing]
    if not lacking:
        return _call("swa-tables")
    config = lacking[0].config
    size = limit_size(Path(config.results_dir), math.inf, ()) / 1e9
    limit = f"at most checkpoints.max_gb={config.checkpoints.max_gb:g}"
    print(f"Checkpoints: {size:.2f} GB below {config.results_dir}, {limit}.")
    if not elsewhere and config.device == "cpu" and os.environ.get("ALLOW_CPU") != "1":
        print(
            "No GPU here: stopped before training. ALLOW_CPU=1 make reproduce-tables trains on "
            "this CPU all the same; make quickstart shows the project at work in minutes."
        )
        return 1
    settings = {row.config.dataset.name: row.config.dataset for row in lacking}
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
