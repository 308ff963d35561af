"""swa-train: compose, check, plan, walk, record, and show the cells beside the published ones."""

import contextlib
import csv
import dataclasses
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
import yaml
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from swa_bench import sweep
from swa_bench.config import schema as configs
from swa_bench.config.plan import Plan, make_plan
from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import METHODS, branches, over_runs, variant, with_method
from swa_bench.data import folder as image_folder
from swa_bench.errors import ConfigError, SwaBenchError, Terminated
from swa_bench.files import check_writable
from swa_bench.results import locks as processes
from swa_bench.results import record as records
from swa_bench.training import loggers

if TYPE_CHECKING:
    import torch

    from swa_bench.data.images import Arrays

log = logging.getLogger(__name__)

LAUNCHER_EXTRAS = {"ray": "ray", "submitit_slurm": "slurm"}  # of the plugins' launchers


def train(cfg: DictConfig) -> None:
    """Do one run, then those of the methods that it names in `then`.

    Raises:
        SwaBenchError: one of them failed; the others were done even so.
    """
    for option in ("then", "share_with"):
        for method in cfg[option]:
            if method not in METHODS:
                raise ConfigError(option, method, f"choose of {', '.join(METHODS)}")
    failures, runs = [], [cfg, *(with_method(cfg, method) for method in cfg.then)]
    for one in runs:
        configs.to_config(one)  # what cannot be done is told of before anything is trained
    for one in runs:
        try:
            train_one(one)
        except SwaBenchError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def train_one(cfg: DictConfig) -> None:
    """Do one run: train what is missing of it, or print its plan."""
    config = configs.to_config(cfg)
    from swa_bench.training import (
        hardware as device,
    )  # torch takes seconds to import: only when a run is to be done

    target = device.decide(config)
    if over_runs(config):
        train_runs(cfg, config)
    elif config.dry_run:
        plans = [
            seed_plan(cfg, config, seed)
            for seed in configs.seed_block(config.seed, config.seeds_together)
        ]
        summary = describe(plans, device.device_name(target))
        print_plan(next(plan for plan in plans if plan.config.seed == config.seed), summary)
    else:
        print_cells(train_walk(cfg, config, target))


def train_runs(cfg: DictConfig, config: TrainConfig) -> None:
    """Do the runs that an ensemble is made of, then record it."""
    from swa_bench.training import ensembles
    from swa_bench.training import hardware as device

    runs = {run.config.seed: run for run in ensembles.runs(cfg, config)}
    if config.dry_run:
        train_one(runs[config.seed].cfg)
        seeds = ", ".join(map(str, runs))
        print(f"so for each of the seeds {seeds} that is missing", file=sys.stderr)
        return
    cells = ensembles.cells(cfg, config)
    # Its own seed first, so that jobs of several seeds do not wait for each other.
    for seed in [config.seed, *(seed for seed in runs if seed != config.seed)]:
        run = runs[seed]
        train_walk(run.cfg, run.config, device.decide(run.config), predictions=True)
    for cell in cells:
        ensembles.record(cell, runs, variant(cfg, config))
    print_cells(cells)


def train_walk(
    cfg: DictConfig, config: TrainConfig, target: "torch.device", predictions: bool = False
) -> list[TrainConfig]:
    """Train what is missing of a run and of those that go with it; return its own cells.

    Args:
        predictions: whether a cell without its predictions is missing too.
    """
    from swa_bench.training import hardware as device

    plans = {
        seed: dataclasses.replace(seed_plan(cfg, config, seed), with_predictions=predictions)
        for seed in configs.seed_block(config.seed, config.seeds_together)
    }
    loggers.check_installed(config.logger)
    check_writable("results_dir", Path(config.results_dir))
    to_do = [plan for plan in plans.values() if config.force or plan.missing()]
    if not to_do:
        folder = records.run_folder(config)
        log.info(
            "Finished already, on this or another device (force=true trains again): %s", folder
        )
        return plans[config.seed].cells
    summary = describe(to_do, device.device_name(target))
    from swa_bench.data import images as sources

    with _fetching_alone(config):
        arrays = sources.load_arrays(config.dataset)
    log.info("%s", summary)
    folders = {records.run_folder(plan.config): plan for plan in to_do}

    def unfinished() -> list[Path]:
        return [folder for folder, plan in folders.items() if plan.missing()]

    with (
        processes.alone_in(list(folders)),
        processes.failures_noted(list(folders), unfinished),
    ):
        # While this one waited, another process may have finished some.
        to_do = [plan for plan in to_do if config.force or plan.missing()]
        if to_do:
            _walk(cfg, to_do, arrays, target)
    return [cell for plan in to_do or [plans[config.seed]] for cell in plan.cells]


@contextlib.contextmanager
def _fetching_alone(config: TrainConfig) -> Iterator[None]:
    """Of jobs that a launcher starts at once, one fetches the data set and the others wait."""
    dataset = config.dataset
    with contextlib.ExitStack() as held:
        if dataset.name != "cifar10_mini" and dataset.source is not configs.Source.local:
            # Where nothing can be written, nothing is fetched: what reads it says why.
            with contextlib.suppress(OSError, NotImplementedError):
                held.enter_context(FileLock(Path(dataset.root) / processes.LOCK))
        yield


def _walk(cfg: DictConfig, to_do: list[Plan], arrays: "Arrays", target: "torch.device") -> None:
    """Train what is missing."""
    from swa_bench.data import batches as data
    from swa_bench.training import hardware as device
    from swa_bench.training import run as walk
    from swa_bench.training.progress import Progress

    config, fingerprint = to_do[0].config, arrays.fingerprint()
    provenance = {
        "variant": variant(cfg, config),
        "data_sha256": fingerprint,
        "device": device.device_name(target),
        "versions": device.versions() | records.code_version(),
    }
    if arrays.class_names:
        provenance["class_names"] = list(arrays.class_names)
    walk.run(
        [dataclasses.replace(plan, branches=branches(cfg, plan)) for plan in to_do],
        data.to_device(arrays, config, target),
        fingerprint,
        provenance,
        Progress(config, [plan.config.seed for plan in to_do], len(arrays.train_labels)),
    )


