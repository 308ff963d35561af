"""From epoch to epoch: train, collect, evaluate, record, checkpoint; and go on from a checkpoint.

Epoch e is a pure function of the state before it, the recipe, the seed, e, and e's learning rates.
So a killed run, a longer budget and another method that starts with the same epochs all go on from
the furthest stored state whose key is theirs, and end with the same bits as if they had not.
"""

import copy
import dataclasses
import hashlib
import logging
import math
import time
from dataclasses import field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swa_bench.config.plan import Plan, state_keys
from swa_bench.config.schema import Combine, Device, Keep, TrainConfig
from swa_bench.data.batches import DeviceData, stream_seed
from swa_bench.errors import SwaBenchError
from swa_bench.files import remove_leftovers
from swa_bench.results import record as records
from swa_bench.results.locks import sigterm_noted
from swa_bench.training import checkpoints
from swa_bench.training import evaluation as metrics
from swa_bench.training import hardware as device
from swa_bench.training import step as engine
from swa_bench.training.averaging import (
    ensemble_predictions,
    load_average,
    update_average,
    update_ensemble,
)
from swa_bench.training.checkpoints import State
from swa_bench.training.loggers import open_logger
from swa_bench.training.network import fresh_model
from swa_bench.training.progress import Progress

log = logging.getLogger(__name__)

# What is tested, by the first part of its columns in epochs.csv: the weights as they are, the
# average of the copies, their ensemble. And which of these is a method's result.
WEIGHTS, AVERAGE, ENSEMBLE = "test", "swa_test", "ensemble_test"
RESULT = {
    Combine.none: WEIGHTS,
    Combine.weights: AVERAGE,
    Combine.predictions: ENSEMBLE,
}


@dataclasses.dataclass
class Walk:
    """A run in progress: its plan and data, its state, and what its records say of it.

    Attributes:
        end: epochs after which nothing is left to record.
        previous: the last checkpoint written here, None before the first.
        predictions: of the state, by what is tested, as far as they were needed.
    """

    plan: Plan
    data: DeviceData
    keys: list[str]
    state: State
    provenance: dict[str, Any]
    end: int = 0
    saved_at: float = field(default_factory=time.monotonic)
    previous: Path | None = None
    predictions: dict[str, Tensor] = field(default_factory=dict)

    @property
    def config(self) -> TrainConfig:
        """The run's resolved configuration."""
        return self.plan.config


def fresh_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.SGD:
    """SGD as the authors', without Nesterov; the rate is set before every step."""
    optimizer = config.optimizer
    return torch.optim.SGD(
        model.parameters(),
        lr=config.model.learning_rate,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        fused=config.device is Device.cuda,  # takes its rate from the device
    )


def run(
    plans: list[Plan],
    data: DeviceData,
    fingerprint: str,
    provenance: dict[str, Any],
    progress: Progress,
) -> None:
    """Walk to the end of each plan, writing epochs.csv, cells and checkpoints on the way.

    Args:
        plans: of one recipe and several seeds, which take their steps in turn: see Trainer.
        fingerprint: SHA-256 of the data set.
        provenance: parts of the records that the walk does not know itself.

    Raises:
        SwaBenchError: a loss is no longer finite (the other walks end first), or the disk
            refuses a file.
        Terminated: the process was asked to end.
    """
    walks = [_start(plan, data, fingerprint, provenance) for plan in plans]
    trainers = {walk.config.seed: make_trainer(walk.config, walk.state, data) for walk in walks}
    loggers = {walk.config.seed: open_logger(walk.config) for walk in walks}
    for walk in walks:
        for row in walk.state.rows:
            loggers[walk.config.seed](row)
    going = list(walks)
    failures: list[NotFiniteError] = []
    with progress, sigterm_noted() as end_request:
        while going := [walk for walk in going if walk.state.epoch < walk.end]:
            epoch = min(walk.state.epoch for walk in going)
            together = [walk for walk in going if walk.state.epoch == epoch]
            started = time.perf_counter()
            scores = _train_epoch(together, trainers, progress)
            seconds = (time.perf_counter() - started) / len(together)
            stored = False
            for walk, score in zip(together, scores, strict=True):
                try:
                    stored |= _end_epoch(walk, score, seconds)
                except NotFiniteError as error:
                    failures.append(error)
                    going.remove(walk)
                else:
                    progress.epoch_done(walk.config.seed, walk.state.rows[-1])
                    loggers[walk.config.seed](walk.state.rows[-1])
            if end_request.made:
                for walk in going:
                    stored |= _store(walk, now=True)
            if stored:
                _limit_store(walks)
            end_request.check()
    log.info("%s", _limit_store(walks))
    if failures:
        raise failures[0]


