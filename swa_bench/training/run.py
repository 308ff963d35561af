"""One run from its first epoch to its last: train, collect, evaluate, record, checkpoint.

Epoch e is a pure function of the state before it, the recipe, the seed, e, and e's learning rates.
So a killed run, a longer budget and another method that starts with the same epochs all go on from
the furthest stored state whose key is theirs, and end with the same bits as if they had not.
"""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from swa_bench.config.plan import Plan
from swa_bench.config.schema import LAST, TrainConfig
from swa_bench.data.batches import Images
from swa_bench.data.random import random_numbers
from swa_bench.errors import SwaBenchError
from swa_bench.files import remove, remove_leftovers
from swa_bench.results import finished
from swa_bench.results.epochs import Row, epoch_columns, read_epochs, shared_with, write_epochs
from swa_bench.results.record import checkpoint_folder, run_folder
from swa_bench.results.same_data import other_code
from swa_bench.results.stored import find_all
from swa_bench.training import checkpoints, hardware, threads
from swa_bench.training.batch_norm import describe_kept
from swa_bench.training.evaluation import (
    Score,
    calibration_error_pct,
    predict_test_images,
    score,
)
from swa_bench.training.metrics import measure
from swa_bench.training.network import Spare
from swa_bench.training.states import fresh_state, weights_sha256, with_weights

log = logging.getLogger(__name__)


class NotFiniteError(SwaBenchError):
    """A run's loss is infinite or not a number."""


