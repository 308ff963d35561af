"""Training steps: one epoch of one run, or of several that take turns on a device."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from swa_bench.config.schema import TrainConfig
from swa_bench.data.batches import DeviceImages, EpochDraws, Feed, Images
from swa_bench.training import hardware
from swa_bench.training.cuda_graphs import GraphedSteps
from swa_bench.training.evaluation import Score, Tally
from swa_bench.training.forward import TrainingPass
from swa_bench.training.states import State


def take_step(
    model: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    autocast: torch.autocast,
) -> tuple[Tensor, Tensor]:
    """Take one optimiser step on images (B, 3, S, S) and labels (B,).

    Returns:
        The mean cross-entropy and the logits (B, classes), both float32, from before the step.
    """
    with autocast:
        logits = model(images)
    logits = logits.float()
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss, logits


class StaticInputs:
    """What the steps of an epoch read and write, all of it on the device.

    A step finds its images and its rate by a counter that it advances itself, so it needs nothing
    of the host, waits for nothing, and can be recorded once and replayed.
    """

    def __init__(self, data: Images, batch_size: int, steps: int, tally: Tally) -> None:
        self.data, self.feed = data, Feed(data, batch_size)
        self.rates = torch.zeros(steps, device=data.device)
        self.rate = torch.zeros((), device=data.device)
        self.tally = tally

    def begin(self, draws: EpochDraws, rates: list[float], first: int) -> None:
        """Fill in an epoch's draws and the learning rate of each step; `first` (from 0) is next."""
        self.feed.begin(draws, first)
        self.rates.copy_(torch.tensor(rates))
        if not first:
            self.tally.set()

    def next(self, size: int) -> tuple[Tensor, Tensor]:
        """The next `size` images and labels; `rate` becomes that of their step."""
        torch.index_select(self.rates, 0, self.feed.batches_done, out=self.rate.view(1))
        return self.feed.next(size)


class TrainStep:
    """Trains one run's model, a step at a time; several can take turns on one device.

    On a GPU each has a stream of its own, on which the steps of several overlap. It links the
    optimiser's learning rate to a tensor on the device, so build it after the state is loaded.
    """

    def __init__(self, config: TrainConfig, state: State, data: Images) -> None:
        # There are two sizes of batches: the smaller last one is compiled on its own.
        self.forward = TrainingPass(state.model, config.compile)
        self.state, self.model, self.optimizer = state, state.model, state.optimizer
        self.predictors = [one for one in state.predictors.values() if one.each_step]
        self.autocast = hardware.autocast(config)
        device, images = data.train_labels.device, len(data.train_labels)
        starts = range(0, images, config.batch_size)
        self.sizes = [min(config.batch_size, images - start) for start in starts]
        self.inputs = StaticInputs(data, config.batch_size, len(self.sizes), state.tally)
        self.random = state.random
        self.stream: torch.cuda.Stream | None = None
        self.advance: Callable[[int], None] = self._step
        # Others may read a rate back to the host, or take none from the device.
        self.host_rates = not isinstance(self.optimizer, torch.optim.SGD)
        self.rates: list[float] = []
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # A graph can neither fetch images from the host nor take rates from it.
            recordable = isinstance(data, DeviceImages) and not self.host_rates
            if config.cuda_graphs and hardware.graphs_possible() and recordable:
                self.advance = GraphedSteps(
                    self._step, len(self.sizes), self.optimizer.zero_grad, self.random
                )
        if not self.host_rates:
            self._set_rate(self.inputs.rate)

    def _set_rate(self, rate: float | Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def begin_epoch(self, draws: EpochDraws, rates: list[float], seed: int, epoch: int) -> None:
        """Get ready for the steps of `sizes`, with the learning rate of each.

        If some of them are in the state already, the others follow; after all, a new epoch does.

        Args:
            seed, epoch: of what the network draws, such as dropout.
        """
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())
        self.model.train()
        self.state.step %= len(self.sizes)
        if not self.state.step:
            self.random.start(seed, epoch, "dropout")
        self.rates = rates
        with torch.cuda.stream(self.stream):
            self.inputs.begin(draws, rates, self.state.step)
        if self.stream is not None:  # what uses the draws' memory next waits for their copies
            torch.cuda.current_stream().wait_stream(self.stream)

    def step(self, size: int) -> None:
        """Take the epoch's next step, on `size` images."""
        with torch.cuda.stream(self.stream), self.random.lent():
            if self.host_rates:
                self._set_rate(self.rates[self.state.step])
            self.advance(size)
        self.inputs.tally.images += size
        self.state.step += 1

    def _step(self, size: int) -> None:
        images, labels = self.inputs.next(size)
        loss, logits = take_step(self.forward, self.optimizer, images, labels, self.autocast)
        self.inputs.tally.add(loss, logits, labels)
        for predictor in self.predictors:
            predictor.after_step(self.model)

    def score(self) -> Score:
        """Loss and error of the batches as they were trained on; waits for the device."""
        with torch.cuda.stream(self.stream):
            return self.inputs.tally.score()


def train_epoch(
    steps: Sequence[TrainStep], on_images: Callable[[int], None] = lambda images: None
) -> list[Score]:
    """Take the steps that are left of an epoch that each run has begun, in turn.

    Args:
        on_images: called with the number of images that another round of steps has taken.
    """
    for size in steps[0].sizes[steps[0].state.step :]:
        for one in steps:
            one.step(size)
        on_images(size * len(steps))
    return [one.score() for one in steps]
