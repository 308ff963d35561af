"""The commands swa-export and swa-evaluate: a recorded network as one file, and testing it."""

import argparse
import logging
from collections.abc import Sequence

from swa_bench.commands.terminal import CommandParser, command, path
from swa_bench.config.spec import import_from_here


def device_option(parser: argparse.ArgumentParser) -> None:
    """Add --device; by default a GPU if there is one."""
    choices = ("auto", "cpu", "cuda")
    parser.add_argument("--device", choices=choices, default="auto", help="(%(default)s)")


def trust_options(parser: argparse.ArgumentParser) -> None:
    """Add what a record does not decide: --data and --trust."""
    data = "folder of the data sets; by default that of swa-train, whatever the record says"
    parser.add_argument("--data", metavar="ROOT", help=data)
    trust = "run code that the record names, such as a network of your own in this folder"
    parser.add_argument("--trust", action="store_true", help=trust)


def prepare(trust: bool) -> None:
    """Log plain lines; find the user's own networks as swa-train does, if they may run."""
    logging.basicConfig(format="%(message)s")
    if trust:
        import_from_here()


def swa_export(arguments: Sequence[str] | None = None) -> None:
    """The command swa-export."""
    parser = CommandParser(
        "swa-export",
        description="Write the final weights of a recorded run, with its record, as safetensors.",
    )
    parser.add_argument("record", type=path, metavar="CELL.json")
    parser.add_argument("out", type=path, metavar="OUT.safetensors")
    parser.add_argument(
        "--epoch", type=int, help="the weights after this epoch, not the final ones"
    )
    parser.add_argument("--force", action="store_true", help="overwrite an export that is there")
    device_option(parser)
    trust_options(parser)
    with command("swa-export"):
        options = parser.parse_args(arguments)
        prepare(options.trust)
        from swa_bench.analysis.export import check_out, export  # torch takes seconds to import
        from swa_bench.analysis.restore import User

        check_out(options.out, options.force)
        user = User(options.device, options.data, options.trust)
        record = export(options.record, options.out, user, options.epoch)
        size = options.out.stat().st_size / 1e6
        what = f"{record.model} {record.method} on {record.dataset}, seed {record.seed}"
        print(f"{options.out}: {what}, {size:.1f} MB")


def swa_evaluate(arguments: Sequence[str] | None = None) -> None:
    """The command swa-evaluate."""
    parser = CommandParser(
        "swa-evaluate", description="Test an exported network on the test images of its data set."
    )
    parser.add_argument("file", type=path, metavar="FILE.safetensors")
    device_option(parser)
    trust_options(parser)
    with command("swa-evaluate"):
        options = parser.parse_args(arguments)
        prepare(options.trust)
        from swa_bench.analysis.export import evaluate
        from swa_bench.analysis.restore import User

        user = User(options.device, options.data, options.trust)
        score, ece_pct, exported = evaluate(options.file, user)
        print(f"test error {score.error_pct:.2f} %, loss {score.loss:.4f}, ECE {ece_pct:.2f} %")
        if exported.epoch is None:
            result = exported.record.result
            known = f"{result.test_error_pct:.2f} %"
            if result.test_loss is not None:
                known += f", loss {result.test_loss:.4f}"
            if result.test_ece_pct is not None:
                known += f", ECE {result.test_ece_pct:.2f} %"
            print(f"its record: {known} ({exported.record.device})")
