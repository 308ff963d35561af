"""A whole grid of conf/grids.yaml: print what is missing and its cost, then train it.

Run by `make reproduce-tables`. The first argument names the grid, the others are options of
swa-train that hold for every run. Without a GPU it stops before training, unless the grid is meant
for a CPU or ALLOW_CPU=1 is in the environment.
"""

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException

from swa_bench.commands.explain import explain
from swa_bench.commands.status import epochs_and_time, grid_table
from swa_bench.config.grid import Experiment, Grid, grids
from swa_bench.config.plan import Plan, make_plan
from swa_bench.config.schema import DatasetConfig, TrainConfig
from swa_bench.config.spec import RunSpec, compose_spec
from swa_bench.data.images import load_images
from swa_bench.errors import ConfigError, SwaBenchError
from swa_bench.results import machine
from swa_bench.results.outlook import Outlook, look_ahead, seconds_of, total
from swa_bench.results.record import record_path, run_folder
from swa_bench.results.status import read_row
from swa_bench.results.stored import limit_size


@dataclass
class Row:
    """The runs of one data set and model, and what is left of each.

    Attributes:
        ensembles: of whole runs, without a record.
    """

    experiment: Experiment
    config: TrainConfig
    runs: list[Outlook]
    ensembles: list[TrainConfig]

    @property
    def missing(self) -> list[Outlook]:
        """The runs that are not finished."""
        return [run for run in self.runs if run.last is not None]


def plan_grid(grid: Grid, overrides: Iterable[str]) -> list[Row]:
    """Every row of a grid, and what is left of its runs; a run of two rows is of the first."""
    # How the jobs are launched does not change what they do.
    own = [override for override in overrides if not override.startswith("hydra")]
    found: list[tuple[Experiment, TrainConfig, list[Plan], list[TrainConfig]]] = []
    known = set[tuple[Path, int]]()
    for experiment in grid.experiments:
        for row in experiment.rows:
            jobs = specs(experiment, row, own)
            of_row = [make_plan(member) for job in jobs for member in job.members()]
            runs = {(run_folder(plan.config), plan.config.epochs): plan for plan in of_row}
            new = [plan for name, plan in runs.items() if name not in known]
            found.append((experiment, jobs[0].config, new, unrecorded(jobs)))
            known |= runs.keys()
    looks = iter(look_ahead(plan for _, _, plans, _ in found for plan in plans))
    return [
        Row(experiment, config, list(itertools.islice(looks, len(plans))), ensembles)
        for experiment, config, plans, ensembles in found
        if plans or ensembles
    ]


def specs(experiment: Experiment, row: tuple[str, str], overrides: list[str]) -> list[RunSpec]:
    """The jobs of an experiment's data set and model, seed after seed."""
    choice = [experiment.option, f"dataset={row[0]}", f"model={row[1]}"]
    found = []
    for method in experiment.own:
        first = compose_spec(*choice, f"method={method}", *overrides)
        found += [first, *map(first.with_method, first.config.also_train)]
    return [machine.guess(spec).replace(seed=seed) for seed in experiment.seeds for spec in found]


def unrecorded(jobs: Iterable[RunSpec]) -> list[TrainConfig]:
    """The ensembles of whole runs that have no record yet."""
    ensembles = [one.config for job in jobs for one in job.ensembles()]
    return [config for config in ensembles if not record_path(config).is_file()]


def show(rows: list[Row], elsewhere: bool) -> None:
    """Print runs, epochs and time by the speed of this device, or `elsewhere` of past runs."""
    lines = []
    for row in rows:
        dataset, model = row.config.dataset.name, row.config.model.name
        epochs, seconds = sum(len(run.epochs) for run in row.missing), seconds_of(row.missing)
        if elsewhere:
            a_epoch = read_row(Path(row.config.results_dir), dataset, model).epoch_seconds()
            seconds = None if a_epoch is None else epochs * a_epoch
        done = f"{len(row.runs) - len(row.missing)}/{len(row.runs)}"
        name = [row.experiment.name, dataset, model]
        lines.append([*name, done, *epochs_and_time(epochs, seconds)])
    print(grid_table(lines, "runs"))
    print(total(_missing(rows), here=not elsewhere))


