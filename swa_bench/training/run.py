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
from swa_bench.files import remove_leftovers
from swa_bench.results import finished
from swa_bench.results.epochs import Row, epoch_columns, read_epochs, shared_with, write_epochs
from swa_bench.results.record import checkpoint_folder, run_folder
from swa_bench.results.same_data import other_code
from swa_bench.training import hardware, threads
from swa_bench.training.batch_norm import describe_kept
from swa_bench.training.evaluation import (
    Score,
    calibration_error_pct,
    predict_test_images,
    score,
)
from swa_bench.training.metrics import measure
from swa_bench.training.network import Spare
from swa_bench.training.retention import Retention
from swa_bench.training.states import fresh_state, weights_sha256, with_weights
from swa_bench.training.step import TrainStep

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
        self, plan: Plan, forks: frozenset[int], data: Images, provenance: Mapping[str, Any]
    ) -> None:
        config = plan.config
        self.plan, self.data, self.config = plan, data, config
        self.state, self.spare = fresh_state(config, data), Spare(config)
        initial = weights_sha256(self.state.model.state_dict())
        self.provenance = {**provenance, "initial_weights_sha256": initial}
        self.warnings: list[str] = list(provenance.get("warnings", ()))
        keys = plan.state_keys(provenance["data_sha256"], initial)
        self.checkpoints = Retention(plan, forks, keys, self.state)
        self.folder = run_folder(config)  # whose name takes a millisecond to find
        self.csv_bytes = -1  # of epochs.csv, if it ends with the last epoch done
        self.predictions: dict[str, Tensor] = {}  # of the state, as far as they were needed
        for folder in (self.folder, checkpoint_folder(config)):
            remove_leftovers(folder)
        if config.force:
            self._choose_threads()
        else:
            missing = [report.epochs for report in finished.missing(plan)]
            self.checkpoints.end = max(missing, default=0)
            self._resume(min(missing, default=0))
        if not config.epochs:
            self._report(self._empty_row() | self._measured(LAST))
        if self.checkpoints.done:
            self.checkpoints.drop_passed()

    def _resume(self, first_missing: int) -> None:
        """Start from the furthest checkpoint before the end of the first report that is missing."""
        found = self.checkpoints.load(first_missing)
        self._choose_threads()
        if not found:
            if read_epochs(self.folder / "epochs.csv"):  # of a run that was killed
                log.info("No checkpoint to go on from: from epoch 1")
                self._write()
            return
        state = self.state
        shared = shared_with(self.folder, state.rows[-1]) if state.rows else ""
        name = f"{shared}: {self.config.method.name} seed {self.config.seed}"
        step = f"step {state.step} of " if state.step else ""
        log.info("Going on after %sepoch %d%s", step, state.in_epoch, name)
        self._warn(other_code(state.segments, state.in_epoch, self.config))
        if not state.step:
            self._evaluate()  # a run with other settings of evaluation may have left the state
        self._write()

    def _choose_threads(self) -> None:
        self.threads = threads.choose(self.config, self.state.segments)
        self.provenance["device"] = hardware.device_name(self.data.device)

    def begin_epoch(self, step: TrainStep) -> None:
        """Get ready for an epoch's steps, or those that are left, and note where they are taken."""
        state, seed = self.state, self.config.seed
        names = ("device", "versions", "source_sha256")
        here = {name: self.provenance[name] for name in names if name in self.provenance}
        before = state.segments[-1] if state.segments else {}
        if any(before.get(name) != value for name, value in here.items()):
            first = {"from_step": state.step + 1} if state.step else {}
            state.segments.append({"from_epoch": state.epoch + 1, **first, **here})
        self.predictions.clear()
        if state.step < self.plan.steps_per_epoch:
            draws, rates = self.data.draw(seed, state.epoch, "train"), self.plan.rates(state.epoch)
            step.begin_epoch(draws, rates, seed, state.epoch)

    def end_epoch(self, trained: Score) -> bool:
        """Collect, evaluate and record after an epoch's steps; say if a checkpoint was written.

        In its passes over images the process may end: before anything is collected the state is
        that after the epoch's steps, and afterwards that after the epoch, not all tested yet.

        Args:
            trained: loss and error of the epoch's batches.
        """
        state, started = self.state, time.perf_counter()
        self._check_finite("training loss", trained.loss)
        rate, collects = self.plan.rates(state.epoch)[-1], self.plan.collects(state.epoch)
        if collects:
            self._predict(LAST)
        state.epoch, state.step = state.in_epoch, 0
        row = self._empty_row() | {"epoch": state.epoch, "learning_rate": rate}
        row |= {"train_loss": trained.loss, "train_error_pct": trained.error_pct}
        row |= dict.fromkeys(("seconds", "train_seconds"), state.train_seconds)
        state.train_seconds = 0.0
        state.rows.append(row)
        if collects:
            self._collect()
        row["n_averaged"] = state.n_averaged
        self._evaluate()
        row["seconds"] += time.perf_counter() - started
        stored = self.checkpoints.store()  # first, so that no record is without its weights
        self._write(sync=stored)
        return stored

    def _empty_row(self) -> Row:
        return dict.fromkeys(epoch_columns(self.config.method.predictors))

    def _collect(self) -> None:
        """Let every predictor take the weights, whichever is the method's result."""
        row = self.state.rows[-1]
        row |= self._measured(LAST)
        for name, predictor in self.state.predictors.items():
            with random_numbers(self.config.seed, self.state.epoch, "collect", self.data.device):
                predictor.collect(self.state.model, self.predictions[LAST])
            if not predictor.has_weights:
                row |= self._measured(name)  # it costs no pass

    def _evaluate(self) -> None:
        """Test the weights and the predictors where the epoch's row asks for it and lacks it."""
        state, options = self.state, self.config.evaluation
        row, reports = state.rows[-1], self.plan.reports_at(state.epoch)
        if row["test_loss"] is None and (reports or state.epoch % options.every == 0):
            row |= self._measured(LAST)
        for name, predictor in state.predictors.items():
            due = predictor.has_weights and state.epoch % options.average_every == 0
            tested = row[f"{name}_test_loss"] is not None
            if predictor.kept is not None and not tested and (due or reports):
                row |= self._measured(name)

    def _measured(self, name: str) -> Row:
        """Loss and error of the weights or of a predictor, under the names of their columns."""
        found, column = score(self._predict(name), self.data.test_labels), column_prefix(name)
        self._check_finite(f"{column.replace('_', ' ')} loss", found.loss)
        return {f"{column}_loss": found.loss, f"{column}_error_pct": found.error_pct}

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
                found, _ = predict_test_images(model, self.data, config, state.in_epoch)
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
        model, kept = self.config.model, self.checkpoints.drop_epoch()
        stay = f" Earlier checkpoints stay in {self.checkpoints.folder}." if kept else ""
        raise NotFiniteError(
            f"The {what} of epoch {self.state.in_epoch} is {value} ({model.name}, "
            f"{self.config.method.name}, seed {self.config.seed}, "
            f"model.learning_rate={model.learning_rate}): stopped.{stay}"
        )

    def _write(self, sync: bool = True) -> None:
        """Write epochs.csv, and the reports that are due after this epoch and not recorded yet."""
        rows, predictors = self.state.rows, self.config.method.predictors
        sync = sync or bool(self.plan.reports_at(self.state.epoch))
        self.csv_bytes = write_epochs(self.folder, rows, predictors, self.csv_bytes, sync)
        self._report(rows[-1] if rows else {})

    def _report(self, row: Row) -> None:
        """Write the records that are due now and not written yet, with the figures of a row."""
        due = self.plan.reports_at(self.state.epoch)
        missing = finished.missing(self.plan) if due and not self.config.force else due
        for report in due:
            if report in missing:
                log.info("Recorded %s", self._record(report, row))

    def _record(self, report: TrainConfig, row: Row) -> Path:
        """Write a record: of its last epoch, never of the best."""
        state, name = self.state, report.method.result
        predictions, column = self._predict(name), column_prefix(name)
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
        timing = {}
        if state.rows:
            images = len(state.rows) * len(self.data.train_labels)
            seconds, in_steps = (
                sum(epoch[name] for epoch in state.rows) for name in ("seconds", "train_seconds")
            )
            timing = {"seconds": round(seconds, 3), "images_per_s": round(images / in_steps, 1)}
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

    def stop(self) -> None:
        """Store the state as it is, and its rows, before the process ends."""
        if self.checkpoints.store(now=True):
            write_epochs(self.folder, self.state.rows, self.config.method.predictors)


def column_prefix(name: str) -> str:
    """How the columns of epochs.csv begin that hold a predictor's figures."""
    return "test" if name == LAST else f"{name}_test"
