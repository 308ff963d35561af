"""Ensembles of whole runs: the mean of the softmax outputs that runs of several seeds recorded."""

import logging

import torch

from swa_bench.config.identity import digest
from swa_bench.config.schema import TrainConfig
from swa_bench.config.seeds import seed_block
from swa_bench.config.spec import RunSpec
from swa_bench.data.images import load_images
from swa_bench.results.finished import read_predictions, write_predictions, write_record
from swa_bench.results.record import read_record, record_path
from swa_bench.results.same_data import check_data, fix_of
from swa_bench.training import hardware
from swa_bench.training.averaging import add_member, mean_of_sum
from swa_bench.training.evaluation import calibration_error_pct, score
from swa_bench.training.job import train_missing
from swa_bench.training.metrics import measure

log = logging.getLogger(__name__)


def train_members(spec: RunSpec) -> list[TrainConfig]:
    """Train the missing runs of an ensemble, record it, and return what it reports."""
    runs = {run.config.seed: run for run in spec.members()}
    # Its own seed first, so that jobs of several seeds do not wait for each other.
    for seed in sorted(runs, key=lambda seed: seed != spec.config.seed):
        train_missing(runs[seed], with_predictions=True)
    ensembles = [ensemble.config for ensemble in spec.ensembles()]
    for ensemble in ensembles:
        _record(spec, ensemble, runs)
    return ensembles


def _record(spec: RunSpec, ensemble: TrainConfig, runs: dict[int, RunSpec]) -> None:
    """Write the record of an ensemble, unless there is one of the same runs."""
    seeds = seed_block(ensemble.seed, int(ensemble.budget))
    paths = [record_path(runs[seed].config) for seed in seeds]
    parts = [part for path in paths if (part := read_record(path)) is not None]
    digests = {
        f"{path.parent.name}/{path.name}": part.result.predictions_sha256 or ""
        for path, part in zip(paths, parts, strict=True)
    }
    known = read_record(record_path(ensemble))
    of_data = {part.data_sha256 for part in parts}
    if known is not None and known.runs == digests and of_data == {known.data_sha256}:
        return
    images = load_images(ensemble.dataset)
    of = list(zip(paths, parts, strict=True))
    if known is not None and not ensemble.force:
        of.append((record_path(ensemble), known))
    for path, one in of:
        check_data(path, one, ensemble.dataset, images.identity(), fix_of(one))
    total = None
    for predictions in map(read_predictions, paths):
        assert predictions is not None  # a run without them counts as missing
        total = add_member(total, torch.from_numpy(predictions))
    assert total is not None
    mean = mean_of_sum(total, len(paths))
    labels = torch.from_numpy(images.test_labels)
    found = score(mean, labels)
    result = {
        "test_error_pct": found.error_pct,
        "test_loss": found.loss,
        "test_ece_pct": calibration_error_pct(mean, labels),
        "metrics": measure(ensemble, mean, labels),
        "n_averaged": sum(max(1, part.result.n_averaged or 0) for part in parts),
        "weights_sha256": None,
        "predictions_sha256": write_predictions(ensemble, mean.numpy()),
    }
    provenance = {
        "recipe_diff": spec.recipe_diff(),
        "data_sha256": images.identity().sha256,
        "device": "; ".join(sorted({part.device for part in parts})),
        "versions": hardware.versions(),
        "runs": digests,
    }
    timing = {"seconds": sum(part.timing.seconds or 0.0 for part in parts)}
    schedule_sha256 = digest({"runs": [part.schedule_sha256 for part in parts]})
    path = write_record(ensemble, schedule_sha256, result, timing, provenance)
    log.info("Recorded %s", path)
