"""How wide the optima of SGD and SWA are (paper, section 3.4): choosing and measuring networks.

Rays in random directions from both, the line between them, and a plane through three networks.
"""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swa_bench.analysis import landscape
from swa_bench.analysis.restore import Restored, User, recorded_config, restore
from swa_bench.config.plan import collects
from swa_bench.errors import SwaBenchError
from swa_bench.results.record import Record, read_record, read_records
from swa_bench.results.widths import FORMAT, reach
from swa_bench.training import hardware


@dataclass(frozen=True)
class NetworkRef:
    """A network that takes part: the record it is of, and which of its states."""

    label: str
    path: Path
    epoch: int | None = None


def _user(options: Namespace) -> User:
    return User(options.device, options.data, options.trust)


def choose(options: Namespace) -> tuple[list[NetworkRef], list[NetworkRef]]:
    """The networks of SGD and SWA, and the three of the plane.

    Raises:
        SwaBenchError: the folder has no such runs.
    """
    if not (options.sgd and options.swa) and not options.folder.is_dir():
        raise SwaBenchError(f"{options.folder}: no such folder")
    found = read_records([options.folder])
    own = [record for record in found if record.seed == options.seed]
    sgd: Path = options.sgd or _only(own, "sgd", options)
    swa: Path = options.swa or _only(own, "swa", options)
    pair = [NetworkRef("SGD", sgd), NetworkRef("SWA", swa)]
    if options.members:
        return pair, _members(options)
    if options.third:
        return pair, [*pair, NetworkRef("third", options.third)]
    epochs = recorded_config(_record(swa, "--swa"), _user(options)).epochs
    return pair, [*pair, NetworkRef("last of the SWA run", swa, epochs)]


def _record(path: Path, option: str) -> Record:
    record = read_record(path)
    if record is None:
        raise SwaBenchError(f"{option} {path}: no sound record is there; name a cell-*.json")
    return record


def _only(found: list[Record], method: str, options: Namespace) -> Path:
    """A method's record of the largest budget; of one recipe, or the user must say which."""
    of_method = [record for record in found if record.method == method]
    if method == "sgd":  # the baseline of the paper has one budget
        of_method = [record for record in of_method if record.budget == 1]
    if len({record.recipe_hash for record in of_method}) != 1:
        what = "several recipes" if of_method else "no record"
        raise SwaBenchError(
            f"{options.folder}: {what} of {method}, seed {options.seed}: name one cell-*.json with "
            f"--{method}, or the folder of a data set and model, such as results/runs/cifar10/vgg16"
        )
    return max(of_method, key=lambda record: record.budget).path


def _members(options: Namespace) -> list[NetworkRef]:
    """The first, the middle and the last of the weights that a run collected."""
    path: Path = options.members
    config = recorded_config(_record(path, "--members"), _user(options))
    epochs = [e + 1 for e in range(config.epochs) if collects(config.method, e)]
    if len(epochs) < 3:
        raise SwaBenchError(f"--members {path}: it collected fewer than three weights")
    three = (epochs[0], epochs[len(epochs) // 2], epochs[-1])
    return [NetworkRef(f"epoch {epoch}", path, epoch) for epoch in three]


def measure(options: Namespace) -> dict[str, Any]:
    """Measure the parts that are asked for; return the record of all numbers.

    Args:
        options: see commands/width.py, which describes each.

    Raises:
        SwaBenchError: a network cannot be restored, or they do not go together.
    """
    pair, three = choose(options)
    wanted = [*pair, *(three if "plane" in options.parts else [])]
    nets = {ref: restore(ref.path, _user(options), ref.epoch) for ref in dict.fromkeys(wanted)}
    if len({(net.record.model, net.record.data_sha256) for net in nets.values()}) > 1:
        raise SwaBenchError("These records are not all of one network and data set")
    weights = {ref: landscape.flat(net.model) for ref, net in nets.items()}
    sgd, swa = (weights[ref] for ref in pair)
    probe = landscape.Probe(nets[pair[0]], options.images)
    found = _provenance(options, nets)
    if "rays" in options.parts:
        distances = np.linspace(0.0, options.distance, options.steps + 1)
        of = (options.directions, options.direction_seed)
        rays = {
            "distances": distances.tolist(),
            "sgd": landscape.rays(probe, sgd, distances, *of, "rays from SGD"),
            "swa": landscape.rays(probe, swa, distances, *of, "rays from SWA"),
        }
        found["rays"] = rays | {"reach": reach(rays, options.level)}
    if "line" in options.parts:
        found["line"] = landscape.line(probe, sgd, swa, np.linspace(-1, 2, options.line_points))
    if "plane" in options.parts:
        labels = [ref.label for ref in three]
        points = [weights[ref] for ref in three]
        try:
            plane = landscape.plane(probe, points, options.margin, options.grid)
        except ValueError as error:
            raise SwaBenchError(f"No plane of {', '.join(labels)}: {error}") from error
        found["plane"] = plane | {"labels": labels}
    return found


def _provenance(options: Namespace, nets: dict[NetworkRef, Restored]) -> dict[str, Any]:
    first = next(iter(nets.values()))
    return {
        "format": FORMAT,
        "dataset": first.record.dataset,
        "model": first.record.model,
        "recipe_diff": first.record.recipe_diff,
        "precision": first.config.precision,
        "weight_decay": first.config.optimizer.get("weight_decay", 0.0),
        "images": min(options.images, len(first.data.train_labels)),
        "direction_seed": options.direction_seed,
        "networks": [
            {
                "label": ref.label,
                "epoch": ref.epoch,
                "method": net.record.method,
                "budget": net.record.budget,
                "seed": net.record.seed,
                "recipe_hash": net.record.recipe_hash,
                "test_error_pct": net.record.result.test_error_pct,
                "weights_sha256": net.record.result.weights_sha256,
            }
            for ref, net in nets.items()
        ],
        "device": hardware.device_name(first.data.device),
        "versions": hardware.versions(),
    }