def _start(plan: Plan, data: DeviceData, fingerprint: str, provenance: dict[str, Any]) -> Walk:
    """A walk at the furthest of its stored states, or before its first epoch."""
    config = plan.config
    model = fresh_model(config, data.device)
    initial = weights_sha256(model.state_dict())
    provenance = {**provenance, "initial_weights_sha256": initial}
    state = State(model, fresh_optimizer(config, model))
    keys = state_keys(plan, fingerprint, initial)
    walk = Walk(plan, data, keys, state, provenance, end=config.epochs)
    for folder in (records.run_folder(config), records.checkpoint_folder(config)):
        remove_leftovers(folder)
    if not config.force:
        missing = [cell.epochs for cell in plan.missing()]
        walk.end = max(missing, default=0)
        _go_on(walk, min(missing, default=0))
    if state.epoch >= walk.end:
        _drop_passed(walk, keeping=())
    return walk


def make_trainer(config: TrainConfig, state: State, data: DeviceData) -> engine.Trainer:
    """What trains a state's model, as the configuration asks for."""
    # Of two sizes of batches, the smaller last one has a graph of its own.
    model = torch.compile(state.model, dynamic=False) if config.compile else state.model
    assert isinstance(model, nn.Module)
    # A graph cannot fetch images from the host.
    graphs = config.cuda_graphs and config.device is Device.cuda and not data.on_host
    return engine.Trainer(
        model,
        state.optimizer,
        data,
        config.optimizer.batch_size,
        device.autocast(config),
        graphs,
    )


def _go_on(walk: Walk, first_missing: int) -> None:
    """Start from the furthest checkpoint before the end of the first cell that is missing."""
    config, state = walk.config, walk.state
    keys = walk.keys[: first_missing + 1]
    path = checkpoints.load_newest(records.checkpoint_folder(config), config.seed, keys, state)
    if path is None:
        return
    log.info("Going on after epoch %d, from %s", state.epoch, path)
    _evaluate(walk)  # a run with other settings of evaluation may have left the state
    records.write_epochs(records.run_folder(config), state.rows)
    _record(walk)


def _train_epoch(
    walks: list[Walk], trainers: dict[int, engine.Trainer], progress: Progress
) -> list[engine.Score]:
    """Train the next epoch, which is the same for all walks, their steps in turn."""
    epoch = walks[0].state.epoch
    progress.epoch_starts(epoch, len(walks))
    taking_turns = [trainers[walk.config.seed] for walk in walks]
    for walk, trainer in zip(walks, taking_turns, strict=True):
        seed = walk.config.seed
        draws = walk.data.draw(seed, epoch, "train")
        trainer.begin_epoch(draws, walk.plan.rates(epoch), stream_seed(seed, epoch, "dropout"))
    return engine.train_epoch(taking_turns, progress.images_done)


