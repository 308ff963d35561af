"""Networks as people really have them: some that train, and some with one fault each."""

import random
from collections import namedtuple
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from swa_bench.data.augmentation import CropAndFlip
from swa_bench.training.averaging import WeightAverage


class Base(nn.Module):
    """A convolution, batch norm, pooling to 2x2 and a linear layer; others change one thing."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=4)
        self.norm: nn.Module = nn.BatchNorm2d(8)
        self.linear: nn.Module = nn.Linear(32, num_classes)

    def features(self, images: Tensor) -> Tensor:
        found = F.relu(self.norm(self.conv(images)))
        return F.adaptive_avg_pool2d(found, 2).flatten(1)

    def forward(self, images: Tensor) -> Any:
        return self.linear(self.features(images))


# What trains.


class Lazy(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.norm, self.linear = nn.LazyBatchNorm2d(), nn.LazyLinear(num_classes)


class OldWeightNorm(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.linear = weight_norm(self.linear)


class Parametrized(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        parametrizations.weight_norm(self.linear)
        parametrizations.spectral_norm(self.conv)


class OldSpectralNorm(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.linear = spectral_norm(self.linear)


class Tied(Base):
    """One weight under two names, and one layer that is used twice."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32, bias=False)
        self.second.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        found = self.first(F.relu(self.first(self.features(images))))
        return self.linear(self.second(found))  # type: ignore[no-any-return]


class Scripted:
    def __new__(cls, num_classes: int) -> Any:
        net = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, num_classes),
        )
        return torch.jit.script(net)


class Parallel:
    def __new__(cls, num_classes: int) -> Any:
        return nn.DataParallel(Base(num_classes))


class Cached(Base):
    """Computes a table when it is first needed; a resumed run computes the same."""

    table: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0, 1, 32)
        self.seen = images.detach()
        return self.linear(self.features(images) * self.table)  # type: ignore[no-any-return]


class NonPersistent(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("scale", torch.full((32,), 0.5), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images) * self.scale)  # type: ignore[no-any-return]


class BFloat16Weights(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.linear.to(torch.bfloat16)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images).bfloat16())  # type: ignore[no-any-return]


class Complex(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.filter = nn.Parameter(torch.ones(17, dtype=torch.complex64))

    def forward(self, images: Tensor) -> Tensor:
        found = torch.fft.irfft(torch.fft.rfft(self.features(images).float()) * self.filter, n=32)
        return self.linear(found)  # type: ignore[no-any-return]


class DoubleHead(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.linear.double()

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images).double())  # type: ignore[no-any-return]


class InPlace(Base):
    """Normalises the images that it is given, in their memory."""

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images.sub_(1.0)))  # type: ignore[no-any-return]


class Compiled:
    def __new__(cls, num_classes: int) -> Any:
        return torch.compile(Base(num_classes), backend="eager")


