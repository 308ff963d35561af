"""What is left of runs before they are started: what is there already, epochs to train, time."""

import functools
import importlib.metadata
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swa_bench.config.identity import digest
from swa_bench.config.plan import Plan
from swa_bench.config.schema import TrainConfig, shaping, to_dict
from swa_bench.labels import counted, duration
from swa_bench.results.epochs import read_epochs
from swa_bench.results.finished import missing
from swa_bench.results.machine import THREADS, cpu_name, gpu_names
from swa_bench.results.record import Record, read_records, run_folder
from swa_bench.results.stored import furthest, read_start
from swa_bench.results.verdicts import Verdict, read_verdicts

UNKNOWN = "time unknown (no run like it, and no swa-check, on this machine)"
# A pass without gradients costs about a third of a training pass.
FORWARD_SHARE = 1 / 3
TRAINS_ALIKE = "batch_size precision channels_last compile".split()


@dataclass(frozen=True)
class Speed:
    """Seconds of training on an image, and how that is known."""

    image_s: float
    source: str


def speed(
    config: TrainConfig, records: Iterable[Record], verdicts: Iterable[Verdict]
) -> Speed | None:
    """The speed by records of a network that train alike here, or else by swa-check."""
    alike = _alike(to_dict(config))
    speeds = {
        record.folder: record.timing.images_per_s
        for record in records
        if record.timing.images_per_s
        and _alike(record.config) == alike
        and all(_is_meant(config, str(part.get("device"))) for part in record.segments)
        and _is_meant(config, record.device)
    }
    if speeds:
        source = f"by {counted(len(speeds), 'run')} on this device"
        return Speed(1 / statistics.median(speeds.values()), source)
    if not config.model._target_.startswith("swa_bench.") or config.dataset.image_size != 32:
        return None  # swa-check has timed no such step
    installed = _release(importlib.metadata.version("torch"))
    for verdict in sorted(verdicts, key=lambda one: one.date, reverse=True):
        image_s = verdict.image_s.get(config.model.name, {}).get(config.precision)
        of_this_torch = _release(verdict.torch) == installed
        if image_s is not None and of_this_torch and _is_meant(config, verdict.device):
            return Speed(image_s, "by swa-check")
    return None


def _is_meant(config: TrainConfig, name: str) -> bool:
    """Whether a device that records know by a name is here, and that of a configuration."""
    threads = THREADS.search(name)
    is_here = THREADS.sub("", name) == cpu_name() or name in gpu_names()
    fits = config.device in ("auto", "cpu" if threads else "cuda")
    if not threads or not is_here or not fits:
        return is_here and fits
    # Records of another machine may lie here too, whose processor has the same name.
    count = int(threads[1])
    return count <= (os.cpu_count() or 1) and config.threads in ("auto", count)


def _release(version: str) -> str:
    """Without what wheels add to it: 2.6.0 of 2.6.0+cu126."""
    return version.partition("+")[0]


def _alike(values: dict[str, Any]) -> dict[str, Any]:
    """What the time of a step depends on, of the options of a run or record."""
    groups = {name: values.get(name) or {} for name in ("model", "dataset", "optimizer")}
    return {name: values.get(name) for name in (*TRAINS_ALIKE, "augmentation")} | {
        "model": [groups["model"].get(name) for name in ("_target_", "arguments")],
        "dataset": [groups["dataset"].get(name) for name in ("resize", "image_size")],
        "optimizer": groups["optimizer"].get("_target_"),
    }


def run_seconds(plan: Plan, image_s: float, epochs: range) -> float:
    """Training and evaluation of some epochs (from 0), by the time of one training image."""
    config, evaluation = plan.config, plan.config.evaluation
    first = config.method.collect_from
    averages = bool(config.method.predictors)
    test_passes = average_passes = 0
    for epoch in epochs:
        collected = first is not None and epoch + 1 >= first
        test_passes += (epoch + 1) % evaluation.every == 0
        average_passes += (averages or collected) and (epoch + 1) % evaluation.average_every == 0
    train_images = config.dataset.train_images
    tested = (test_passes + average_passes) * config.dataset.test_images
    forward = tested + average_passes * train_images
    return image_s * (len(epochs) * train_images + FORWARD_SHARE * forward)


