"""The state of a run, and what follows from it."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from swa_bench.config.schema import TrainConfig
from swa_bench.data.batches import Images
from swa_bench.data.random import RandomNumbers, random_numbers
from swa_bench.results import locks
from swa_bench.results.epochs import Row
from swa_bench.training import hardware
from swa_bench.training.averaging import Predictor, Weights, load_weights, make_predictors
from swa_bench.training.batch_norm import recompute_batch_norm
from swa_bench.training.evaluation import Tally
from swa_bench.training.forward import is_ours
from swa_bench.training.network import Spare, fresh_model, fresh_optimizer
from swa_bench.training.recorded_pass import RecordedPass


@dataclass
class State:
    """All that the next step depends on, and the rows of the epochs done.

    Attributes:
        predictors: what is kept of the weights so far, by name.
        epoch: whole epochs done.
        step: steps done of the epoch after these, all of them until its end is dealt with.
        train_seconds: how long these took.
        tally, random: their loss and errors, and what the network draws in them.
        rows: one dict of numbers an epoch: the columns of epochs.csv, and train_seconds.
        segments: where the epochs were computed: from which on, device, versions.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    predictors: dict[str, Predictor]
    epoch: int = 0
    rows: list[Row] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    train_seconds: float = 0.0

    def __post_init__(self) -> None:
        device = next(self.model.parameters()).device
        self.tally, self.random = Tally(device), RandomNumbers(device)

    @property
    def in_epoch(self) -> int:
        """The epoch, from 1, that it is in or at the end of; 0 before the first."""
        return self.epoch + (self.step > 0)

    @property
    def n_averaged(self) -> int:
        """How many weights have been collected."""
        return self.predictors["swa"].n


def fresh_state(config: TrainConfig, data: Images) -> State:
    """The state before the first epoch."""
    return state_of(config, fresh_model(config, data.device))


def state_of(config: TrainConfig, model: nn.Module) -> State:
    """The state of a run that starts with this network."""
    predictors = make_predictors(config)
    device = next(model.parameters()).device
    with random_numbers(config.seed, 0, "collect", device):
        for predictor in predictors.values():
            predictor.start(model)
    return State(model, fresh_optimizer(config, model), predictors)


def with_weights(
    config: TrainConfig, state: State, weights: Weights, data: Images, spare: Spare
) -> tuple[nn.Module, dict[str, str]]:
    """The spare, as the model but with other weights and batch-norm statistics recomputed for them.

    The pass draws from streams of its own, so that training does not notice it.

    Returns:
        The spare, and why statistics of some of its modules are not recomputed, by module.
    """
    model = spare.like(state.model)
    load_weights(model, weights)
    draws = data.draw(config.seed, state.epoch, "recompute")
    # In batches of this size, whatever memory there is: the statistics are means over them.
    if data.device.type == "cuda" and is_ours(model):
        spare.recorded = spare.recorded or RecordedPass(model, config, data)
        spare.recorded.recompute(draws, config.seed, state.epoch)
        return model, {}
    batches = locks.ending_between(data.train_batches(draws, config.batch_size))
    with random_numbers(config.seed, state.epoch, "recompute_dropout", data.device):
        kept = recompute_batch_norm(model, batches, hardware.autocast(config))
    return model, kept


def weights_sha256(weights: Weights) -> str:
    """SHA-256 over names and values of a state dict, in its order."""
    running = hashlib.sha256()
    for name, tensor in weights.items():
        running.update(name.encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        running.update(values.view(torch.uint8).numpy().tobytes())  # numpy lacks bfloat16
    return running.hexdigest()