def _end_epoch(walk: Walk, score: engine.Score, train_seconds: float) -> bool:
    """Collect, evaluate and record a state whose next epoch has been trained; say if it is stored.

    Args:
        train_seconds: this walk's share of the time.
    """
    plan, state = walk.plan, walk.state
    epoch = state.epoch
    started = time.perf_counter()
    here = {name: walk.provenance[name] for name in ("device", "versions")}
    if not state.origins or any(state.origins[-1][name] != here[name] for name in here):
        state.origins.append({"from_epoch": epoch + 1, **here})
    state.epoch += 1
    walk.predictions.clear()
    _check_finite(walk, "training loss", score.loss)
    row: dict[str, Any] = dict.fromkeys(records.EPOCH_COLUMNS)
    row |= {"epoch": state.epoch, "learning_rate": plan.rates(epoch)[-1]}
    row |= {"train_loss": score.loss, "train_error_pct": score.error_pct}
    state.rows.append(row)
    if plan.collects(epoch):
        _collect(walk)
    row["n_averaged"] = state.n_averaged
    _evaluate(walk)
    seconds = train_seconds + time.perf_counter() - started
    row |= {"seconds": seconds, "train_seconds": train_seconds}
    records.write_epochs(records.run_folder(walk.config), state.rows)
    _record(walk)
    return _store(walk)


def _collect(walk: Walk) -> None:
    """Take a copy of the weights: into the average, and its predictions into the ensemble.

    Both are kept, whichever is the method's result, so that methods of one path share all states.
    """
    state = walk.state
    state.average = update_average(state.average, state.n_averaged, state.model)
    _measure(walk, WEIGHTS)
    state.ensemble = update_ensemble(state.ensemble, walk.predictions[WEIGHTS])
    state.n_averaged += 1
    _measure(walk, ENSEMBLE)


def _limit_store(walks: list[Walk]) -> str:
    """Keep all checkpoints together within their limit, and say how much they take."""
    config = walks[0].config
    results, limit_gb = config.results_dir, config.checkpoints.max_gb
    own = {walk.previous for walk in walks}
    size = checkpoints.limit_size(Path(results), limit_gb * 1e9, own)
    return f"Checkpoints: {size / 1e9:.2f} GB in {results} (checkpoints.max_gb={limit_gb:g})"


def _store(walk: Walk, now: bool = False) -> bool:
    """Write a checkpoint if one is due, and delete those that are of no more use."""
    config, done = walk.config, walk.state.epoch
    keep = done == walk.end or _stays(walk, done)
    due = keep or time.monotonic() - walk.saved_at >= config.checkpoints.every_s
    if not (due or now) or not done:
        return False
    path = _save(walk)
    _drop_passed(walk, keeping=() if done == walk.end else (path, walk.previous))
    walk.saved_at, walk.previous = time.monotonic(), path
    return True


def _evaluate(walk: Walk) -> None:
    """Test the weights and their average where the last epoch's row asks for it and lacks it."""
    state, evaluation = walk.state, walk.config.evaluation
    row, cells = state.rows[-1], walk.plan.cells_at(state.epoch)
    if row["test_loss"] is None and (cells or state.epoch % evaluation.every == 0):
        _measure(walk, WEIGHTS)
    if not state.n_averaged:
        return
    due = cells or state.epoch % evaluation.average_every == 0
    if row["swa_test_loss"] is None and due:
        _measure(walk, AVERAGE)
    if row["ensemble_test_loss"] is None and cells:
        _measure(walk, ENSEMBLE)


def _measure(walk: Walk, what: str) -> None:
    """Fill in loss and error of the last epoch's row."""
    score = engine.score(_predictions(walk, what), walk.data.test_labels)
    _check_finite(walk, f"loss of {what}", score.loss)
    walk.state.rows[-1] |= {f"{what}_loss": score.loss, f"{what}_error_pct": score.error_pct}


def _predictions(walk: Walk, what: str) -> Tensor:
    """Log-probabilities (M, classes) of the test images."""
    if what not in walk.predictions:
        state, config = walk.state, walk.config
        if what == ENSEMBLE:
            assert state.ensemble is not None
            found = ensemble_predictions(state.ensemble, state.n_averaged)
        else:
            model = state.model if what == WEIGHTS else averaged_model(config, state, walk.data)
            batches = walk.data.test_batches(config.evaluation.batch_size)
            found, _ = engine.predict(model, batches, device.autocast(config))
        walk.predictions[what] = found
    return walk.predictions[what]


