"""The command swa-width: how wide the optima of SGD and SWA are (paper, section 3.4).

Rays in random directions from both, the line between them, and a plane through three networks.
"""

import argparse
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swa_bench.commands import errors_in_one_line
from swa_bench.config import schema as configs
from swa_bench.config.schema import Combine, Device
from swa_bench.errors import SwaBenchError
from swa_bench.files import check_writable, write_atomically
from swa_bench.results import record as records
from swa_bench.results.reach import reach, told
from swa_bench.results.record import Record

if TYPE_CHECKING:
    from swa_bench.analysis.restore import Restored

FORMAT = 1
PARTS = ("rays", "line", "plane")


@dataclass(frozen=True)
class Chosen:
    """A network that takes part: the record it is of, and which of its states."""

    label: str
    path: Path
    epoch: int | None = None


def choose(options: argparse.Namespace) -> tuple[list[Chosen], list[Chosen]]:
    """The networks of SGD and SWA, and the three of the plane.

    Raises:
        SwaBenchError: the folder has no such runs.
    """
    if not (options.sgd and options.swa) and not options.folder.is_dir():
        raise SwaBenchError(f"{options.folder}: no such folder")
    found = records.read_cells([options.folder])
    own = [record for record in found if record["seed"] == options.seed]
    sgd = options.sgd or _only(own, "sgd", options)
    swa = options.swa or _only(own, "swa", options)
    pair = [Chosen("SGD", sgd), Chosen("SWA", swa)]
    if options.members:
        return pair, _members(options.members)
    if options.third:
        return pair, [*pair, Chosen("third", options.third)]
    epochs = _record(swa, "--swa")["epochs"]
    return pair, [*pair, Chosen("last of the SWA run", swa, epochs)]


def _record(path: Path, option: str) -> Record:
    record = records.read_cell(path)
    if record is None:
        raise SwaBenchError(f"{option} {path}: no sound record is there; name a cell-*.json")
    return record


def _only(found: list[Record], method: str, options: argparse.Namespace) -> Path:
    """The record of the longest cell of a method; of one identity, or the user must say which."""
    of_method = [record for record in found if record["method"] == method]
    if method == "sgd":  # the baseline of the paper has one budget
        of_method = [record for record in of_method if record["budget"] == 1]
    if len({record["identity"] for record in of_method}) != 1:
        what = "several recipes" if of_method else "no record"
        raise SwaBenchError(
            f"{options.folder}: {what} of {method}, seed {options.seed}: name one cell-*.json with "
            f"--{method}, or the folder of a data set and model, such as results/runs/cifar10/vgg16"
        )
    path: Path = max(of_method, key=lambda record: float(record["budget"]))["path"]
    return path


