"""Steps as CUDA graphs.

training/step.py replays steps on a GPU if cuda_graphs=true, images are on the device, and the
optimiser is torch.optim.SGD or a subclass.
"""

import logging
import math
import textwrap
from collections.abc import Callable

import torch

from swa_bench.data.random import RandomNumbers

log = logging.getLogger(__name__)


class GraphedSteps:
    """Replays a step as a CUDA graph, one for each size of batch, after a first epoch without.

    In that epoch cuDNN chooses its kernels for all sizes, and its memory is free again when the
    graphs take theirs. If a step cannot be recorded, it and all that follow are taken as they are.

    Args:
        step: takes a step on a batch of the given size; all that it reads and writes is on the
            device, in memory that stays where it is.
        eager_steps: how many steps an epoch has.
        forget_gradients: called before a step is recorded, since the graph has its own gradients.
        random: what steps draw from, lent to the global generators whenever one is taken.
    """

    def __init__(
        self,
        step: Callable[[int], None],
        eager_steps: int,
        forget_gradients: Callable[[], None],
        random: RandomNumbers,
    ) -> None:
        self.step, self.forget_gradients, self.random = step, forget_gradients, random
        self.eager_steps: float = eager_steps  # that are left
        self.pool = torch.cuda.graph_pool_handle()
        self.recorded: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(self, size: int) -> None:
        """Take the next step, on the current stream."""
        if not self.eager_steps and size not in self.recorded:
            self._record(size)
        if self.eager_steps:
            self.eager_steps -= 1
            self.step(size)
        else:
            self.recorded[size].replay()

    def _record(self, size: int) -> None:
        """Record a step without taking it; nothing on the device changes if that fails."""
        self.forget_gradients()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads, such as those that log, may do as they like meanwhile.
            with torch.cuda.graph(graph, self.pool, stream, capture_error_mode="thread_local"):
                self.step(size)
        except Exception as error:  # whatever it is, a step that is taken will tell if it matters
            self._give_up(error)
        else:
            self.recorded[size] = graph

    def _give_up(self, error: BaseException) -> None:
        while error.__context__ is not None:  # the end of a recording fails after its cause
            error = error.__context__
        reason = textwrap.shorten(str(error), 200) or type(error).__name__
        log.warning("Going on without CUDA graphs, since a step cannot be recorded: %s", reason)
        self.eager_steps = math.inf
        self.recorded.clear()
        self.forget_gradients()
        self.random.leave_graphs()
