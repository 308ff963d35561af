"""Which states of a run are stored, and how long they stay on disk."""

import time
from pathlib import Path

import torch

from swa_bench.config.plan import Plan
from swa_bench.files import remove
from swa_bench.results.record import checkpoint_folder
from swa_bench.results.stored import find_all
from swa_bench.training import checkpoints
from swa_bench.training.states import State


class Retention:
    """The checkpoints of one run.

    Args:
        forks: after how many epochs other methods leave the run; their states stay.
        keys: of the states after 0, 1, 2, ... epochs.
        state: of the run, which moves on.
    """

    def __init__(self, plan: Plan, forks: frozenset[int], keys: list[str], state: State) -> None:
        self.plan, self.forks, self.keys, self.state = plan, forks, keys, state
        self.folder = checkpoint_folder(plan.config)
        self.end = plan.config.epochs  # after which nothing is left to record
        self.saved_at = time.monotonic()
        self.newest: Path | None = None  # that was written here

    @property
    def done(self) -> bool:
        """Whether nothing is left to train."""
        return self.state.epoch >= self.end

    def load(self, first_missing: int) -> bool:
        """Start from the furthest state up to an epoch; say if there is one."""
        keys = self.keys[1 : first_missing + 1]
        return checkpoints.load_newest(self.folder, keys, self.state) is not None

    def store(self, now: bool = False) -> bool:
        """Write a checkpoint if one is due, and delete those that are of no more use."""
        state, options = self.state, self.plan.config.checkpoints
        aged = time.monotonic() - self.saved_at >= options.every_s
        stays = not state.step and (self.done or self._stays(state.epoch))
        if not state.in_epoch or not (now or aged or stays):
            return False
        if state.tally.loss.is_cuda:
            torch.cuda.synchronize()  # steps have streams of their own
        key = self.keys[state.in_epoch]
        self.newest = checkpoints.save(self.folder, self.plan.config.seed, key, state)
        self.drop_passed()
        self.saved_at = time.monotonic()
        return True

    def _stays(self, epoch: int) -> bool:
        """Whether the state after `epoch` epochs is kept: for other methods, or for the user."""
        keep = self.plan.config.checkpoints.keep
        reported = keep != "ends" and bool(self.plan.reports_at(epoch))
        collected = keep == "collected" and self.plan.collects(epoch - 1)
        return epoch in self.forks or reported or collected

    def drop_passed(self) -> None:
        """Delete checkpoints that this run has passed.

        Those that stay are not deleted, nor, before the run's end, the one of whole epochs before
        the newest: within an epoch nobody knows yet whether its loss will be finite.
        """
        here, keys = (self.state.epoch, self.state.step), self.keys[1 : self.state.in_epoch + 1]
        found = find_all(self.folder, keys).items()
        passed = [(path, *place) for path, place in found if place < here]
        last = max((epoch for _, epoch, step in passed if not step), default=0)
        for path, epoch, step in passed:
            if step or not (self._stays(epoch) or (epoch == last and not self.done)):
                remove(path)

    def drop_epoch(self) -> bool:
        """Delete what is stored of the middle of an epoch that failed; say if states are left."""
        for path, (_, step) in find_all(self.folder, [self.keys[self.state.in_epoch]]).items():
            if step:  # to go on from there would end here again
                remove(path)
        return bool(find_all(self.folder, self.keys))
