"""What is left of runs before they are started: what is there already, epochs to train, time."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from swa_bench.config.identity import digest
from swa_bench.config.plan import Plan
from swa_bench.config.schema import DatasetConfig, TrainConfig, shaping, to_dict
from swa_bench.data.images import load_images
from swa_bench.errors import SwaBenchError
from swa_bench.labels import counted, duration
from swa_bench.results.epochs import shared_with
from swa_bench.results.finished import missing
from swa_bench.results.record import checkpoint_folder, run_folder
from swa_bench.training import checkpoints, hardware, timing
from swa_bench.training.network import fresh_model
from swa_bench.training.states import weights_sha256


@dataclass(frozen=True)
class Outlook:
    """What is left of one run.

    Attributes:
        first: epochs that are on disk already.
        origin: whose they are, as `shared_with` says.
        shared: epochs after these that earlier runs of the same command leave.
        last: the epoch after which nothing is missing; 0 if nothing is.
    """

    plan: Plan
    first: int
    origin: str
    shared: int
    last: int

    @property
    def epochs(self) -> range:
        """The epochs to train, from 0."""
        return range(self.first + self.shared, self.last)

    @property
    def seconds(self) -> float:
        """How long they will take."""
        speed = timing.speed(self.plan.config)
        return timing.run_seconds(self.plan, speed.image_s, self.epochs)

    def text(self) -> str:
        """Such as: epochs 82 to 200 of 200 to train, about 2 h 3 min (by 3 runs on this device)."""
        if not self.last:
            return "finished: nothing to train (force=true trains again)"
        speed = timing.speed(self.plan.config)
        first, last, epochs = self.epochs.start, self.last, self.plan.config.epochs
        todo = f"epochs {first + 1} to {last} of {epochs}" if first else counted(last, "epoch")
        there = f"on disk: epochs 1 to {self.first}{self.origin}\n" if self.first else ""
        if self.shared:
            there += f"shared with the runs above: epochs {self.first + 1} to {first}\n"
        return f"{there}to train: {todo}, about {duration(self.seconds)} ({speed.source})"


def look_ahead(plans: Iterable[Plan], known: set[str]) -> list[Outlook]:
    """The outlook of runs that are trained one after the other.

    Args:
        known: names of the states that earlier runs of the same command pass; those of these are
            added.
    """
    found = []
    for plan in plans:
        config = plan.config
        ends = [report.epochs for report in (plan.reports if config.force else missing(plan))]
        last = max(ends, default=0)
        first, origin = (0, "") if config.force or not ends else _on_disk(plan, min(ends))
        names = _names(plan)[first + 1 : last + 1]
        found.append(Outlook(plan, first, origin, sum(name in known for name in names), last))
        known.update(names)
    return found


def total(found: Iterable[Outlook], here: bool = True) -> str:
    """Two lines: runs, epochs, and the time if they are trained here; what sharing saves."""
    left = [one for one in found if one.last]
    if not left:
        return "Nothing to train."
    epochs, saved = sum(len(one.epochs) for one in left), sum(one.shared for one in left)
    time_left = ""
    if here:
        sources = sorted({timing.speed(one.plan.config).source for one in left})
        seconds = duration(sum(one.seconds for one in left))
        time_left = f", about {seconds} ({'; '.join(sources)})"
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


def _on_disk(plan: Plan, end: int) -> tuple[int, str]:
    """The epochs of the furthest stored state up to epoch `end`, and whose they are."""
    config = plan.config
    folder = checkpoint_folder(config)
    if not any(folder.glob(f"seed{config.seed}-epoch*.pt")):
        return 0, ""
    fingerprint = _fingerprint(config.dataset)
    if fingerprint is None:
        return 0, ""
    keys = plan.state_keys(fingerprint, _first_weights(config))[: end + 1]
    stored = checkpoints.find_all(folder, config.seed, dict(enumerate(keys[1:], start=1)))
    if not stored:
        return 0, ""
    rows = torch.load(max(stored), mmap=True, weights_only=True)["rows"]
    return len(rows), shared_with(run_folder(config), rows[-1])


@functools.cache
def _fingerprint(dataset: DatasetConfig) -> str | None:
    """Digest of the images; None if they are not there. Nothing is fetched for it."""
    try:
        return load_images(replace(dataset, source="local")).fingerprint()
    except SwaBenchError:
        return None


def _first_weights(config: TrainConfig) -> str:
    return weights_sha256(fresh_model(config, hardware.prepare(config)).state_dict())
