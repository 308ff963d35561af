"""How wide the optima of SGD and SWA are (paper, section 3.4): choosing and measuring networks.

Rays in random directions from both, the line between them, and a plane through three networks.
"""

import logging
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swa_bench.analysis import landscape
from swa_bench.analysis.restore import Restored, User, as_recorded, restore
from swa_bench.config.plan import collects
from swa_bench.errors import SwaBenchError
from swa_bench.labels import LABELS, column_label
from swa_bench.results import choice
from swa_bench.results.reach import check_level
from swa_bench.results.record import Record, read_records, sound_record
from swa_bench.results.widths import FORMAT, Width, go_on, width_path, write_width
from swa_bench.training import hardware
from swa_bench.training.faults import device_faults

log = logging.getLogger(__name__)

PARTS = {  # each with the options that it is measured with
    "rays": ("directions", "direction_seed", "distance", "steps"),
    "line": ("line_points",),
    "plane": ("margin", "grid"),
}


@dataclass(frozen=True)
class NetworkRef:
    """A network that takes part: the record it is of, and which of its states."""

    label: str
    path: Path
    epoch: int | None = None


def _user(options: Namespace) -> User:
    return User(options.device, options.data, options.trust)


def choose(options: Namespace) -> tuple[list[NetworkRef], list[NetworkRef]]:
    """The networks of SGD and SWA, and the three of the plane; SwaBenchError if one is missing."""
    if not (options.sgd and options.swa) and not options.folder.is_dir():
        raise SwaBenchError(f"{options.folder}: no such folder")
    found = read_records([options.folder])
    own = [record for record in found if record.seed == options.seed]
    sgd: Path = options.sgd or _only(own, "sgd", options)
    swa: Path = options.swa or _only(own, "swa", options)
    pair = [
        NetworkRef(label, path) for label, path in zip(_labels(sgd, swa), (sgd, swa), strict=True)
    ]
    if options.members:
        return pair, _members(options)
    if options.third:
        return pair, [*pair, NetworkRef("third", options.third)]
    epochs = as_recorded(sound_record(swa), _user(options)).epochs
    return pair, [*pair, NetworkRef(f"last of the {pair[1].label} run", swa, epochs)]


def _labels(*paths: Path) -> list[str]:
    """What networks are called: by their method and, where that is one, by its budget and seed."""
    records = list(map(sound_record, paths))
    labels = [LABELS.get(record.method, record.method) for record in records]
    if len(set(labels)) == 1:
        labels = [column_label(record.method, record.budget) for record in records]
    if len(set(labels)) == 1:
        seeds = [record.seed for record in records]
        labels = [f"{label}, seed {seed}" for label, seed in zip(labels, seeds, strict=True)]
    return labels


def _only(found: list[Record], method: str, options: Namespace) -> Path:
    """A method's record of the largest budget; of one run, or the user must say which."""
    of_method = [record for record in found if record.method == method]
    # The baseline of the paper has one budget.
    wanted = [record for record in of_method if method != "sgd" or record.budget == 1]
    name = f"name one with --{method}"
    if not wanted:
        what = f"{method}, seed {options.seed}" + ", budget 1" * (method == "sgd")
        others = f"; there are\n{choice.listed(of_method)}" if of_method else ""
        raise SwaBenchError(
            f"{options.folder}: no record of {what}: {name}, or the folder of a data set and "
            f"model, such as results/runs/cifar10/vgg16{others}"
        )
    return choice.only(wanted, f"{options.folder} has several runs of {method}: {name}").path


