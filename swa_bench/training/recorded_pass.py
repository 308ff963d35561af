"""On a GPU, the pass that recomputes batch-norm statistics, as a CUDA graph.

Layer by layer, such a pass starts hundreds of small kernels a batch: in the paper's deep networks
it would take about as long as the epoch that was trained before it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from swa_bench.config.schema import TrainConfig
from swa_bench.data.batches import DeviceImages, EpochDraws, Feed, Images
from swa_bench.data.random import RandomNumbers
from swa_bench.results import locks
from swa_bench.training import hardware
from swa_bench.training.cuda_graphs import GraphedSteps
from swa_bench.training.forward import TrainingPass

EAGER_BATCHES = 3  # in which cuDNN chooses its kernels


class RecordedPass:
    """The pass of `recompute_batch_norm`, for a network of `swa_bench.models`.

    Those call each layer once a batch. With momentum 1/2 a layer makes (s + x) / 2 of its
    statistics s and a batch's x, and twice that is their sum, without another rounding. So all
    whole batches are the same step, as a graph needs it; the smaller last one is not recorded.

    Args:
        model: whose parameters and buffers stay where they are.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, data: Images) -> None:
        self.model, self.feed = model, Feed(data, config.batch_size)
        self.forward, self.autocast = TrainingPass(model), hardware.autocast(config)
        self.layers: list[Any] = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
        self.sums = [one.running_mean for one in self.layers]
        self.sums += [one.running_var for one in self.layers]
        self.counters = [one.num_batches_tracked for one in self.layers]
        self.random = RandomNumbers(data.device)
        self.stream: torch.cuda.Stream | None = None
        self.add: Callable[[int], None] = self._add
        if data.device.type == "cuda":
            self.stream = torch.cuda.Stream(data.device)  # type: ignore[no-untyped-call]
            recordable = isinstance(data, DeviceImages) and hardware.graphs_possible()
            if config.cuda_graphs and recordable:
                self.add = GraphedSteps(self._add, EAGER_BATCHES, lambda: None, self.random)

    def _forward(self, size: int) -> None:
        images, _ = self.feed.next(size)
        with self.autocast:
            self.forward(images)

    def _add(self, size: int) -> None:
        self._forward(size)
        torch._foreach_mul_(self.sums, 2)

    @torch.no_grad()
    def recompute(self, draws: EpochDraws, seed: int, epoch: int) -> None:
        """Replace the running statistics by their means over a pass, each image weighing the same.

        Args:
            seed, epoch: of what the network draws.
        """
        if not self.layers:
            return
        self.model.train()
        self.random.start(seed, epoch, "recompute_dropout")
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), self.random.lent():
            self._recompute(draws)
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)

    def _recompute(self, draws: EpochDraws) -> None:
        batches, rest = divmod(len(draws.order), self.feed.batch_size)
        self.feed.begin(draws)
        for zero in (self.counters, self.sums):
            torch._foreach_zero_(zero)
        for layer in self.layers:
            layer.momentum = 0.5
        for _ in range(batches):
            self.add(self.feed.batch_size)
            locks.end_if_asked()
        torch._foreach_div_(self.sums, max(batches, 1))
        if rest:
            for layer in self.layers:
                layer.momentum = rest / len(draws.order)
            self._forward(rest)
