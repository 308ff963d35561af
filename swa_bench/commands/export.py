"""The commands swa-export and swa-evaluate: a recorded network as one file, and testing it."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from swa_bench.commands.terminal import CommandParser, command, path
from swa_bench.config.spec import import_from_here
from swa_bench.errors import SwaBenchError


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
    what = "record, or folder of a run; of several, the message says what differs among them"
    parser.add_argument("records", type=path, nargs="+", metavar="CELL.json", help=what)
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
        record = export(_only(options.records), options.out, user, options.epoch)
        size = options.out.stat().st_size / 1e6
        what = f"{record.model} {record.method} {record.budget:g} on {record.dataset}"
        what += f", seed {record.seed}"
        print(f"{options.out}: {what}, {size:.1f} MB")


def _only(paths: Sequence[Path]) -> Path:
    """The record that is meant by files, or folders with records; an error if several are."""
    if len(paths) == 1 and not paths[0].is_dir():
        return paths[0]  # whatever it is, `export` says what is wrong with it
    from swa_bench.results.choice import only
    from swa_bench.results.record import read_record, read_records

    files = [record for path in paths if path.is_file() if (record := read_record(path))]
    found = files + read_records([path for path in paths if path.is_dir()])
    named = ", ".join(map(str, paths))
    if not found:
        raise SwaBenchError(f"{named}: no sound record is there; name a cell-*.json")
    return only(found, "records of several runs fit: name one").path


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