def _members(options: Namespace) -> list[NetworkRef]:
    """The first, the middle and the last of the weights that a run collected."""
    path: Path = options.members
    config = as_recorded(sound_record(path), _user(options))
    epochs = [e + 1 for e in range(config.epochs) if collects(config.method, e)]
    if len(epochs) < 3:
        raise SwaBenchError(f"--members {path}: it collected fewer than three weights")
    three = (epochs[0], epochs[len(epochs) // 2], epochs[-1])
    return [NetworkRef(f"epoch {epoch}", path, epoch) for epoch in three]


@device_faults("fewer --images need less, --device cpu needs no GPU")
def measure(options: Namespace) -> tuple[Path, Width]:
    """Measure the parts that are asked for and not in the record of these networks yet.

    The record is written after each part. What commands/width.py lets a user ask for is checked
    before: after a SwaBenchError nothing was measured.

    Returns:
        The file of the record, and what it holds.
    """
    pair, three = choose(options)
    records = {ref: sound_record(ref.path) for ref in dict.fromkeys([*pair, *three])}
    if "rays" in options.parts:
        own = {ref.label: records[ref].result.test_error_pct for ref in pair}
        check_level(options.level, own)
    wanted = [*pair, *(three if "plane" in options.parts else [])]
    nets: dict[NetworkRef, Restored] = {}
    for ref in dict.fromkeys(wanted):
        nets[ref] = restore(ref.path, _user(options), ref.epoch, nets.get(pair[0]))
    if any(net.config.dataset.memory == "disk" for net in nets.values()):
        raise SwaBenchError(
            "dataset.memory=disk: not for swa-width, which keeps the images of its passes in memory"
        )
    if len({(net.record.model, net.record.data_sha256) for net in nets.values()}) > 1:
        raise SwaBenchError("These records are not all of one network and data set")
    fresh = _provenance(options, nets[pair[0]], records)
    parts = {part: {name: getattr(options, name) for name in PARTS[part]} for part in options.parts}
    path = width_path(options.out, fresh)
    found = go_on(path, fresh, parts, options.force)
    tasks = _tasks(options, nets, pair, three)
    try:
        for part in parts:
            if part not in found:
                found[part] = tasks[part]() | {"options": parts[part]}
                write_width(path, found)
    except KeyboardInterrupt:
        if path.exists():
            log.warning("%s holds the parts that are done; the same command goes on.", path)
        raise
    return path, found


def _tasks(
    options: Namespace,
    nets: dict[NetworkRef, Restored],
    pair: list[NetworkRef],
    three: list[NetworkRef],
) -> dict[str, Callable[[], Width]]:
    """What measures each part."""
    weights = {ref: landscape.flat(net.model) for ref, net in nets.items()}
    if len({len(flat) for flat in weights.values()}) > 1:
        sizes = ", ".join(f"{len(flat):,} ({ref.label})" for ref, flat in weights.items())
        raise SwaBenchError(f"These networks are not of one kind: they have {sizes} parameters")
    sgd, swa = (weights[ref] for ref in pair)
    probe = landscape.Probe(nets[pair[0]], options.images)

    def rays() -> Width:
        distances = np.linspace(0.0, options.distance, options.steps + 1)
        of = (options.directions, options.direction_seed)
        return {
            "distances": distances.tolist(),
            "sgd": landscape.rays(probe, sgd, distances, *of, "rays from SGD"),
            "swa": landscape.rays(probe, swa, distances, *of, "rays from SWA"),
        }

    def line() -> Width:
        return landscape.line(probe, sgd, swa, np.linspace(-1, 2, options.line_points))

    tasks = {"rays": rays, "line": line}
    if "plane" in options.parts:
        labels = [ref.label for ref in three]
        points = [weights[ref] for ref in three]
        try:
            axes = landscape.plane_axes(points)
        except ValueError as error:
            raise SwaBenchError(
                f"No plane of {', '.join(labels)}: {error}; name a --third, or --parts rays line"
            ) from error

        def plane() -> Width:
            grid = (options.margin, options.grid)
            return landscape.plane(probe, points[0], axes, *grid) | {"labels": labels}

        tasks["plane"] = plane
    return tasks


def _provenance(options: Namespace, first: Restored, records: dict[NetworkRef, Record]) -> Width:
    return {
        "format": FORMAT,
        "dataset": first.record.dataset,
        "model": first.record.model,
        "recipe_diff": first.record.recipe_diff,
        "precision": first.config.precision,
        "weight_decay": first.config.optimizer.get("weight_decay", 0.0),
        "images": min(options.images, len(first.data.train_labels)),
        "networks": [
            {
                "label": ref.label,
                "epoch": ref.epoch,
                "method": record.method,
                "budget": record.budget,
                "seed": record.seed,
                "recipe_hash": record.recipe_hash,
                "test_error_pct": record.result.test_error_pct,
                "weights_sha256": record.result.weights_sha256,
            }
            for ref, record in records.items()
        ],
        "device": hardware.device_name(first.data.device),
        "versions": hardware.versions(),
    }
