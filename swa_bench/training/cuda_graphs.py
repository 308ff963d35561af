"""Steps as CUDA graphs.

training/step.py replays steps on a GPU if cuda_graphs=true, images are on the device, and the
optimiser is torch.optim.SGD or a subclass.
"""

from collections.abc import Callable

import torch

# A step is taken this often as it is, which also lets cuDNN choose, before a graph records it.
STEPS_BEFORE_GRAPH = 3


class GraphedSteps:
    """Replays a step as a CUDA graph, one for each size of batch, after the first few steps.

    Args:
        step: takes a step on a batch of the given size; all that it reads and writes is on the
            device, in memory that stays where it is.
        forget_gradients: called before a step is recorded, since the graph has its own gradients.
    """

    def __init__(self, step: Callable[[int], None], forget_gradients: Callable[[], None]) -> None:
        self.step, self.forget_gradients = step, forget_gradients
        self.pool = torch.cuda.graph_pool_handle()
        self.recorded: dict[int, torch.cuda.CUDAGraph] = {}
        self.taken: dict[int, int] = {}

    def __call__(self, size: int) -> None:
        """Take the next step, on the current stream."""
        taken = self.taken.get(size, 0)
        self.taken[size] = taken + 1
        if taken < STEPS_BEFORE_GRAPH:
            self.step(size)
            return
        if size not in self.recorded:
            self.forget_gradients()
            graph = torch.cuda.CUDAGraph()
            stream = torch.cuda.current_stream()
            with torch.cuda.graph(graph, pool=self.pool, stream=stream):
                self.step(size)  # recorded, not taken
            self.recorded[size] = graph
        self.recorded[size].replay()
