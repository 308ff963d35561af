"""The command swa-width: measure around the weights of SGD and SWA, and draw what was measured."""

import argparse
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from swa_bench.commands.export import device_option, prepare, trust_options
from swa_bench.commands.terminal import CommandParser, command, path
from swa_bench.files import check_writable, write_atomically
from swa_bench.results.widths import describe, read_width

PARTS = ("rays", "line", "plane")


def swa_width(arguments: Sequence[str] | None = None) -> None:
    """The command swa-width."""
    with command("swa-width"):
        options = _parser().parse_args(arguments)
        prepare(options.trust)
        check_writable("--out", options.out)
        if options.redraw:
            found = read_width(options.redraw)
        else:
            from swa_bench.analysis.width import measure  # torch takes seconds to import

            found = measure(options)
        seed = found["networks"][0]["seed"]
        folder = options.out / f"{found['dataset']}-{found['model']}-seed{seed}"
        text = json.dumps(found, allow_nan=False) + "\n"
        write_atomically(folder / "width.json", text.encode())
        from swa_bench.reporting.width_figures import write_figures

        paths = write_figures(found, folder)
        for line in describe(found):
            print(line)
        for file in [folder / "width.json", *paths]:
            print(file)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "swa-width",
        description="Measure loss and error around the weights of SGD and SWA, and draw them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    record = functools.partial(add, type=path, metavar="CELL.json")
    add("folder", type=path, nargs="?", default=Path("results/runs"), help="with one net's runs")
    add("--seed", type=int, default=0, help="of the SGD and the SWA run")
    record("--sgd", help="instead of the folder's own")
    record("--swa", help="instead of the folder's own of the largest budget")
    record("--third", help="third network of the plane, instead of SWA's last weights")
    record("--members", help="plane through three of the weights that this run collected")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    add("--directions", type=_from(1), default=10, help="number of rays")
    add("--direction-seed", type=int, default=0, help="from which the rays are drawn")
    add("--distance", type=_positive, default=100.0, help="of the farthest point of a ray")
    add("--steps", type=_from(1), default=20, help="points on a ray")
    add("--line-points", type=_from(2), default=31, help="points on the line, from t = -1 to 2")
    add("--grid", type=_from(2), default=21, help="points of the plane on each side")
    add("--margin", type=float, default=0.4, help="around the plane, in extents of its points")
    add("--images", type=_from(1), default=10000, help="training images of the pass at each point")
    add("--level", type=float, metavar="PCT", help="test error; else 10 points above SGD's own")
    device_option(parser)
    trust_options(parser)
    add("--out", type=path, default=Path("results/width"), help="folder of the record and figures")
    add("--redraw", type=path, metavar="width.json", help="only draw a record's figures again")
    return parser


def _from(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not {least} or more")
        return int(text)

    return count


def _positive(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return float(text)
