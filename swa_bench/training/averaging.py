"""Predictors: what a run keeps of the weights that it passes through, to be tested as a result.

Every run keeps the average of the collected weights (`swa`) and that of their predictions
(`ensemble`), whichever is its method's result, so that methods with the same rates share all
states. A method may add predictors of its own: see docs/methods.md.
"""

import math
import pkgutil
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from swa_bench.config.schema import TrainConfig
from swa_bench.errors import ConfigError

Weights = dict[str, Tensor]


class Predictor:
    """The base of all predictors, which keeps nothing.

    Attributes:
        kept: what is stored with the state: tensors on the device; None while there is nothing.
        n: how many weights it is made of.
        has_weights: whether `kept` is one set of weights, with which a network can predict. Before
            it does, its batch-norm statistics are recomputed.
        each_step: whether `after_step` is called.
    """

    has_weights = True
    each_step = False

    def __init__(self) -> None:
        self.kept: Any = None
        self.n = 0

    def start(self, model: nn.Module) -> None:
        """Called before the first epoch."""

    def after_step(self, model: nn.Module) -> None:
        """Called after every step of the optimiser, if each_step.

        On a GPU the call is recorded in a CUDA graph: it may change tensors in place, and must not
        read any on the host.
        """

    def collect(self, model: nn.Module, predictions: Tensor) -> None:
        """Called after an epoch in which the method collects.

        Args:
            predictions: log-probabilities (M, classes) of the test images by the model as it is.
        """

    def predictions(self) -> Tensor:
        """Log-probabilities (M, classes) of the test images, float32, if it has no weights."""
        raise NotImplementedError


class WeightAverage(Predictor):
    """The running average of the collected weights: (w_swa * n + w) / (n + 1).

    Parameters only: batch-norm statistics are recomputed before every evaluation.
    """

    def collect(self, model: nn.Module, predictions: Tensor) -> None:
        """Add the model's parameters to the average."""
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        if self.kept is None:
            self.kept = {name: parameter.clone() for name, parameter in parameters.items()}
        share = 1.0 / (self.n + 1)
        if self.n:
            for name, parameter in parameters.items():
                self.kept[name].mul_(1.0 - share).add_(parameter, alpha=share)
        self.n += 1


class PredictionAverage(Predictor):
    """The mean of the softmax outputs of the collected models, an ensemble.

    It keeps the logarithm of their sum, float64, so that no probability becomes 0.
    """

    has_weights = False

    def collect(self, model: nn.Module | None, predictions: Tensor) -> None:
        """Add a member's predictions."""
        new = predictions.double()
        self.kept = new if self.kept is None else torch.logaddexp(self.kept, new)
        self.n += 1

    def predictions(self) -> Tensor:
        """Logarithm of the mean of the members' softmax outputs."""
        mean: Tensor = (self.kept - math.log(self.n)).float()
        return mean


class WeightEMA(Predictor):
    """An exponential moving average: w_ema <- decay * w_ema + (1 - decay) * w after every step.

    It starts at the first weights.

    Args:
        decay: from 0 (the last weights) to below 1.
    """

    each_step = True

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, not from 0 to below 1")
        self.decay = decay

    def start(self, model: nn.Module) -> None:
        """Begin with the model's own weights."""
        self.kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.n = 1

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Move the average towards the model's weights."""
        weights = [parameter.detach() for parameter in model.parameters()]
        torch._foreach_lerp_(list(self.kept.values()), weights, 1.0 - self.decay)


def make_predictors(config: TrainConfig) -> dict[str, Predictor]:
    """The two predictors of every run, and those that method.predictors adds.

    Raises:
        ConfigError: one of them cannot be built.
    """
    found: dict[str, Predictor] = {"swa": WeightAverage(), "ensemble": PredictionAverage()}
    for name, options in config.method.predictors.items():
        field, values = f"method.predictors.{name}", dict(options)
        target = values.pop("_target_", None)
        if name == "last" or name in found:
            raise ConfigError(field, target, "this name is taken: choose another")
        try:
            found[name] = pkgutil.resolve_name(str(target))(**values)
        except Exception as error:  # whatever a user's own class raises is a fault of the setting
            raise ConfigError(field, target, f"cannot be built: {error}") from error
    return found


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Set the model's parameters; its buffers keep their values."""
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])


def mean_of(members: Iterable[Tensor]) -> Tensor:
    """Log-probabilities (M, classes) of an ensemble, from those of its members."""
    ensemble = PredictionAverage()
    for predictions in members:
        ensemble.collect(None, predictions)
    return ensemble.predictions()