def averaged_model(config: TrainConfig, state: State, data: DeviceData) -> nn.Module:
    """A copy of the model with the averaged weights and statistics recomputed for them.

    The pass draws from a stream of its own, so that training does not notice it.
    """
    assert state.average is not None
    model = copy.deepcopy(state.model)
    load_average(model, state.average)
    draws = data.draw(config.seed, state.epoch, "recompute")
    batches = data.train_batches(draws, config.optimizer.batch_size)
    engine.recompute_batch_norm(model, batches, device.autocast(config))
    return model


class NotFiniteError(SwaBenchError):
    """A walk's loss is infinite or not a number."""


def _check_finite(walk: Walk, what: str, value: float) -> None:
    if math.isfinite(value):
        return
    raise NotFiniteError(
        f"The {what} of epoch {walk.state.epoch} is {value} ({walk.config.model.name}, seed "
        f"{walk.config.seed}, model.learning_rate={walk.config.model.learning_rate}): stopped. "
        f"Earlier checkpoints stay in {records.checkpoint_folder(walk.config)}."
    )


def _record(walk: Walk) -> None:
    """Write the cells that end with the state's epoch and are not recorded yet."""
    for cell in walk.plan.cells_at(walk.state.epoch):
        if walk.config.force or cell in walk.plan.missing():
            path = _record_cell(walk, cell)
            log.info("Recorded %s", path)


def _record_cell(walk: Walk, cell: TrainConfig) -> Path:
    """Write a cell's record: of its last epoch, never of the best."""
    state, what = walk.state, RESULT[cell.method.combine]
    row, predictions = state.rows[-1], _predictions(walk, what)
    weights = {WEIGHTS: state.model.state_dict(), AVERAGE: state.average, ENSEMBLE: None}[what]
    result = {
        "test_error_pct": row[f"{what}_error_pct"],
        "test_loss": row[f"{what}_loss"],
        "test_ece_pct": metrics.calibration_error_pct(predictions, walk.data.test_labels),
        "train_error_pct": row["train_error_pct"],
        "train_loss": row["train_loss"],
        "n_averaged": row["n_averaged"],
        # Of the trained weights; for SWA they are no baseline: their rate never decays to 1 %.
        "last_weights": {name: row[name] for name in ("test_error_pct", "test_loss")},
        "weights_sha256": weights and weights_sha256(weights),
        "predictions_sha256": records.write_predictions(cell, predictions.cpu().numpy()),
    }
    timing = {
        "seconds": round(sum(row["seconds"] for row in state.rows), 3),
        "images_per_s": _images_per_s(walk),
    }
    provenance = {**walk.provenance, "origins": state.origins}
    return records.write_cell(cell, walk.plan.path_sha256(state.epoch), result, timing, provenance)


def _images_per_s(walk: Walk) -> float:
    """Speed of training, without evaluation."""
    images = len(walk.state.rows) * len(walk.data.train_labels)
    seconds: float = sum(row["train_seconds"] for row in walk.state.rows)
    return round(images / seconds, 1)


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names and values of a state dict, in its order."""
    running = hashlib.sha256()
    for name, tensor in weights.items():
        running.update(name.encode())
        running.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return running.hexdigest()


def _save(walk: Walk) -> Path:
    folder = records.checkpoint_folder(walk.config)
    return checkpoints.save(folder, walk.config.seed, walk.keys[walk.state.epoch], walk.state)


def _stays(walk: Walk, epoch: int) -> bool:
    """Whether the state after so many epochs is kept: for other methods, or as the user wants."""
    plan, keep = walk.plan, walk.config.checkpoints.keep
    of_cell = keep is not Keep.ends and bool(plan.cells_at(epoch))
    return epoch in plan.branches or of_cell or (keep is Keep.copies and plan.collects(epoch - 1))


def _drop_passed(walk: Walk, keeping: tuple[Path | None, ...]) -> None:
    """Delete checkpoints that this walk has passed, but those that stay."""
    passed = {
        epoch: walk.keys[epoch] for epoch in range(1, walk.state.epoch) if not _stays(walk, epoch)
    }
    folder = records.checkpoint_folder(walk.config)
    for path in checkpoints.find_all(folder, walk.config.seed, passed):
        if path not in keeping:
            path.unlink(missing_ok=True)
