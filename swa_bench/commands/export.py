"""The commands swa-export and swa-evaluate: a recorded network as one file, and testing it."""

import argparse
import logging
from collections.abc import Sequence

from swa_bench.commands.terminal import command, path
from swa_bench.config.spec import register_resolvers


def device_option(parser: argparse.ArgumentParser) -> None:
    """Add --device; by default a GPU if there is one."""
    choices = ("auto", "cpu", "cuda")
    parser.add_argument("--device", choices=choices, default="auto", help="(%(default)s)")


def prepare() -> None:
    """Log plain lines, and find the user's own networks as swa-train does."""
    logging.basicConfig(format="%(message)s")
    register_resolvers()


def swa_export(arguments: Sequence[str] | None = None) -> None:
    """The command swa-export."""
    parser = argparse.ArgumentParser(
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
    with command("swa-export"):
        options = parser.parse_args(arguments)
        prepare()
        from swa_bench.analysis.export import check_out, export  # torch takes seconds to import

        check_out(options.out, options.force)
        record = export(options.record, options.out, options.device, options.epoch)
        size = options.out.stat().st_size / 1e6
        what = f"{record.model} {record.method} on {record.dataset}, seed {record.seed}"
        print(f"{options.out}: {what}, {size:.1f} MB")


def swa_evaluate(arguments: Sequence[str] | None = None) -> None:
    """The command swa-evaluate."""
    parser = argparse.ArgumentParser(
        "swa-evaluate", description="Test an exported network on the test images of its data set."
    )
    parser.add_argument("file", type=path, metavar="FILE.safetensors")
    device_option(parser)
    with command("swa-evaluate"):
        options = parser.parse_args(arguments)
        prepare()
        from swa_bench.analysis.export import evaluate, read_exported

        score, ece_pct = evaluate(options.file, options.device)
        exported = read_exported(options.file)
        print(f"test error {score.error_pct:.2f} %, loss {score.loss:.4f}, ECE {ece_pct:.2f} %")
        if exported.epoch is None:
            result = exported.record.result
            print(
                f"its record: {result.test_error_pct:.2f} %, loss {result.test_loss:.4f}, "
                f"ECE {result.test_ece_pct:.2f} % ({exported.record.device})"
            )
