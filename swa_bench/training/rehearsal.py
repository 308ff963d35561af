"""A rehearsal before the first epoch: what the run will do, in small, on images of noise.

A throw-away network takes two steps, is collected twice, averaged, stored, restored and tested, in
the run's layout, precision and sizes of batches. What fails then says so in one line, before
anything is written. What works but not quite rightly is a warning, which stands in the record.
"""

import contextlib
import io
import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from swa_bench.config.identity import digest
from swa_bench.config.renames import lookup
from swa_bench.config.schema import TrainConfig, to_dict
from swa_bench.data.batches import DeviceImages, to_device
from swa_bench.data.random import random_numbers
from swa_bench.errors import ConfigError
from swa_bench.training import hardware
from swa_bench.training.evaluation import predict, score
from swa_bench.training.faults import FaultError, check_logits, check_state, fault_of, faults
from swa_bench.training.hidden_state import (
    attributes,
    buffers,
    changed_in_evaluation,
    differing_predictions,
    hidden_in_predictors,
    hidden_state,
    other_first_weights,
)
from swa_bench.training.network import Spare, fresh_model
from swa_bench.training.states import State, state_of, weights_sha256, with_weights
from swa_bench.training.step import take_step
from swa_bench.training.timing import random_images

log = logging.getLogger(__name__)

# Too small to spoil weights on noise, and not 0, so that an optimiser does its work.
RATE = 1e-6
# What a rehearsal depends on, and method.predictors; runs that agree in it rehearse once.
REHEARSED = "model dataset augmentation optimizer batch_size init precision channels_last".split()
REHEARSED += ["evaluation", "deterministic", "device"]
_done: dict[str, "Rehearsal"] = {}


@dataclass(frozen=True)
class Rehearsal:
    """The number of parameters, and sentences on what the run will not do quite rightly."""

    parameters: int
    warnings: list[str]


def rehearse(config: TrainConfig) -> Rehearsal:
    """Do in small what a run will do, or raise ConfigError; log what it will not do quite rightly.

    No random number of the run is drawn, and no memory stays taken.
    """
    values = to_dict(config)
    key = digest({name: values[name] for name in REHEARSED} | config.method.predictors)
    if key not in _done:
        found = _attempt(config)
        if isinstance(found, FaultError):
            found = _explain(config, found)
        if isinstance(found, ConfigError):
            raise found
        for warning in found.warnings:
            log.warning(warning)
        _done[key] = found
    return _done[key]


def _attempt(config: TrainConfig) -> Rehearsal | ConfigError | FaultError:
    """Rehearse; return an error without the frames that would keep the network in memory."""
    device = hardware.prepare(config)
    found: Rehearsal | ConfigError | FaultError
    try:
        with random_numbers(0, 0, "rehearsal", device):
            found = _perform(config, device)
    except (ConfigError, FaultError) as error:
        found = error.with_traceback(None)
        found.__cause__ = found.__context__ = None
    if device.type == "cuda":
        hardware.free_memory()
    return found


def _explain(config: TrainConfig, fault: FaultError) -> ConfigError:
    """Name the option that helps, found by trying."""
    field, reason = fault.field, fault.reason
    others = {
        "channels_last=false": replace(config, channels_last=False),
        "precision=fp32": replace(config, precision="fp32"),
        "deterministic=false": replace(config, deterministic=False),
    }
    if field == "model._target_":
        for option, other in others.items():
            if other != config and isinstance(_attempt(other), Rehearsal):
                field, reason = option.split("=")[0], f"the network {reason}: {option} helps"
                break
    value = lookup(to_dict(config), field)
    return ConfigError(field, value.get("_target_") if isinstance(value, dict) else value, reason)


def _perform(config: TrainConfig, device: torch.device) -> Rehearsal:
    model = fresh_model(config, device, fetch=False)
    first = _first_weights(model)
    known, fresh = {name for name, _ in model.named_parameters()}, attributes(model)
    data = _noise(config, 2, device)
    check_logits(config, model.train(), _batch(data)[0])
    check_state(model, known)
    state = _start(config, model)
    _step(config, state, data)
    check_logits(config, model.eval(), _batch(data)[0])
    before = buffers(model)
    _collect(config, [state], data)
    warnings = changed_in_evaluation(before, buffers(model))
    warnings += differing_predictions(*(_predictions(config, model, data) for _ in range(2)))
    second = fresh_model(config, device, fetch=False)
    warnings += other_first_weights(first, _first_weights(second))
    resumed = _restored(config, state, second, device)
    others = _noise(config, 2, device, seed=1)
    for one in (state, resumed):
        with random_numbers(0, 1, "rehearsal", device):
            _step(config, one, others)
    warnings += hidden_state(state, resumed, fresh)
    _collect(config, [state, resumed], data)
    warnings += hidden_in_predictors(state, resumed)
    _try_sizes(config, state, device)
    _test_predictors(config, state, Spare(config, resumed.model), data)
    return Rehearsal(sum(parameter.numel() for parameter in model.parameters()), warnings)


def _noise(config: TrainConfig, count: int, device: torch.device, seed: int = 0) -> DeviceImages:
    """As many images for training, and the same for testing."""
    made = random_images(config, count, seed)
    made = replace(made, test_images=made.train_images, test_labels=made.train_labels)
    with faults("augmentation._target_", "fails"):
        return to_device(made, config, device)


def _first_weights(model: nn.Module) -> str:
    """Digest of parameters and buffers."""
    return weights_sha256({**dict(model.named_parameters()), **dict(model.named_buffers())})