def seed_plan(cfg: DictConfig, config: TrainConfig, seed: int) -> Plan:
    """The plan of a configuration with another seed."""
    other = cfg.copy()
    other.seed = seed
    return make_plan(other, dataclasses.replace(config, seed=seed))


def describe(plans: list[Plan], device_name: str) -> str:
    """Two lines on what is about to run, with all that `auto` has picked."""
    from swa_bench.training import network

    config = plans[0].config
    seeds = ", ".join(str(plan.config.seed) for plan in plans)
    return (
        f"{config.model.name} ({network.count_parameters(config):,} parameters) on "
        f"{config.dataset.name}, {config.method.name}, seed {seeds}: {config.epochs} epochs, "
        f"{config.epochs * plans[0].steps_per_epoch:,} steps\n"
        f"on {config.device.value} ({device_name}), precision {config.precision.value}"
    )


def print_plan(plan: Plan, summary: str) -> None:
    """The plan as CSV on stdout, a summary on stderr; nothing is trained or written."""
    from swa_bench.training import timing as estimate
    from swa_bench.training.progress import duration

    config = plan.config
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["epoch", "learning_rate", "collects", "records_budget"])
    for epoch in range(config.epochs):
        budgets = " ".join(f"{cell.budget:g}" for cell in plan.cells_at(epoch + 1))
        writer.writerow([epoch + 1, plan.rates(epoch)[-1], int(plan.collects(epoch)), budgets])
    sys.stdout.flush()
    seconds = estimate.run_seconds(plan, estimate.seconds_per_image(config))
    print(f"{summary}, about {duration(seconds)} here from epoch 1", file=sys.stderr)


def print_cells(cells: list[TrainConfig]) -> None:
    """A run's own cells; then, unless a sweep will end with it, the row of the table so far."""
    from swa_bench.reporting import tables
    from swa_bench.results import statistics as summary

    config = cells[0]
    for cell in cells:
        record = records.read_cell(records.cell_path(cell))
        assert record is not None
        print(
            f"{cell.method.name} {cell.budget:g} seed {cell.seed}: test error "
            f"{record['result']['test_error_pct']:.2f} %, loss {record['result']['test_loss']:.4f}"
        )
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        return
    found = records.read_cells([Path(config.results_dir) / config.dataset.name / config.model.name])
    rows = summary.summarise(summary.cells_frame(found))
    for table in tables.tables_of_runs(config.dataset.name, rows, [config.model.name]):
        print(table.text())


# What main tells of after Hydra is done: the failure of a run that is no sweep.
_failed: list[SwaBenchError] = []


def job(cfg: DictConfig) -> None:
    """One job of Hydra; in a sweep Hydra must see it fail, a run alone is told of by main."""
    configs.register()  # a launcher may have started a process for it
    image_folder.scan.cache_clear()  # the job before may have seen fewer images
    try:
        train(cfg)
    except BrokenPipeError:  # Hydra would call it an error
        _end_unread()
    except SwaBenchError as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise
        _failed.append(error)


def main() -> None:
    """The command swa-train."""
    configs.register()
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print in its own words
    start = hydra.main(config_path="pkg://swa_bench.conf", config_name="train", version_base="1.3")
    try:
        start(job)()
        if _failed:
            raise _failed.pop()
    except (SwaBenchError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        if wants_traceback:
            raise
        if not sweep.report_failed():
            print(f"swa-train: {explain(error)}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, SwaBenchError) else 2)
    except Terminated:
        print("swa-train: ended as asked; start it again to go on", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        sys.exit("swa-train: interrupted; start it again to go on from the last checkpoint")
    except BrokenPipeError:
        _end_unread()
    except Exception:
        sweep.report_failed()
        raise


def _end_unread() -> None:
    """End without a word: a reader such as head has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def explain(error: Exception) -> str:
    """One or two lines that name the field, the value and the choices."""
    if isinstance(error, yaml.MarkedYAMLError):
        return f"{error.problem_mark or 'a YAML file'}: {error.problem}".strip()
    text = str(error)
    plugin = re.match(r"In 'hydra/launcher/(\w+)': Could not load 'hydra/launcher/(\w+)'", text)
    if plugin and plugin[2] in LAUNCHER_EXTRAS:
        extra = LAUNCHER_EXTRAS[plugin[2]]
        return f"hydra/launcher={plugin[1]} needs an extra: pip install 'swa-bench[{extra}]'"
    missing = re.match(r"(?:In '.*': )?Could not find '(.+)/(.*)'", text)
    if missing:
        options = re.findall(r"^\t([\w.-]+)$", text.split("Config search path")[0], re.MULTILINE)
        choices = ", ".join(options) or "nothing is there"
        return f"{missing[1]}={missing[2]}: no such option; choose one of {choices}"
    several = re.match(r"Ambiguous value for argument '(.+)'", text)
    if several:
        return f"{several[1]}: several values make a sweep: add -m"
    unknown = re.match(r"Could not override '(.+)'\.", text)
    if unknown:
        return f"{unknown[1]}: no such option; swa-train --cfg job shows all"
    text = text.removeprefix("Error merging override ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines[1:] = [str(error.__cause__).splitlines()[0]]
    return ": ".join(lines[:2])


if __name__ == "__main__":
    main()
