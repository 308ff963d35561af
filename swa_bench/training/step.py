"""Training steps, evaluation, and the recomputation of batch-norm statistics."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swa_bench.data.batches import DeviceData, Draws

Batches = Iterable[tuple[Tensor, Tensor]]

# A step is taken so often as it is, which also lets cuDNN choose, before a graph records it.
STEPS_BEFORE_GRAPH = 3


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (natural logarithm) and error in % over a pass."""

    loss: float
    error_pct: float


class _Tally:
    """Sums on the device, so that nothing waits for it until the pass is over."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.wrong = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    def clear(self) -> None:
        self.loss.zero_()
        self.wrong.zero_()
        self.images = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.loss += loss.detach().double() * len(labels)
        self.wrong += (logits.detach().argmax(1) != labels).sum()

    def score(self) -> Score:
        return Score(self.loss.item() / self.images, 100.0 * self.wrong.item() / self.images)


def sgd_step(
    model: nn.Module,
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


class Feed:
    """What the steps of an epoch read and write, all of it on the device.

    A step finds its images and its rate by counters that it moves on itself, so it needs nothing
    of the host, waits for nothing, and can be recorded once and replayed.
    """

    def __init__(self, data: DeviceData, steps: int) -> None:
        labels = data.train_labels
        self.data = data
        self.places = torch.arange(len(labels), device=labels.device)
        order, row, column = (torch.zeros_like(self.places) for _ in range(3))
        self.draws = Draws(order, row, column, flip=order.bool())
        self.rates = torch.zeros(steps, device=labels.device)
        self.rate = torch.zeros((), device=labels.device)
        self.images_done = torch.zeros(1, dtype=torch.int64, device=labels.device)
        self.steps_done = torch.zeros_like(self.images_done)
        self.tally = _Tally(labels.device)

    def begin(self, draws: Draws, rates: list[float]) -> None:
        """Fill in an epoch's draws and the learning rate of each of its steps."""
        for buffer, new in zip(self.draws, draws, strict=True):
            buffer.copy_(new)
        # Waits for the copies above, so that the draws' memory may be used again afterwards.
        self.rates.copy_(torch.tensor(rates))
        self.images_done.zero_()
        self.steps_done.zero_()
        self.tally.clear()

    def next(self, size: int) -> tuple[Tensor, Tensor]:
        """The next `size` images and labels; `rate` becomes that of their step."""
        self.rate.copy_(self.rates.index_select(0, self.steps_done)[0])
        batch = self.data.train_batch(self.draws.at(self.images_done + self.places[:size]))
        self.images_done += size
        self.steps_done += 1
        return batch


class DropoutStream:
    """The random numbers of one walk's dropout.

    torch's dropout draws from the device's one generator. Each walk lends it its own stream for a
    step, so that walks that train together draw what each would draw alone.
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


class Trainer:
    """Trains one walk's model, a step at a time; several can take turns on one device.

    On a GPU each has a stream of its own, on which the steps of several overlap.

    Args:
        model: the model, or its compiled form.
        optimizer: its learning rate is set here, before every step.
        graphs: whether to replay steps as CUDA graphs: one for each size of batch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        data: DeviceData,
        batch_size: int,
        autocast: torch.autocast,
        graphs: bool,
    ) -> None:
        self.model, self.optimizer, self.autocast, self.graphs = model, optimizer, autocast, graphs
        device = data.train_labels.device
        images = len(data.train_labels)
        self.sizes = [min(batch_size, images - at) for at in range(0, images, batch_size)]
        self.feed = Feed(data, len(self.sizes))
        self.dropout = DropoutStream(device)
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle() if graphs else None
        self.recorded: dict[int, torch.cuda.CUDAGraph] = {}
        self.taken = dict.fromkeys(self.sizes, 0)
        for group in optimizer.param_groups:
            group["lr"] = self.feed.rate

    def begin_epoch(self, draws: Draws, rates: list[float], dropout_seed: int) -> None:
        """Get ready for the steps of `sizes`, with the learning rate of each."""
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())
        self.model.train()
        self.dropout.own.manual_seed(dropout_seed)
        with torch.cuda.stream(self.stream):
            self.feed.begin(draws, rates)

    def step(self, size: int) -> None:
        """Take the epoch's next step, on `size` images."""
        with torch.cuda.stream(self.stream), self.dropout.lent():
            if self.graphs and self.taken[size] >= STEPS_BEFORE_GRAPH:
                self._replay(size)
            else:
                self._step(size)
        self.taken[size] += 1
        self.feed.tally.images += size

    def _step(self, size: int) -> None:
        images, labels = self.feed.next(size)
        loss, logits = sgd_step(self.model, self.optimizer, images, labels, self.autocast)
        self.feed.tally.add(loss, logits, labels)

    def _replay(self, size: int) -> None:
        if size not in self.recorded:
            self.optimizer.zero_grad(set_to_none=True)  # the graph has gradients of its own
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                self._step(size)  # recorded, not taken
            self.recorded[size] = graph
        self.recorded[size].replay()

    def score(self) -> Score:
        """Loss and error of the batches as they were trained on; waits for the device."""
        with torch.cuda.stream(self.stream):
            return self.feed.tally.score()


def train_epoch(
    trainers: list[Trainer], on_images: Callable[[int], None] = lambda images: None
) -> list[Score]:
    """Take all steps of an epoch that every trainer has begun, in turn.

    Args:
        on_images: called with the number of images that another round of steps has taken.
    """
    for size in trainers[0].sizes:
        for trainer in trainers:
            trainer.step(size)
        on_images(size * len(trainers))
    return [trainer.score() for trainer in trainers]


@torch.no_grad()
def predict(model: nn.Module, batches: Batches, autocast: torch.autocast) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N, classes), float32, of a model in evaluation mode, and labels (N,)."""
    model.eval()
    found = []
    for images, labels in batches:
        with autocast:
            logits = model(images)
        found.append((F.log_softmax(logits.float(), dim=1), labels))
    predictions, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return predictions, labels


def score(predictions: Tensor, labels: Tensor) -> Score:
    """Score log-probabilities (N, classes); the loss is the negative log-likelihood, its mean."""
    loss = F.nll_loss(predictions.double(), labels)
    wrong = (predictions.argmax(1) != labels).sum()
    return Score(loss.item(), 100.0 * wrong.item() / len(labels))


def evaluate(model: nn.Module, batches: Batches, autocast: torch.autocast) -> Score:
    """Score a model in evaluation mode."""
    return score(*predict(model, batches, autocast))


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The model's batch-norm layers."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def recompute_batch_norm(model: nn.Module, batches: Batches, autocast: torch.autocast) -> None:
    """Replace running statistics by their means over one pass, every image weighing the same.

    With b images in a batch and n before it the momentum is b / (n + b) (S: utils.bn_update).
    `torch.optim.swa_utils.update_bn` would weigh every batch the same, the smaller last one too.
    Does nothing to a model without batch norm.
    """
    layers = batch_norms(model)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
    model.train()
    seen = 0
    for images, _ in batches:
        for layer in layers:
            layer.momentum = len(images) / (seen + len(images))
        with autocast:
            model(images)
        seen += len(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
