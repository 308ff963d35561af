"""How many threads a run on a CPU computes with.

Beside another busy process each step of several threads waits for the one that has to share its
core, so that one thread alone can be faster. The number of threads also changes the rounding: a run
that goes on from a stored state takes the number with which that state was computed.
"""

import logging
import os
import re
from dataclasses import replace
from typing import Any

import joblib
import torch

from swa_bench.config.identity import recipe_hash
from swa_bench.config.schema import TrainConfig
from swa_bench.data.random import random_numbers
from swa_bench.labels import counted
from swa_bench.results.machine import SIDE_BY_SIDE, THREADS
from swa_bench.training import timing

log = logging.getLogger(__name__)

AT_START = torch.get_num_threads()  # torch's choice: the physical cores, or OMP_NUM_THREADS
BETTER = 1.25  # times as fast as one thread, or else several are not worth it
TOO_SLOW = 8  # times as slow: no more steps are timed
ENOUGH_S = 0.1  # of a timed step
_measured: dict[str, tuple[int, str]] = {}  # by recipe, so that the seeds of a sweep agree


def begin(config: TrainConfig) -> None:
    """Set the threads with which a run starts: those that were asked for, or one."""
    if config.device == "cpu":
        torch.set_num_threads(_asked(config) or 1)


def choose(config: TrainConfig, segments: list[dict[str, Any]]) -> int | None:
    """Set the threads with which a run computes its epochs, and log them; None on a GPU.

    Those that were asked for by `threads` or OMP_NUM_THREADS; or those of the stored state's last
    segment; or one or all cores that the process may use, whichever is faster.
    """
    if config.device != "cpu":
        return None
    count, why = _decide(config, segments)
    torch.set_num_threads(count)
    log.info("Computing with %s (seed %d): %s", counted(count, "thread"), config.seed, why)
    return count


def _decide(config: TrainConfig, segments: list[dict[str, Any]]) -> tuple[int, str]:
    """The number of threads, as of `choose`, and why."""
    cores = joblib.cpu_count()  # of an affinity, or a container's quota
    if (asked := _asked(config)) is not None:
        more = f", which is more than the {counted(cores, 'core')} here" * (asked > cores)
        return asked, f"as asked for{more}"
    if segments and (before := THREADS.search(segments[-1]["device"])):
        count = int(before[1])
        if count <= cores:
            return count, "as the epochs before"
        return cores, f"the epochs before had {count}, but there are fewer cores: other rounding"
    if os.environ.get(SIDE_BY_SIDE):
        return 1, "other jobs run beside it"
    key = recipe_hash(config)
    if key not in _measured:
        _measured[key] = measure_threads(config)
    return _measured[key]


def _asked(config: TrainConfig) -> int | None:
    if config.threads != "auto":
        return config.threads
    wish = re.match(r"\s*[1-9]", os.environ.get("OMP_NUM_THREADS", ""))
    return AT_START if wish and not os.environ.get(SIDE_BY_SIDE) else None


def measure_threads(config: TrainConfig) -> tuple[int, str]:
    """One or all threads, and why: by a few steps on noise, of as few images as take a moment."""
    several = min(AT_START, joblib.cpu_count())
    if several == 1:
        return 1, "there is one core for it"
    one_s, size = 0.0, 2  # which batch norm needs
    while one_s < ENOUGH_S and size < 8 * config.batch_size:
        small = replace(config, compile=False, batch_size=min(size, config.batch_size))
        with random_numbers(config.seed, 0, "rehearsal"):
            step = [timing.step_on_noise(small, 1)]
            torch.set_num_threads(1)
            one_s = timing.usual_seconds(step)
        size *= 8
    torch.set_num_threads(several)
    with random_numbers(config.seed, 0, "rehearsal"):
        if timing.epoch_seconds(step) > TOO_SLOW * one_s:
            return 1, f"{several} are slower, as they are beside another busy process"
        ratio = one_s / timing.usual_seconds(step, warm_up=0)
    return several if ratio >= BETTER else 1, f"{several} are {ratio:.1f} times as fast as one here"
