"""What one job does: it trains the missing runs of a recipe, several seeds in turn."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterable
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
from swa_bench.errors import SwaBenchError, without_frames
from swa_bench.files import check_writable
from swa_bench.labels import recipe_text
from swa_bench.results import locks, run_files
from swa_bench.results.epochs import Row
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
    config, plans = spec.config, list(map(make_plan, spec.block()))
    plans = [dataclasses.replace(plan, with_predictions=with_predictions) for plan in plans]
    reports = next(plan.reports for plan in plans if plan.config.seed == config.seed)
    with random_numbers(config.seed, 0, "weights"):  # a module of the user's may draw some
        own_code(config)  # it is read when it is imported, before it can change
    to_do = _unfinished(plans)  # with force=true too, since a newer record is refused
    _check_records(plans)
    done = not (to_do or config.force)
    if not (done and config.dataset.is_published):
        if not done:
            hardware.free_memory()
            check_writable("results_dir", Path(config.results_dir))
        threads.begin(config)
        # What cannot be trained is refused before its images are decoded.
        summary = "" if done else _describe(plans if config.force else to_do)
        images = load_images(config.dataset)
        plans = [dataclasses.replace(plan, data=images.identity()) for plan in plans]
        to_do = plans if config.force else _unfinished(plans)
        _check_records(to_do)
    if done:
        log.info(FINISHED, run_folder(config))
        return reports
    recipe_diff = spec.recipe_diff()
    with device_faults(less_memory(config)), locks.alone_in(_folders(to_do)):
        _check_records(to_do)
        with locks.failures_noted(_folders(to_do), lambda: _folders(_unfinished(plans))):
            # While this one waited, another process may have finished some.
            if to_do := to_do if config.force else _unfinished(to_do):
                for plan in to_do:
                    folder = run_folder(plan.config)
                    run_files.write_options(folder, plan.config, recipe_text(recipe_diff))
                with run_files.logged_in(_folders(to_do)):
                    log.info("%s", summary)
                    _recommend_precision(config.device, config.precision)
                    _train(spec, to_do, images, recipe_diff)
    return [report for plan in to_do for report in plan.reports] or reports


def _unfinished(plans: list[Plan]) -> list[Plan]:
    return [plan for plan in plans if missing(plan)]


def _folders(plans: list[Plan]) -> list[Path]:
    return [run_folder(plan.config) for plan in plans]


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
    device = hardware.prepare(config)
    provenance: dict[str, Any] = {
        "recipe_diff": recipe_diff,
        "data_sha256": identity.sha256,
        "versions": hardware.versions(),
    }
    if code := own_code(config):
        provenance["source_sha256"] = {option: source.sha256 for option, source in code.items()}
    if identity.class_names:
        provenance["class_names"] = list(identity.class_names)
    if warnings := rehearse(config).warnings:  # it was done before anything was read
        provenance["warnings"] = list(warnings)
    with contextlib.closing(to_device(images, config, device)) as data:
        runs = [Run(plan, _forks(spec, plan), data, provenance) for plan in plans]
        for run in runs:
            note_start(run.config, identity.sha256, run.provenance["initial_weights_sha256"])
        seeds, end = [run.config.seed for run in runs], max(run.checkpoints.end for run in runs)
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
    write_row = {run: _open_logger(run) for run in runs}
    failures: dict[Run, Exception] = {}
    together: list[Run] = []

    def stop() -> None:
        left = [run for run in runs if run in together or not run.checkpoints.done]
        _stop([run for run in left if run not in failures])

    with progress, locks.signals_noted(stop):
        while left := [run for run in runs if not (run.checkpoints.done or run in failures)]:
            together = _next_together(left)
            if (count := together[0].threads) is not None:
                torch.set_num_threads(count)
            try:
                scores = _train_epoch(together, steps, progress)
            except Exception as error:  # their steps are taken in turn: none can go on
                if isinstance(error, SwaBenchError):  # such as an image that cannot be read
                    _stop(together)
                failures |= dict.fromkeys(together, error)
                continue
            stored = False
            for run, score in zip(together, scores, strict=True):
                try:
                    stored |= run.end_epoch(score)
                except Exception as error:
                    failures[run] = error
                else:
                    progress.epoch_done(run.config.seed, run.state.rows[-1])
                    write_row[run](run.state.rows[-1])
            if stored:
                _limit_checkpoints(runs)
            locks.end_if_asked()
    log.info("%s", _limit_checkpoints(runs))
    _raise_first(failures.values())


def _open_logger(run: Run) -> Callable[[Row], None]:
    """What writes a row beside epochs.csv; those of the epochs done are written."""
    write_row = open_logger(run.config)
    for row in run.state.rows:
        write_row(row)
    return write_row


def _raise_first(failures: Iterable[Exception]) -> None:
    """Raise the first of the failures, if any, and log the others."""
    for number, failure in enumerate(dict.fromkeys(failures)):  # one may be of several runs
        if number:
            log.warning("%s", without_frames(failure))
    for failure in failures:
        raise failure


def _next_together(runs: list[Run]) -> list[Run]:
    """The runs that are least far: each gets the bits that it gets alone."""

    def place(run: Run) -> tuple[int, int]:
        return run.state.epoch, run.state.step

    first = min(runs, key=place)
    return [run for run in runs if (place(run), run.threads) == (place(first), first.threads)]


def _stop(runs: list[Run]) -> None:
    """Store each run as it is; what fails is logged, since the process ends for another reason."""
    for run in runs:
        try:
            run.stop()
        except Exception as error:
            log.error("%s", without_frames(error))
    if runs:
        _limit_checkpoints(runs)


def _train_epoch(runs: list[Run], steps: dict[Run, TrainStep], progress: Progress) -> list[Score]:
    """Take the steps that are left of the runs' next epoch, and return their scores."""
    since = time.perf_counter()

    def share_seconds() -> None:
        nonlocal since
        since, before = time.perf_counter(), since
        for run in runs:
            run.state.train_seconds += (since - before) / len(runs)

    def after_step(images: int) -> None:
        progress.images_done(images)
        share_seconds()
        if any([run.checkpoints.store() for run in runs]):
            _limit_checkpoints(runs)
        locks.end_if_asked()

    for run in runs:
        run.begin_epoch(steps[run])
    streams = [stream for run in runs if (stream := steps[run].stream)]
    done = sum(run.state.tally.images for run in runs)
    progress.epoch_starts(runs[0].state.epoch, len(runs), streams, done)
    scores = train_epoch([steps[run] for run in runs], after_step)
    share_seconds()
    return scores


def _limit_checkpoints(runs: list[Run]) -> str:
    """Keep all checkpoints together within their limit, and say how much they take."""
    config = runs[0].config
    results, limit_gb = config.results_dir, config.checkpoints.max_gb
    own = {run.checkpoints.newest for run in runs}
    size = limit_size(Path(results), limit_gb * 1e9, own)
    return f"Checkpoints: {size / 1e9:.2f} GB in {results} (checkpoints.max_gb={limit_gb:g})"
