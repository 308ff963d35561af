"""What is made of the copies: the average of their weights, the mean of their predictions."""

import math

import torch
from torch import Tensor, nn

Average = dict[str, Tensor]


def update_average(average: Average | None, n_averaged: int, model: nn.Module) -> Average:
    """Add the model's parameters to their running average: (w_swa * n + w) / (n + 1).

    Buffers are not averaged: batch-norm statistics are recomputed before every evaluation.

    Args:
        average: {parameter name: mean of the copies so far}, changed in place; None
            before the first.
        n_averaged: n, how many copies it holds.

    Returns:
        The average of n + 1 copies.
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if average is None:
        return {name: parameter.clone() for name, parameter in parameters.items()}
    share = 1.0 / (n_averaged + 1)
    for name, parameter in parameters.items():
        average[name].mul_(1.0 - share).add_(parameter, alpha=share)
    return average


def load_average(model: nn.Module, average: Average) -> None:
    """Set the model's parameters to the average; its buffers keep their values."""
    for name, parameter in model.named_parameters():
        parameter.data.copy_(average[name])


def update_ensemble(ensemble: Tensor | None, predictions: Tensor) -> Tensor:
    """Add a member's probabilities to their sum; both are logarithms, so that none becomes 0.

    Args:
        ensemble: float64 (N, classes), of the members so far; None before the first.
        predictions: log-probabilities (N, classes) of the next one.
    """
    if ensemble is None:
        return predictions.double()
    return torch.logaddexp(ensemble, predictions.double())


def ensemble_predictions(ensemble: Tensor, members: int) -> Tensor:
    """Logarithm of the mean of the members' softmax outputs (N, classes), float32."""
    return (ensemble - math.log(members)).float()
