"""Ensembles of whole runs: the mean of the softmax outputs that runs of several seeds recorded."""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from swa_bench.config import schema as configs
from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import with_method
from swa_bench.data import images as sources
from swa_bench.errors import SwaBenchError
from swa_bench.results import record as records
from swa_bench.training import averaging as methods
from swa_bench.training import evaluation as metrics
from swa_bench.training import hardware as device
from swa_bench.training import step as engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run of one budget that ensembles are made of."""

    cfg: DictConfig
    config: TrainConfig

    @property
    def path(self) -> Path:
        """Its record."""
        return records.cell_path(self.config)


def runs(cfg: DictConfig, config: TrainConfig) -> list[Run]:
    """The runs of an ensemble of k budgets: those of the block of k seeds that holds its seed."""
    method, budget = config.method, int(config.budget)
    assert method.runs_of is not None
    base = cfg if method.runs_of == method.name else with_method(cfg, method.runs_of)
    found = []
    for seed in configs.seed_block(config.seed, budget):
        other = base.copy()
        other.seed, other.budget = seed, 1.0
        of_run = configs.to_config(other)
        device.decide(of_run)
        found.append(Run(other, of_run))
    return found


def cells(cfg: DictConfig, config: TrainConfig) -> list[TrainConfig]:
    """The ensembles that these runs make: of k budgets, and of fewer, which need not be asked for.

    No two ensembles of one size share a run, so that they are independent: three seeds make one
    ensemble of 3 runs, one of 2 and three of 1.
    """
    own = config.method.runs_of == config.method.name  # one run alone has its own record
    block = configs.seed_block(config.seed, int(config.budget))
    found = []
    for size in range(2 if own else 1, len(block) + 1):
        for first in range(-(-block.start // size) * size, block.stop - size + 1, size):
            other = cfg.copy()
            other.seed, other.budget = first, float(size)
            cell = configs.to_config(other)
            cell.precision, cell.device = config.precision, config.device
            found.append(cell)
    return found


def record(cell: TrainConfig, runs: dict[int, Run], variant: dict[str, Any]) -> None:
    """Write the record of an ensemble, unless there is one of the same runs.

    Args:
        runs: the runs of its seeds, and maybe others; all are recorded.

    Raises:
        SwaBenchError: the runs saw other data than is here now.
    """
    members = [runs[seed] for seed in configs.seed_block(cell.seed, int(cell.budget))]
    of_runs = [records.read_cell(member.path) for member in members]
    parts = [part for part in of_runs if part is not None]
    of_parts = {
        f"{member.path.parent.name}/{member.path.name}": part["result"]["predictions_sha256"]
        for member, part in zip(members, parts, strict=True)
    }
    known = records.read_cell(records.cell_path(cell))
    if known is not None and known.get("runs") == of_parts:
        return
    arrays = sources.load_arrays(cell.dataset)
    if {part["data_sha256"] for part in parts} != {arrays.fingerprint()}:
        raise SwaBenchError(
            f"{', '.join(str(member.path) for member in members)}: not all of these are of the "
            f"data set that is in {cell.dataset.root}: train them again with force=true"
        )
    predictions = [records.read_predictions(member.path) for member in members]
    total = functools.reduce(methods.update_ensemble, map(_tensor, predictions), None)
    assert total is not None
    mean = methods.ensemble_predictions(total, len(members))
    labels = torch.from_numpy(arrays.test_labels)
    score = engine.score(mean, labels)
    result = {
        "test_error_pct": score.error_pct,
        "test_loss": score.loss,
        "test_ece_pct": metrics.calibration_error_pct(mean, labels),
        "n_averaged": sum(max(1, part["result"]["n_averaged"]) for part in parts),
        "weights_sha256": None,
        "predictions_sha256": records.write_predictions(cell, mean.numpy()),
    }
    provenance = {
        "variant": variant,
        "data_sha256": arrays.fingerprint(),
        "device": "; ".join(sorted({part["device"] for part in parts})),
        "versions": device.versions() | records.code_version(),
        "runs": of_parts,
    }
    timing = {"seconds": sum(part["timing"]["seconds"] for part in parts)}
    path_sha256 = configs.digest({"runs": [part["path_sha256"] for part in parts]})
    log.info("Recorded %s", records.write_cell(cell, path_sha256, result, timing, provenance))


def _tensor(predictions: np.ndarray | None) -> torch.Tensor:
    assert predictions is not None  # the plan of a run counts it as missing without them
    return torch.from_numpy(predictions)