@dataclass(frozen=True)
class Outlook:
    """What is left of one run.

    Attributes:
        first: epochs that are on disk already.
        steps: of the epoch after these, on disk too.
        shared: epochs after these that earlier runs of the same command leave.
        last: the epoch after which nothing is missing; None if nothing is.
        speed: None if it is not known.
    """

    plan: Plan
    first: int
    steps: int
    shared: int
    last: int | None
    speed: Speed | None

    @property
    def epochs(self) -> range:
        """The epochs to train, from 0."""
        return range(self.first + self.shared, self.last or 0)

    @property
    def seconds(self) -> float | None:
        """How long they will take; None if that is not known."""
        if not self.speed:
            return None
        done = self.steps * self.plan.config.batch_size * self.speed.image_s
        return run_seconds(self.plan, self.speed.image_s, self.epochs) - done

    def text(self) -> str:
        """Such as: epochs 82 to 200 of 200 to train, about 2 h 3 min (by 3 runs on this device)."""
        if self.last is None:
            return "finished: nothing to train (force=true trains again)"
        if not self.last:
            return "to test: the network as it is, before any training"
        first, last, epochs = self.epochs.start, self.last, self.plan.config.epochs
        todo = f"epochs {first + 1} to {last} of {epochs}" if first else counted(last, "epoch")
        there = ""
        if self.first or self.steps:
            own = len(read_epochs(run_folder(self.plan.config) / "epochs.csv")) >= self.first
            parts = [f"epochs 1 to {self.first}"] * (self.first > 0)
            parts += [f"{counted(self.steps, 'step')} of epoch {self.first + 1}"] * (self.steps > 0)
            there = f"on disk: {' and '.join(parts)}{', of another run' * (not own)}\n"
        if self.shared:
            there += f"shared with the runs above: epochs {self.first + 1} to {first}\n"
        return f"{there}to train: {todo}, {time_of([self])}"


def look_ahead(plans: Iterable[Plan]) -> list[Outlook]:
    """The outlook of runs that are trained one after the other."""

    @functools.cache
    def records(results: str, model: str) -> list[Record]:
        return read_records(sorted(Path(results).glob(f"*/{model}")))

    verdicts = functools.cache(read_verdicts)
    found: list[Outlook] = []
    known: set[str] = set()  # names of the states that the runs so far pass
    for plan in plans:
        config = plan.config
        ends = [report.epochs for report in (plan.reports if config.force else missing(plan))]
        last = max(ends, default=None)
        start = None if config.force or not ends else read_start(config)
        keys = plan.state_keys(*start)[: min(ends) + 1] if start else []
        first, steps = furthest(config, keys)
        names = _names(plan)[first + 1 : (last or 0) + 1]
        shared = sum(name in known for name in names)
        steps *= not shared  # else that epoch is trained before
        of_model = records(config.results_dir, config.model.name)
        speed_here = speed(config, of_model, verdicts(Path(config.results_dir)))
        found.append(Outlook(plan, first, steps, shared, last, speed_here))
        known.update(names)
    return found


def seconds_of(found: Iterable[Outlook]) -> float | None:
    """How long some runs will take; None if that of one of them is not known."""
    seconds = [one.seconds for one in found if one.epochs]
    known = [one for one in seconds if one is not None]
    return sum(known) if len(known) == len(seconds) else None


def time_of(found: Sequence[Outlook]) -> str:
    """Such as: about 2 h 3 min (by 3 runs on this device)."""
    known = [one for one in found if one.speed]
    seconds = seconds_of(known)
    if not known or seconds is None:
        return UNKNOWN
    sources, about = sorted({one.speed.source for one in known if one.speed}), "about"
    if others := len(found) - len(known):
        about = "more than"
        sources.append(f"{counted(others, 'run')} of unknown time left out")
    return f"{about} {duration(seconds)} ({'; '.join(sources)})"


def total(found: Iterable[Outlook], here: bool = True) -> str:
    """Two lines: runs, epochs, and the time if they are trained here; what sharing saves."""
    left = [one for one in found if one.last is not None]
    if not left:
        return "Nothing to train."
    epochs, saved = sum(len(one.epochs) for one in left), sum(one.shared for one in left)
    time_left = f", {time_of(left)}" if here else ""
    return (
        f"{counted(len(left), 'run')} to train, {counted(epochs, 'epoch')}{time_left}.\n"
        f"Sharing saves {saved:,} of {epochs + saved:,} epochs."
    )


def _names(plan: Plan) -> list[str]:
    """Names of the states after 0, 1, 2, ... epochs: two runs that share one have it in common.

    Methods of one recipe share states if `checkpoints.keep_for` names them.
    """
    config = plan.config
    recipe, method = shaping(to_dict(config)), config.method
    apart = method.name if method.name not in config.checkpoints.keep_for else ""
    recipe |= {"method": [apart, method.predictors], "schedule": None}
    return plan.state_keys(digest(recipe), "")