def _predictions(config: TrainConfig, model: nn.Module, data: DeviceImages) -> Tensor:
    """Predictions with the same random numbers each time."""
    with random_numbers(0, 2, "rehearsal", data.device):
        return predict(model, data.test_batches(2), hardware.autocast(config))[0]


def _batch(data: DeviceImages) -> tuple[Tensor, Tensor]:
    """All images for training, augmented, and their labels."""
    with faults("augmentation._target_", "fails"):
        images, labels = data.train_batch(data.draw(0, 0, "train"))
    size = data.test_images.shape[1]
    if images.shape != (len(labels), 3, size, size):
        shape = (images.shape[0], *images.shape[2:], images.shape[1])
        expected = (len(labels), size, size, 3)
        raise FaultError("augmentation._target_", f"makes images {shape} instead of {expected}")
    return images, labels


def _start(config: TrainConfig, model: nn.Module) -> State:
    with faults("model._target_", "cannot be trained"):
        return state_of(config, model)


def _step(config: TrainConfig, state: State, data: DeviceImages, memory: str | None = None) -> None:
    """Take a training step on all images, and let predictors follow."""
    images, labels = _batch(data)
    for group in state.optimizer.param_groups:
        group["lr"] = RATE
    state.model.train()
    begun: list[object] = []
    hook = state.optimizer.register_step_pre_hook(lambda *step: begun.append(step))
    try:
        take_step(state.model, state.optimizer, images, labels, hardware.autocast(config))
    except (Exception, SystemExit) as error:
        if begun:
            raise fault_of(error, "optimizer._target_", "takes no step", memory) from None
        raise fault_of(error, "model._target_", "fails in a training step", memory) from None
    finally:
        hook.remove()
    for name, predictor in state.predictors.items():
        if predictor.each_step:
            with _predictor_faults(config, name):
                predictor.after_step(state.model)


def _predictor_faults(config: TrainConfig, name: str) -> contextlib.AbstractContextManager[None]:
    if name in config.method.predictors:
        return faults(f"method.predictors.{name}", "fails")
    return faults("model._target_", f"fails with the weights of {name}")


def _collect(config: TrainConfig, states: list[State], data: DeviceImages) -> None:
    """Let the predictors of all states collect, with the predictions of the first."""
    context = hardware.autocast(config)
    with faults("model._target_", "fails in a test"):
        predictions, labels = predict(states[0].model, data.test_batches(2), context)
        score(predictions, labels)
    for state in states:
        for name, predictor in state.predictors.items():
            with _predictor_faults(config, name):
                predictor.collect(state.model, predictions)


def _restored(config: TrainConfig, state: State, model: nn.Module, device: torch.device) -> State:
    """What a run has that goes on from this state's checkpoint."""

    def reread(value: object) -> Any:
        file = io.BytesIO()
        torch.save(value, file)
        file.seek(0)
        return torch.load(file, map_location=device, weights_only=True)

    resumed = _start(config, model)
    lost = "cannot be restored from a checkpoint"
    with faults("model._target_", lost):
        resumed.model.load_state_dict(reread(state.model.state_dict()))
        weights_sha256(resumed.model.state_dict())
    with faults("optimizer._target_", lost):
        resumed.optimizer.load_state_dict(reread(state.optimizer.state_dict()))
    for name, predictor in state.predictors.items():
        other = resumed.predictors[name]
        with _predictor_faults(config, name):
            other.n, other.kept = reread((predictor.n, predictor.kept))
    return resumed


def _test_predictors(config: TrainConfig, state: State, spare: Spare, data: DeviceImages) -> None:
    """Test what every predictor made of the weights."""
    for name, predictor in state.predictors.items():
        with _predictor_faults(config, name):
            if not predictor.has_weights:
                score(predictor.predictions(), data.test_labels)
            elif predictor.kept is not None:
                model, _ = with_weights(config, state, predictor.weights(), data, spare)
                score(*predict(model, data.test_batches(2), hardware.autocast(config)))


def _try_sizes(config: TrainConfig, state: State, device: torch.device) -> None:
    """Try the last batch of an epoch and of a test; on a GPU also whole ones, for its memory."""
    model, on_gpu = state.model, device.type == "cuda"
    for mode, field, images, size in (
        (True, "batch_size", config.dataset.train_images, config.batch_size),
        (False, "evaluation.batch_size", config.dataset.test_images, config.evaluation.batch_size),
    ):
        whole = min(size, images)
        last = images % size or whole
        # A CPU takes a minute for 80 images and a large network. If they fail where two do not, it
        # is for a factor that 80 has not, so that 8 fail too.
        tried = last if on_gpu or last <= 8 else 8 + last % 8
        if on_gpu:
            data = _noise(config, whole, device)
            if mode:
                _step(config, state, data, field)
            else:
                check_logits(config, model.eval(), _batch(data)[0], field)
        data = _noise(config, tried, device)
        try:
            check_logits(config, model.train(mode), _batch(data)[0], field)
        except FaultError as fault:
            if fault.field != "model._target_":
                raise
            raise FaultError(field, _odd_batch(images, size, last, fault.reason)) from None


def _odd_batch(images: int, size: int, last: int, reason: str) -> str:
    """What the last batch does, and where it is of one image, the next size that leaves another."""
    others = (one for one in range(size + 1, images + 1) if images % one != 1)
    other = next(others, None) if last == 1 else None
    helps = "" if other is None else f": {other} leaves no such batch"
    of = "1 image" if last == 1 else f"{last} images"
    return f"the last batch is of {of}, with which the network {reason}{helps}"
