"""The command swa-width: measure around the weights of SGD and SWA, and draw what was measured."""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swa_bench.commands.export import device_option, prepare, trust_options
from swa_bench.commands.terminal import CommandParser, command, path
from swa_bench.files import check_writable
from swa_bench.results.reach import check_level, describe, start_errors
from swa_bench.results.widths import ends, read_width

PARTS = ("rays", "line", "plane")


def swa_width(arguments: Sequence[str] | None = None) -> None:
    """The command swa-width."""
    with command("swa-width"):
        options = _parser().parse_args(arguments)
        prepare(options.trust)
        if options.redraw:
            found = read_width(options.redraw)
            if "rays" in found:
                starts = start_errors(found["rays"]).values()
                check_level(options.level, dict(zip(ends(found), starts, strict=True)))
            folder = options.out or options.redraw.parent
        else:
            options.out = options.out or Path("results/width")
            check_writable("--out", options.out)
            from swa_bench.analysis.width import measure  # torch takes seconds to import

            path, found = measure(options)
            folder = path.parent
            print(path)
        for line in describe(found, options.level):
            print(line)
        from swa_bench.reporting.width_figures import write_figures

        for file in write_figures(found, folder, options.level):
            print(file)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "swa-width",
        description="Measure loss and error around the weights of SGD and SWA, and draw them.",
    )

    def add(*names: str, help: str, **options: Any) -> None:
        help += " (%(default)s)" * isinstance(options.get("default"), int | float)
        parser.add_argument(*names, help=help, **options)

    record = functools.partial(add, type=path, metavar="CELL.json")
    add(
        "folder",
        type=path,
        nargs="?",
        default=Path("results/runs"),
        help="with one net's runs (%(default)s)",
    )
    add("--seed", type=int, default=0, help="of the SGD and the SWA run")
    record("--sgd", help="instead of the folder's own")
    record("--swa", help="instead of the folder's own of the largest budget")
    record("--third", help="third network of the plane, instead of SWA's last weights")
    record("--members", help="plane through three of the weights that this run collected")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured; else all")
    add("--directions", type=_from(1), default=10, help="number of rays")
    add("--direction-seed", type=_from(0), default=0, help="from which the rays are drawn")
    add("--distance", type=_positive, default=100.0, help="of the farthest point of a ray")
    add("--steps", type=_from(1), default=20, help="points on a ray")
    add("--line-points", type=_from(2), default=31, help="points on the line, from t = -1 to 2")
    add("--grid", type=_from(2), default=21, help="points of the plane on each side")
    add("--margin", type=_positive, default=0.75, help="around the plane, in extents of its points")
    add("--images", type=_from(2), default=10000, help="training images of the pass at each point")
    add("--level", type=float, metavar="PCT", help="test error; else 10 points above SGD's own")
    device_option(parser)
    trust_options(parser)
    out = "folder of the records and figures, results/width; with --redraw, of the figures, "
    add("--out", type=path, help=out + "that of the record")
    add("--force", action="store_true", help="measure again, and replace the record")
    redraw = "draw the figures of a record again, also for another --level, and measure nothing"
    add("--redraw", type=path, metavar="width.json", help=redraw)
    return parser


def _from(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not {least} or more")
        return int(text)

    return count


def _positive(text: str) -> float:
    if not 0 < float(text) <= 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number up to 1e9")
    return float(text)
