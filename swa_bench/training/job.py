"""What one job does: it trains the missing runs of a recipe, several seeds in turn."""

import dataclasses
import functools
import logging
import time
from pathlib import Path
from typing import Any

import torch

from swa_bench.config.own_code import own_code
from swa_bench.config.plan import Plan, describe, fork_epochs, make_plan
from swa_bench.config.schema import Device, Precision, TrainConfig
from swa_bench.config.spec import RunSpec
from swa_bench.data.augmentation import load_augmentation
from swa_bench.data.batches import to_device
from swa_bench.data.file_set import FileSet
from swa_bench.data.images import ImageSet, find_loader, load_images
from swa_bench.data.random import random_numbers
from swa_bench.errors import without_frames
from swa_bench.files import check_writable
from swa_bench.labels import recipe_text
from swa_bench.results import locks, run_files
from swa_bench.results.finished import FINISHED, missing
from swa_bench.results.record import run_folder
from swa_bench.results.same_data import check_run
from swa_bench.results.stored import limit_size, note_start
from swa_bench.training import hardware, threads
from swa_bench.training.averaging import check_predictors
from swa_bench.training.evaluation import Score
from swa_bench.training.faults import device_faults, less_memory
from swa_bench.training.loggers import check_installed, open_logger
from swa_bench.training.metrics import check_metrics
from swa_bench.training.progress import Progress
from swa_bench.training.rehearsal import rehearse
from swa_bench.training.run import Run
from swa_bench.training.step import TrainStep, train_epoch

log = logging.getLogger(__name__)


def train_missing(spec: RunSpec, with_predictions: bool = False) -> list[TrainConfig]:
    """Train what is missing of a run and of the seeds that train with it; return its reports.

    It raises SwaBenchError for what is wrong, and Terminated if the process was asked to end.

    Args:
        spec: with precision and device decided.
        with_predictions: whether a record without its predictions is missing too.
    """
    config = spec.config
    plans = {
        plan.config.seed: dataclasses.replace(plan, with_predictions=with_predictions)
        for plan in map(make_plan, spec.block())
    }

    def unfinished() -> list[Plan]:
        return [plan for plan in plans.values() if missing(plan)]

    def finished() -> list[TrainConfig]:
        log.info(FINISHED, run_folder(config))
        return plans[config.seed].reports

    with random_numbers(config.seed, 0, "weights"):  # a module of the user's may draw some
        own_code(config)  # it is read when it is imported, before it can change
    to_do = unfinished()  # with force=true too, since a newer record is refused
    _check_records(list(plans.values()))
    done = not (to_do or config.force)
    if done and config.dataset.is_published:
        return finished()
    if not done:
        hardware.free_memory()
        check_writable("results_dir", Path(config.results_dir))
    threads.begin(config)
    # What cannot be trained is refused before its images are decoded.
    summary = "" if done else _describe(list(plans.values()) if config.force else to_do)
    images = load_images(config.dataset)
    identity = images.identity()
    plans = {seed: dataclasses.replace(plan, data=identity) for seed, plan in plans.items()}
    to_do = list(plans.values()) if config.force else unfinished()
    _check_records(to_do)
    if done:
        return finished()
    folders = [run_folder(plan.config) for plan in to_do]
    recipe_diff = spec.recipe_diff()
    with device_faults(less_memory(config)), locks.alone_in(folders):
        _check_records(to_do)
        with locks.failures_noted(
            folders, lambda: [run_folder(plan.config) for plan in unfinished()]
        ):
            # While this one waited, another process may have finished some.
            to_do = [plan for plan in to_do if config.force or missing(plan)]
            if to_do:
                folders = [run_folder(plan.config) for plan in to_do]
                for folder, plan in zip(folders, to_do, strict=True):
                    run_files.write_options(folder, plan.config, recipe_text(recipe_diff))
                with run_files.logged_in(folders):
                    log.info("%s", summary)
                    _recommend_precision(config.device, config.precision)
                    _train(spec, to_do, images, recipe_diff)
    return [report for plan in to_do or [plans[config.seed]] for report in plan.reports]


@functools.cache  # once is enough
def _recommend_precision(device: Device, precision: Precision) -> None:
    if precision == "fp32" and "bf16" in hardware.native_precisions(device):
        log.info("precision=auto computes in bf16 here: faster, and a row of its own in the tables")


def check(config: TrainConfig) -> None:
    """Raise ConfigError where an option names a class, function or package that cannot be used."""
    find_loader(config.dataset)
    load_augmentation(config)
    check_predictors(config)
    check_metrics(config)
    check_installed(config.logger)


def _check_records(plans: list[Plan]) -> None:
    for plan in plans:
        check_run(plan.config, plan.data, plan.reports)