def _members(path: Path) -> list[Chosen]:
    """The first, the middle and the last copy of a collecting run."""
    from swa_bench.config.plan import collects

    record = _record(path, "--members")
    config = configs.from_plain(record["config"])
    epochs = [e + 1 for e in range(config.epochs) if collects(config.method, e)]
    if config.method.combine is Combine.none or len(epochs) < 3:
        raise SwaBenchError(f"--members {path}: it has fewer than three copies of its weights")
    three = (epochs[0], epochs[len(epochs) // 2], epochs[-1])
    return [Chosen(f"epoch {epoch}", path, epoch) for epoch in three]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that are asked for; return the record of all numbers.

    Raises:
        SwaBenchError: a network cannot be restored, or they do not go together.
    """
    from swa_bench.analysis import landscape
    from swa_bench.analysis.restore import restore
    from swa_bench.training import hardware as device

    pair, three = choose(options)
    wanted = [*pair, *(three if "plane" in options.parts else [])]
    nets = {one: restore(one.path, options.device, one.epoch) for one in dict.fromkeys(wanted)}
    _check_same_shape(nets)
    weights = {one: landscape.flat(net.model) for one, net in nets.items()}
    sgd, swa = (weights[one] for one in pair)
    probe = landscape.Probe(nets[pair[0]], options.images)
    found = _provenance(options, nets)
    found["device"] = device.device_name(sgd.device)
    found["versions"] = device.versions() | records.code_version()
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
        try:
            points = [weights[one] for one in three]
            found["plane"] = landscape.plane(probe, points, options.margin, options.grid)
        except ValueError as error:
            raise SwaBenchError(
                f"No plane of {', '.join(o.label for o in three)}: {error}"
            ) from error
        found["plane"]["labels"] = [one.label for one in three]
    return found


def _check_same_shape(nets: dict[Chosen, "Restored"]) -> None:
    """All must be the same network on the same data."""
    kinds = {(net.record["model"], net.record["data_sha256"]) for net in nets.values()}
    if len(kinds) > 1:
        raise SwaBenchError("These records are not all of one network and data set")


def _provenance(options: argparse.Namespace, nets: dict[Chosen, "Restored"]) -> dict[str, Any]:
    first = next(iter(nets.values()))
    names = ("method", "budget", "seed", "identity")
    return {
        "format": FORMAT,
        "dataset": first.record["dataset"],
        "model": first.record["model"],
        "variant": first.record["variant"],
        "precision": first.config.precision.value,
        "weight_decay": first.config.optimizer.weight_decay,
        "images": min(options.images, len(first.data.train_labels)),
        "direction_seed": options.direction_seed,
        "networks": [
            {"label": one.label, "epoch": one.epoch}
            | {name: net.record[name] for name in names}
            | {name: net.record["result"][name] for name in ("test_error_pct", "weights_sha256")}
            for one, net in nets.items()
        ],
    }


def read(path: Path) -> dict[str, Any]:
    """A record that this command has written.

    Raises:
        SwaBenchError: it is not there or is damaged.
    """
    try:
        found = json.loads(path.read_bytes())
        found["networks"]
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']}, not {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SwaBenchError(f"{path} is no record of swa-width: {error}") from error
    assert isinstance(found, dict)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command swa-width."""
    options = _parse(arguments)
    logging.basicConfig(format="%(message)s")
    configs.register()
    from swa_bench.reporting.width_figures import write_figures

    with errors_in_one_line("swa-width"):
        check_writable("--out", options.out)
        found = read(options.redraw) if options.redraw else measure(options)
        seed = found["networks"][0]["seed"]
        folder = options.out / f"{found['dataset']}-{found['model']}-seed{seed}"
        text = json.dumps(found, allow_nan=False) + "\n"
        write_atomically(folder / "width.json", text.encode())
        paths = write_figures(found, folder)
    for line in told(found):
        print(line)
    for path in [folder / "width.json", *paths]:
        print(path)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "swa-width",
        description="Measure loss and error around the weights of SGD and SWA, and draw them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, nargs="?", default=Path("results/runs"), help="of the runs of one net")
    add("--seed", type=int, default=0, help="of the SGD and the SWA run")
    add("--sgd", type=Path, metavar="CELL.json", help="instead of the folder's own")
    add("--swa", type=Path, metavar="CELL.json", help="instead of the folder's longest one")
    add(
        "--third",
        type=Path,
        metavar="CELL.json",
        help="of the plane; else SWA's last weights",
    )
    add("--members", type=Path, metavar="CELL.json", help="the plane through three copies of a run")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--directions", type=_count, default=10, help="of the rays")
    add("--direction-seed", type=int, default=0, help="from which they are drawn")
    add("--distance", type=_positive, default=100.0, help="of the farthest points of a ray")
    add("--steps", type=_count, default=20, help="of a ray")
    add("--line-points", type=_at_least_2, default=31, help="from -1 to 2")
    add("--grid", type=_at_least_2, default=21, help="points of the plane on each side")
    add("--margin", type=float, default=0.4, help="of the plane, in extents of its points")
    add("--images", type=_count, default=10000, help="training images of the pass at each point")
    add("--level", type=float, metavar="PCT", help="test error; else 10 points above SGD's own")
    add("--device", type=Device, default=Device.auto, metavar="auto|cpu|cuda")
    add("--out", type=Path, default=Path("results/width"), help="folder of the record and figures")
    add("--redraw", type=Path, metavar="width.json", help="only draw a record's figures again")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _at_least_2(text: str) -> int:
    if _count(text) < 2:
        raise argparse.ArgumentTypeError(f"{text} is not 2 or more")
    return int(text)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    main()
