"""Steps as CUDA graphs, and the random numbers of one run on a device that several share.

training/step.py replays steps on a GPU if cuda_graphs=true, images are on the device, and the
optimiser is torch.optim.SGD or a subclass.
"""

import contextlib
from collections.abc import Callable, Iterator

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


class DeviceRng:
    """The random numbers of one run's dropout.

    torch's dropout draws from the device's one generator. Each run lends it its own stream for a
    step, so that runs that train together draw what each would draw alone.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.shared = torch.default_generator
        if self.on_gpu:
            self.shared = torch.cuda.default_generators[device.index or 0]
        self.own = self.shared.clone_state()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Let the device's generator draw from this stream."""
        if self.on_gpu:  # a graph remembers whose state it was recorded with
            before = self.shared.graphsafe_get_state()
            self.shared.graphsafe_set_state(self.own)
            try:
                yield
            finally:
                self.shared.graphsafe_set_state(before)
        else:
            state = self.shared.get_state()
            self.shared.set_state(self.own.get_state())
            try:
                yield
            finally:
                self.own.set_state(self.shared.get_state())
                self.shared.set_state(state)