class Run:
    """A run in progress, at the furthest of its stored states or before its first epoch.

    Args:
        forks: after how many epochs other methods leave it; their states are kept.
        provenance: parts of its records that it does not know itself.
    """

    def __init__(
        self,
        plan: Plan,
        forks: frozenset[int],
        data: Images,
        fingerprint: str,
        provenance: Mapping[str, Any],
    ) -> None:
        config = plan.config
        self.plan, self.forks, self.data, self.config = plan, forks, data, config
        self.state, self.spare = fresh_state(config, data), Spare(config)
        initial = weights_sha256(self.state.model.state_dict())
        self.provenance = {**provenance, "initial_weights_sha256": initial}
        self.warnings: list[str] = list(provenance.get("warnings", ()))
        self.keys = plan.state_keys(fingerprint, initial)
        self.saved_at = time.monotonic()
        self.previous: Path | None = None  # the last checkpoint that was written here
        self.folder = run_folder(config)  # whose name takes a millisecond to find
        self.csv_bytes = -1  # of epochs.csv, if it ends with the last epoch done
        self.predictions: dict[str, Tensor] = {}  # of the state, as far as they were needed
        for folder in (self.folder, checkpoint_folder(config)):
            remove_leftovers(folder)
        self.end = config.epochs  # after which nothing is left to record
        if config.force:
            self._choose_threads()
        else:
            missing = [report.epochs for report in finished.missing(plan)]
            self.end = max(missing, default=0)
            self._resume(min(missing, default=0))
        if self.done:
            self._drop_passed(keeping=None)

    @property
    def done(self) -> bool:
        """Whether nothing is left to train."""
        return self.state.epoch >= self.end

    def _resume(self, first_missing: int) -> None:
        """Start from the furthest checkpoint before the end of the first report that is missing."""
        keys = self.keys[: first_missing + 1]
        folder = checkpoint_folder(self.config)
        path = checkpoints.load_newest(folder, self.config.seed, keys, self.state)
        self._choose_threads()
        if path is None:
            if read_epochs(self.folder / "epochs.csv"):  # of a run that was killed
                log.info("No checkpoint to go on from: from epoch 1")
                self._write()
            return
        shared = shared_with(self.folder, self.state.rows[-1])
        name = f"{shared}: {self.config.method.name} seed {self.config.seed}"
        log.info("Going on after epoch %d%s", self.state.epoch, name)
        self._warn(other_code(self.state.segments, self.state.epoch, self.config))
        self._evaluate()  # a run with other settings of evaluation may have left the state
        self._write()

    def _choose_threads(self) -> None:
        self.threads = threads.choose(self.config, self.state.segments)
        self.provenance["device"] = hardware.device_name(self.data.device)

    def end_epoch(self, trained: Score, train_seconds: float) -> bool:
        """Collect, evaluate and record after an epoch's steps; say if a checkpoint was written.

        Args:
            trained: loss and error of the epoch's batches.
            train_seconds: this run's share of the time.
        """
        state, started = self.state, time.perf_counter()
        names = ("device", "versions", "source_sha256")
        here = {name: self.provenance[name] for name in names if name in self.provenance}
        before = state.segments[-1] if state.segments else {}
        if any(before.get(name) != value for name, value in here.items()):
            state.segments.append({"from_epoch": state.epoch + 1, **here})
        rate, collects = self.plan.rates(state.epoch)[-1], self.plan.collects(state.epoch)
        state.epoch += 1
        self.predictions.clear()
        self._check_finite("training loss", trained.loss)
        row: Row = dict.fromkeys(epoch_columns(self.config.method.predictors))
        row |= {"epoch": state.epoch, "learning_rate": rate}
        row |= {"train_loss": trained.loss, "train_error_pct": trained.error_pct}
        state.rows.append(row)
        if collects:
            self._collect()
        row["n_averaged"] = state.n_averaged
        self._evaluate()
        row["seconds"] = train_seconds + time.perf_counter() - started
        row["train_seconds"] = train_seconds
        stored = self.store()  # first, so that no record is without its weights
        self._write(sync=stored)
        return stored

    def _collect(self) -> None:
        """Let every predictor take the weights, whichever is the method's result."""
        self._measure(LAST)
        for name, predictor in self.state.predictors.items():
            with random_numbers(self.config.seed, self.state.epoch, "collect", self.data.device):
                predictor.collect(self.state.model, self.predictions[LAST])
            if not predictor.has_weights:
                self._measure(name)  # it costs no pass

    def _evaluate(self) -> None:
        """Test the weights and the predictors where the epoch's row asks for it and lacks it."""
        state, options = self.state, self.config.evaluation
        row, reports = state.rows[-1], self.plan.reports_at(state.epoch)
        if row["test_loss"] is None and (reports or state.epoch % options.every == 0):
            self._measure(LAST)
        for name, predictor in state.predictors.items():
            due = predictor.has_weights and state.epoch % options.average_every == 0
            tested = row[f"{name}_test_loss"] is not None
            if predictor.kept is not None and not tested and (due or reports):
                self._measure(name)

    def _measure(self, name: str) -> None:
        """Fill in loss and error of the epoch's row."""
        found, column = score(self._predict(name), self.data.test_labels), column_prefix(name)
        self._check_finite(f"{column.replace('_', ' ')} loss", found.loss)
        self.state.rows[-1] |= {
            f"{column}_loss": found.loss,
            f"{column}_error_pct": found.error_pct,
        }

    def _predict(self, name: str) -> Tensor:
        """Log-probabilities (M, classes) of the test images, by the weights or by a predictor."""
        if name not in self.predictions:
            state, config = self.state, self.config
            predictor = None if name == LAST else state.predictors[name]
            if predictor is not None and not predictor.has_weights:
                found = predictor.predictions()
            else:
                model = state.model
                if predictor is not None:
                    weights = predictor.weights()
                    model, kept = with_weights(config, state, weights, self.data, self.spare)
                    self._warn(describe_kept(kept))
                found, _ = predict_test_images(model, self.data, config, state.epoch)
            self.predictions[name] = found
        return self.predictions[name]

    def _warn(self, sentences: list[str]) -> None:
        """Log what was not said before; it stands in the records."""
        for sentence in sentences:
            if sentence not in self.warnings:
                log.warning("%s", sentence)
                self.warnings.append(sentence)

    def _check_finite(self, what: str, value: float) -> None:
        if math.isfinite(value):
            return
        model, folder = self.config.model, checkpoint_folder(self.config)
        kept = find_all(folder, self.config.seed, dict(enumerate(self.keys)))
        stay = f" Earlier checkpoints stay in {folder}." if kept else ""
        raise NotFiniteError(
            f"The {what} of epoch {self.state.epoch} is {value} ({model.name}, "
            f"{self.config.method.name}, seed {self.config.seed}, "
            f"model.learning_rate={model.learning_rate}): stopped.{stay}"
        )

    def _write(self, sync: bool = True) -> None:
        """Write epochs.csv, and the reports that are due after this epoch and not recorded yet."""
        due = self.plan.reports_at(self.state.epoch)
        rows, predictors = self.state.rows, self.config.method.predictors
        sync = sync or bool(due)
        self.csv_bytes = write_epochs(self.folder, rows, predictors, self.csv_bytes, sync)
        missing = finished.missing(self.plan) if due and not self.config.force else due
        for report in due:
            if report in missing:
                log.info("Recorded %s", self._record(report))

    def _record(self, report: TrainConfig) -> Path:
        """Write a record: of its last epoch, never of the best."""
        state, name = self.state, report.method.result
        row, predictions, column = state.rows[-1], self._predict(name), column_prefix(name)
        last = {column: row[column] for column in ("test_error_pct", "test_loss")}
        result = {
            "test_error_pct": row[f"{column}_error_pct"],
            "test_loss": row[f"{column}_loss"],
            "test_ece_pct": calibration_error_pct(predictions, self.data.test_labels),
            "metrics": measure(report, predictions, self.data.test_labels),
            "train_error_pct": row["train_error_pct"],
            "train_loss": row["train_loss"],
            "n_averaged": row["n_averaged"],
            "last_weights": last,
            "weights_sha256": self._weights_sha256(name),
            "predictions_sha256": finished.write_predictions(report, predictions.cpu().numpy()),
        }
        images = len(state.rows) * len(self.data.train_labels)
        timing = {
            "seconds": round(sum(epoch["seconds"] for epoch in state.rows), 3),
            "images_per_s": round(images / sum(epoch["train_seconds"] for epoch in state.rows), 1),
        }
        provenance = {**self.provenance, "segments": state.segments}
        if self.warnings:
            provenance["warnings"] = self.warnings
        schedule = self.plan.schedule_sha256(state.epoch)
        return finished.write_record(report, schedule, result, timing, provenance)

    def _weights_sha256(self, name: str) -> str | None:
        """Digest of the weights that a result is of; None for an ensemble."""
        if name == LAST:
            return weights_sha256(self.state.model.state_dict())
        predictor = self.state.predictors[name]
        return weights_sha256(predictor.weights()) if predictor.has_weights else None

    def store(self, now: bool = False) -> bool:
        """Write a checkpoint if one is due, and delete those that are of no more use."""
        options, epoch = self.config.checkpoints, self.state.epoch
        aged = time.monotonic() - self.saved_at >= options.every_s
        if not epoch or not (now or aged or self.done or self._stays(epoch)):
            return False
        folder = checkpoint_folder(self.config)
        path = checkpoints.save(folder, self.config.seed, self.keys[epoch], self.state)
        self._drop_passed(keeping=None if self.done else self.previous)
        self.saved_at, self.previous = time.monotonic(), path
        return True

    def _stays(self, epoch: int) -> bool:
        """Whether the state after `epoch` epochs is kept: for other methods, or for the user."""
        keep = self.config.checkpoints.keep
        reported = keep != "ends" and bool(self.plan.reports_at(epoch))
        collected = keep == "collected" and self.plan.collects(epoch - 1)
        return epoch in self.forks or reported or collected

    def _drop_passed(self, keeping: Path | None) -> None:
        """Delete checkpoints that this run has passed, but one, and those that stay."""
        epochs = [epoch for epoch in range(1, self.state.epoch) if not self._stays(epoch)]
        passed = {epoch: self.keys[epoch] for epoch in epochs}
        folder = checkpoint_folder(self.config)
        for path in find_all(folder, self.config.seed, passed):
            if path != keeping:
                remove(path)


def column_prefix(name: str) -> str:
    """How the columns of epochs.csv begin that hold a predictor's figures."""
    return "test" if name == LAST else f"{name}_test"