def _describe(plans: list[Plan]) -> str:
    """What is about to run, with what `auto` stands for and its size, after a rehearsal."""
    config = plans[0].config
    name = hardware.model_name(hardware.prepare(config))
    return f"{describe(plans, name)}, {rehearse(config).parameters:,} parameters"


def _train(
    spec: RunSpec, plans: list[Plan], images: ImageSet | FileSet, recipe_diff: dict[str, Any]
) -> None:
    config, identity = plans[0].config, plans[0].data
    assert identity is not None
    fingerprint = identity.sha256
    device = hardware.prepare(config)
    provenance: dict[str, Any] = {
        "recipe_diff": recipe_diff,
        "data_sha256": fingerprint,
        "versions": hardware.versions(),
    }
    if code := own_code(config):
        provenance["source_sha256"] = {option: source.sha256 for option, source in code.items()}
    if images.class_names:
        provenance["class_names"] = list(images.class_names)
    if warnings := rehearse(config).warnings:  # it was done before anything was read
        provenance["warnings"] = list(warnings)
    data = to_device(images, config, device)
    runs = [Run(plan, _forks(spec, plan), data, fingerprint, provenance) for plan in plans]
    for run in runs:
        note_start(run.config, fingerprint, run.provenance["initial_weights_sha256"])
    seeds, end = [run.config.seed for run in runs], max(run.end for run in runs)
    train_runs(runs, Progress(config, seeds, len(data.train_labels), end))


def _forks(spec: RunSpec, plan: Plan) -> frozenset[int]:
    forks = fork_epochs(spec.replace(seed=plan.config.seed), plan)
    others = ((epoch, dataclasses.replace(other, data=plan.data)) for epoch, other in forks)
    return frozenset(epoch for epoch, other in others if missing(other))


def train_runs(runs: list[Run], progress: Progress) -> None:
    """Train each run to its end, writing epochs.csv, records and checkpoints on the way.

    The runs, of one recipe and several seeds, take their steps in turn. One that fails, for
    whatever reason, is left; the others go on.

    Raises:
        Exception: the first failure, after the other runs have ended.
        Terminated: the process was asked to end.
    """
    steps = {run: TrainStep(run.config, run.state, run.data) for run in runs}
    write_row = {run: open_logger(run.config) for run in runs}
    for run in runs:
        for row in run.state.rows:
            write_row[run](row)
    failures: dict[Run, Exception] = {}
    with progress, locks.signals_noted() as end_request:
        while going := [run for run in runs if not run.done and run not in failures]:
            next_one = min(going, key=lambda run: run.state.epoch)
            epoch, count = next_one.state.epoch, next_one.threads
            if count is not None:
                torch.set_num_threads(count)
            same = (epoch, count)  # so that each has the bits that it has alone
            together = [run for run in going if (run.state.epoch, run.threads) == same]
            streams = [stream for run in together if (stream := steps[run].stream)]
            progress.epoch_starts(epoch, len(together), streams)
            stored = False
            try:
                scores, seconds = _train_epoch(together, steps, progress)
            except Exception as error:  # their steps are taken in turn: none can go on
                failures |= dict.fromkeys(together, error)
                continue
            for run, score in zip(together, scores, strict=True):
                try:
                    stored |= run.end_epoch(score, seconds)
                except Exception as error:
                    failures[run] = error
                else:
                    progress.epoch_done(run.config.seed, run.state.rows[-1])
                    write_row[run](run.state.rows[-1])
            if end_request.number is not None:
                for run in going:
                    stored |= run not in failures and run.store(now=True)
            if stored:
                _limit_checkpoints(runs)
            end_request.check()
    log.info("%s", _limit_checkpoints(runs))
    if failures:
        first, *others = dict.fromkeys(failures.values())  # one may be of several runs
        for other in others:
            log.warning("%s", without_frames(other))
        raise first


def _train_epoch(
    runs: list[Run], steps: dict[Run, TrainStep], progress: Progress
) -> tuple[list[Score], float]:
    """Take the steps of the runs' next epoch; return their scores and the seconds of each."""
    started, epoch = time.perf_counter(), runs[0].state.epoch
    for run in runs:
        seed = run.config.seed
        draws = run.data.draw(seed, epoch, "train")
        steps[run].begin_epoch(draws, run.plan.rates(epoch), seed, epoch)
    scores = train_epoch([steps[run] for run in runs], progress.images_done)
    return scores, (time.perf_counter() - started) / len(runs)


def _limit_checkpoints(runs: list[Run]) -> str:
    """Keep all checkpoints together within their limit, and say how much they take."""
    config = runs[0].config
    results, limit_gb = config.results_dir, config.checkpoints.max_gb
    own = {run.previous for run in runs}
    size = limit_size(Path(results), limit_gb * 1e9, own)
    return f"Checkpoints: {size / 1e9:.2f} GB in {results} (checkpoints.max_gb={limit_gb:g})"
