"""Predictors: what a run keeps of the weights that it passes through, to be tested as a result.

Which epochs collect is decided in config/plan.py. Every run keeps WeightAverage as `swa` and
PredictionAverage as `ensemble`, whichever is its method's result, so that methods with the same
rates share all states. A method may add predictors of its own: see docs/methods.md.
"""

import math
import pkgutil
from typing import Any

import torch
from torch import Tensor, nn

from swa_bench.config.schema import LAST, TrainConfig
from swa_bench.errors import ConfigError

Weights = dict[str, Tensor]


class Predictor:
    """The base of all predictors, which keeps nothing.

    Attributes:
        kept: what is stored with the state: tensors on the device, also in dicts, lists or tuples;
            None while there is nothing.
        n: how many weights were collected.
        has_weights: whether `weights` gives one set of weights, with which a network can predict.
            Before it does, its batch-norm statistics are recomputed.
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

    def weights(self) -> Weights:
        """The weights to be tested, {parameter name: tensor}, if has_weights."""
        weights: Weights = self.kept
        return weights

    def predictions(self) -> Tensor:
        """Log-probabilities (M, classes) of the test images, float32, if not has_weights."""
        raise NotImplementedError


class WeightAverage(Predictor):
    """The running average of the collected weights: (w_swa * n + w) / (n + 1).

    Parameters only: batch-norm statistics are recomputed before every evaluation.
    """

    def collect(self, model: nn.Module, predictions: Tensor) -> None:
        """Add the model's parameters to the average."""
        self.n += 1
        if self.n == 1:
            self.kept = copy_weights(model)
            return
        share = 1.0 / self.n
        averages = [self.kept[name] for name, _ in model.named_parameters()]
        weights = [parameter.detach() for parameter in model.parameters()]
        torch._foreach_mul_(averages, 1.0 - share)
        torch._foreach_add_(averages, weights, alpha=share)


class PredictionAverage(Predictor):
    """The mean of the softmax outputs of the collected models, an ensemble.

    It keeps the logarithm of their sum, float64, so that no probability becomes 0.
    """

    has_weights = False

    def collect(self, model: nn.Module, predictions: Tensor) -> None:
        """Add a member's predictions."""
        self.kept = add_member(self.kept, predictions)
        self.n += 1

    def predictions(self) -> Tensor:
        """Logarithm of the mean of the members' softmax outputs."""
        return mean_of_sum(self.kept, self.n)


class WeightEMA(Predictor):
    """An exponential moving average: w_ema <- decay * w_ema + (1 - decay) * w after every step.

    It starts at the first weights; decay is from 0 (the last weights) to below 1.
    """

    each_step = True

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, not from 0 to below 1")
        self.decay = decay

    def start(self, model: nn.Module) -> None:
        """Begin with the model's own weights."""
        self.kept = copy_weights(model)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Move the average towards the model's weights."""
        weights = [parameter.detach() for parameter in model.parameters()]
        torch._foreach_lerp_(list(self.kept.values()), weights, 1.0 - self.decay)


def make_predictors(config: TrainConfig) -> dict[str, Predictor]:
    """The predictors of every run, and of method.predictors; ConfigError if one cannot be built."""
    found: dict[str, Predictor] = {"swa": WeightAverage(), "ensemble": PredictionAverage()}
    for name, options in config.method.predictors.items():
        field, values = f"method.predictors.{name}", dict(options)
        target = values.pop("_target_", None)
        if name == LAST or name in found:
            raise ConfigError(field, target, "this name is taken: choose another")
        try:
            predictor = pkgutil.resolve_name(str(target))(**values)
        except Exception as error:  # whatever a user's own class raises is a fault of the setting
            raise ConfigError(field, target, f"cannot be built: {error}") from error
        if not isinstance(predictor, Predictor) or not hasattr(predictor, "kept"):
            expected = f"is no {Predictor.__module__}.Predictor, or calls no super().__init__()"
            raise ConfigError(field, target, expected)
        found[name] = predictor
    return found


def check_predictors(config: TrainConfig) -> None:
    """Let each predictor do its work once, on a network of one weight; ConfigError if it fails."""
    for name, predictor in make_predictors(config).items():
        model = nn.Linear(1, 1)
        try:
            predictor.start(model)
            predictor.after_step(model)
            predictor.collect(model, torch.zeros(1, 1))
            if predictor.has_weights:
                load_weights(model, predictor.weights())
            else:
                predictor.predictions()
        except Exception as error:  # as above
            field = f"method.predictors.{name}"
            target = config.method.predictors.get(name, {}).get("_target_")
            raise ConfigError(field, target, f"fails: {type(error).__name__}: {error}") from error


def copy_weights(model: nn.Module) -> Weights:
    """A copy of the model's parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@torch.no_grad()
def load_weights(model: nn.Module, weights: Weights) -> None:
    """Set the model's parameters; its buffers keep their values."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def add_member(total: Tensor | None, predictions: Tensor) -> Tensor:
    """Add probabilities to their sum (M, classes), float64; all are logarithms."""
    new = predictions.double()
    return new if total is None else torch.logaddexp(total, new)


def mean_of_sum(total: Tensor, members: int) -> Tensor:
    """Logarithm of the mean probabilities (M, classes), float32."""
    return (total - math.log(members)).float()