class Recurrent(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.lstm = nn.LSTM(8, 32, num_layers=2, batch_first=True, dropout=0.3)

    def features(self, images: Tensor) -> Tensor:
        found = F.relu(self.norm(self.conv(images))).flatten(2).transpose(1, 2)
        return self.lstm(found)[0][:, -1]  # type: ignore[no-any-return]


class StochasticDepth(Base):
    def forward(self, images: Tensor) -> Tensor:
        found = self.features(images)
        if self.training and (random.random() < 0.5 or np.random.rand() < 0.5):
            found = found * 0
        return self.linear(F.dropout(found, 0.5, self.training))  # type: ignore[no-any-return]


class InfiniteInEvaluation(Base):
    """As deep networks are whose running statistics are of a few steps only."""

    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return logits if self.training or self.norm.num_batches_tracked > 9 else logits / 0.0


# What is refused.


class ViewOfImages(Base):
    def features(self, images: Tensor) -> Tensor:
        found = F.adaptive_avg_pool2d(F.relu(self.norm(self.conv(images))), 2)
        return found.view(len(images), -1)


class Frozen(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.requires_grad_(False)


class NoParameters(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self.classes]


class TupleInEvaluation(Base):
    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return logits if self.training else (logits, None)


class DictInTraining(Base):
    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return {"logits": logits} if self.training else logits


Outputs = namedtuple("Outputs", "logits aux")


class AuxiliaryInTraining(Base):
    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return Outputs(logits, logits) if self.training else logits


class SoftmaxInEvaluation(Base):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits if self.training else logits.softmax(1)


class SoftmaxAlways(Base):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(1)  # type: ignore[no-any-return]


class Guesses(Base):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits if self.training else logits.argmax(1)


class NormOfVectors(Base):
    """Its batch norm is of vectors, of which a batch of one has no variance."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.linear = nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, num_classes))


class Squeezed(Base):
    """Without the batch's axis where a batch has one image."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, images: Tensor) -> Any:
        return super().forward(images).squeeze()


class NotFinite(Base):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images) / 0.0


class NotInHalfPrecision(Base):
    """An operation of two types, which autocast does not change."""

    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return logits.index_add(0, torch.arange(len(logits)), torch.zeros(logits.shape))


class LargeImages(Base):
    def features(self, images: Tensor) -> Tensor:
        return super().features(F.max_pool2d(images, 64))


class Memory(Base):
    """A buffer that grows."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, images: Tensor) -> Any:
        if self.training:
            self.seen = torch.cat([self.seen, images[:, 0, 0, 0].detach()])
        return super().forward(images)


class LayerInForward(Base):
    """Builds a layer when it is first used, which the optimiser never sees."""

    def forward(self, images: Tensor) -> Any:
        if not hasattr(self, "late"):
            self.late = nn.Linear(32, 32)
        return self.linear(self.late(self.features(images)))


class ExtraState(Base):
    def get_extra_state(self) -> Any:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


class DoubleWeights(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.double()


class Rounded(Base):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).detach()


class OnNoDevice(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.linear = nn.Linear(32, num_classes, device="meta")


class EvenBatches(Base):
    def forward(self, images: Tensor) -> Any:
        assert len(images) % 2 == 0, "even"
        first, second = images.reshape(2, len(images) // 2, *images.shape[1:])
        return torch.cat([super().forward(first), super().forward(second)])


class Huge(Base):
    def features(self, images: Tensor) -> Tensor:
        torch.empty(1 << 55)
        return super().features(images)


# What is warned of.


class Counting(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.steps = 0
        self.block = nn.Module()
        self.block.history = [0.0]
        self.register_buffer("drift", torch.zeros(2, dtype=torch.long), persistent=False)

    def forward(self, images: Tensor) -> Any:
        if self.training:
            self.steps += 1
            self.block.history.append(float(self.steps))
            self.drift += 1
        return super().forward(images)


class OwnGenerators(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.python, self.rng = random.Random(0), np.random.default_rng(0)
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Any:
        shift = self.python.random() + self.rng.random()
        noise = torch.rand((), generator=self.generator)
        return super().forward(images) + (shift + noise if self.training else 0)


class DrawsAnew(Base):
    """Its generator is another at every pass, in one of the two modes."""

    def __init__(self, num_classes: int, training: bool) -> None:
        super().__init__(num_classes)
        self.draws_in_training = training

    def forward(self, images: Tensor) -> Any:
        scale = 1.0 if self.training != self.draws_in_training else np.random.default_rng().random()
        return super().forward(images) * scale


class BuiltAnew(Base):
    """Its first weights are others each time."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        with torch.no_grad():
            next(self.parameters()).mul_(np.random.default_rng().random())


class Exits(Base):
    def forward(self, images: Tensor) -> Any:
        raise SystemExit("no")


class FirstBatchDecides(Base):
    """Sets a scale from the first batch that it sees, and again after a restart."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.scale, self.known = nn.Parameter(torch.ones(())), False

    def forward(self, images: Tensor) -> Any:
        if not self.known:
            self.scale.data.fill_(images.std().item())
            self.known = True
        return super().forward(images) * self.scale


class ChangesInEvaluation(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, images: Tensor) -> Any:
        if not self.training:
            self.passes += 1
        return super().forward(images)


class PlainList(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.layers = [nn.Linear(32, 32)]

    def forward(self, images: Tensor) -> Any:
        return self.linear(self.layers[0](self.features(images)))


class TooLarge(Base):
    """Memory is enough for two images."""

    def forward(self, images: Tensor) -> Any:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return super().forward(images)


class UnstorableMomentum(torch.optim.SGD):
    """Keeps what is no tensor, number or text."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["history"] = np.zeros(2)


class CountingAverage(WeightAverage):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def collect(self, model: nn.Module, predictions: Tensor) -> None:
        self.calls += 1
        super().collect(model, predictions)


class Shapeless(WeightAverage):
    def collect(self, model: nn.Module, predictions: Tensor) -> None:
        self.kept = {name: p.detach().flatten() for name, p in model.named_parameters()}


class LosesARow(CropAndFlip):
    """An augmentation that loses a row."""

    def apply(self, images: Tensor, choices: Any) -> Tensor:
        return super().apply(images, choices)[:, 1:]
