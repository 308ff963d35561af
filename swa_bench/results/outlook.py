"""What is left of runs before they are started: what is there already, epochs to train, time."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from swa_bench.config.identity import digest
from swa_bench.config.plan import Plan
from swa_bench.config.schema import shaping, to_dict
from swa_bench.labels import counted, duration
from swa_bench.results.epochs import read_epochs
from swa_bench.results.finished import missing
from swa_bench.results.record import Record, read_records, run_folder
from swa_bench.results.speed import Speed, run_seconds, speed
from swa_bench.results.stored import furthest, read_start

UNKNOWN = "time unknown (no run or swa-check yet)"


@dataclass(frozen=True)
class Outlook:
    """What is left of one run.

    Attributes:
        first: epochs that are on disk already.
        shared: epochs after these that earlier runs of the same command leave.
        last: the epoch after which nothing is missing; 0 if nothing is.
        speed: None if it is not known.
    """

    plan: Plan
    first: int
    shared: int
    last: int
    speed: Speed | None

    @property
    def epochs(self) -> range:
        """The epochs to train, from 0."""
        return range(self.first + self.shared, self.last)

    @property
    def seconds(self) -> float | None:
        """How long they will take; None if that is not known."""
        image_s = self.speed.image_s if self.speed else None
        return None if image_s is None else run_seconds(self.plan, image_s, self.epochs)

    def text(self) -> str:
        """Such as: epochs 82 to 200 of 200 to train, about 2 h 3 min (by 3 runs on this device)."""
        if not self.last:
            return "finished: nothing to train (force=true trains again)"
        first, last, epochs = self.epochs.start, self.last, self.plan.config.epochs
        todo = f"epochs {first + 1} to {last} of {epochs}" if first else counted(last, "epoch")
        there = ""
        if self.first:
            own = len(read_epochs(run_folder(self.plan.config) / "epochs.csv")) >= self.first
            there = f"on disk: epochs 1 to {self.first}{', of another run' * (not own)}\n"
        if self.shared:
            there += f"shared with the runs above: epochs {self.first + 1} to {first}\n"
        return f"{there}to train: {todo}, {time_of([self])}"


def look_ahead(plans: Iterable[Plan]) -> list[Outlook]:
    """The outlook of runs that are trained one after the other."""

    @functools.cache
    def records(results: str, model: str) -> list[Record]:
        return read_records(sorted(Path(results).glob(f"*/{model}")))

    found: list[Outlook] = []
    known: set[str] = set()  # names of the states that the runs so far pass
    for plan in plans:
        config = plan.config
        ends = [report.epochs for report in (plan.reports if config.force else missing(plan))]
        last = max(ends, default=0)
        start = None if config.force or not ends else read_start(config)
        first = furthest(config, plan.state_keys(*start)[: min(ends) + 1]) if start else 0
        names = _names(plan)[first + 1 : last + 1]
        shared = sum(name in known for name in names)
        speed_here = speed(config, records(config.results_dir, config.model.name))
        found.append(Outlook(plan, first, shared, last, speed_here))
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
    sources = sorted({one.speed.source for one in known if one.speed})
    if others := len(found) - len(known):
        sources.append(f"{counted(others, 'run')} of unknown time left out")
    return f"about {duration(seconds)} ({'; '.join(sources)})"


def total(found: Iterable[Outlook], here: bool = True) -> str:
    """Two lines: runs, epochs, and the time if they are trained here; what sharing saves."""
    left = [one for one in found if one.last]
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