def available(dataset: DatasetConfig) -> bool:
    """Whether a data set is available, which fetches it; prints why not."""
    try:
        load_images(dataset)
    except SwaBenchError as error:
        print(f"Left out: {error}")
        return False
    return True


def main(name: str, *overrides: str) -> int:
    """Plan, print, train, make the tables; the exit code is swa-train's."""
    grid = _grid(name, overrides)
    rows = plan_grid(grid, overrides)
    elsewhere = any(override.startswith("hydra/launcher=") for override in overrides)
    if grid.for_cpu and not elsewhere and seconds_of(_missing(rows)) is None:
        print("How fast this machine is, is not known yet:")
        models = dict.fromkeys(row.config.model.name for row in rows if row.missing)
        _call("swa-check", "--models", *models)
        rows = plan_grid(grid, overrides)
    show(rows, elsewhere)
    config = rows[0].config
    lacking = [row for row in rows if row.missing or row.ensembles]
    if not lacking:
        return _tables(grid, config)
    if grid.for_cpu:
        print("That is one run after the other; they run side by side on the cores that are there.")
    size = limit_size(Path(config.results_dir), math.inf, ()) / 1e9
    limit = f"at most checkpoints.max_gb={config.checkpoints.max_gb:g}"
    print(f"Checkpoints: {size:.2f} GB below {config.results_dir}, {limit}.")
    allowed = grid.for_cpu or os.environ.get("ALLOW_CPU") == "1"
    if not elsewhere and config.device == "cpu" and not allowed:
        print(
            "No GPU here: stopped before training. The same command after ALLOW_CPU=1 trains on "
            "this CPU all the same; make quickstart shows the project at work in minutes."
        )
        return 1
    codes = _train(lacking, overrides)
    return max([*codes, _tables(grid, config)]) if codes else 1


def _grid(name: str, overrides: Iterable[str]) -> Grid:
    """The grid of that name; ConfigError if there is none, or an override is its own to set."""
    if name not in grids():
        raise ConfigError("GRID", name, f"choose from {', '.join(grids())}")
    for override in overrides:
        option, _, value = override.partition("=")
        if option in ("dataset", "model", "seed", "method", "budget"):
            raise ConfigError(option, value, "the grid sets it; use swa-train -m instead")
    return grids()[name]


def _missing(rows: Iterable[Row]) -> list[Outlook]:
    return [run for row in rows for run in row.missing]


def _train(rows: list[Row], overrides: Iterable[str]) -> list[int]:
    """Train the experiments of the rows where their data sets are available; the exit codes."""
    settings = {row.config.dataset.name: row.config.dataset for row in rows}
    there = [name for name, dataset in settings.items() if available(dataset)]
    return [
        _call(
            "swa-train",
            experiment.option,
            f"dataset={','.join(one for one in experiment.datasets if one in there)}",
            *overrides,
        )
        for experiment in dict.fromkeys(row.experiment for row in rows)
        if set(experiment.datasets) & set(there)
    ]


def _tables(grid: Grid, config: TrainConfig) -> int:
    """Make the tables; those of a grid that has shipped records beside these, if that can be."""
    if not grid.shipped or not Path(grid.shipped).is_dir():
        return _call("swa-tables")
    rows = [row for experiment in grid.experiments for row in experiment.rows]
    datasets, models = (dict.fromkeys(names) for names in zip(*rows, strict=True))
    shown = ["--records", config.results_dir, "--dataset", *datasets, "--model", *models]
    code = _call("swa-tables", *shown, "--against", grid.shipped)
    return code and _call("swa-tables", *shown)  # options may have made them another recipe


def _call(command: str, *arguments: str) -> int:
    """Run a console script that is installed beside this Python."""
    return subprocess.run(
        [Path(sys.executable).parent / command, *arguments], check=False
    ).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(*(sys.argv[1:] or list(grids())[:1])))
    except (SwaBenchError, HydraException) as error:
        sys.exit(f"reproduce-tables: {explain(error)}")
