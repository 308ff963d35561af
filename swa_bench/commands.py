"""What the commands that read records share: their options, the records, errors in one line."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from swa_bench.errors import SwaBenchError
from swa_bench.results.record import Record, read_cells

DEFAULT_RECORDS = ("results/runs", "results/shipped")


def find_records(folders: Sequence[str]) -> tuple[list[Record], str]:
    """Records of the folders, or of the first default folder that has some, and where they are.

    Own and shipped records are never mixed unless both folders are named.
    """
    if folders:
        for folder in folders:
            if not Path(folder).is_dir():
                raise SwaBenchError(f"--records {folder}: no such folder")
        return read_cells(map(Path, folders)), ", ".join(folders)
    for folder in DEFAULT_RECORDS:
        records = read_cells([Path(folder)])
        if records:
            return records, folder
    return [], " or ".join(DEFAULT_RECORDS)


def records_options(
    command: str, description: str, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Options of a command that reads records: --records, and --out named after it."""
    kind = command.removeprefix("swa-")
    parser = argparse.ArgumentParser(command, description=description)
    parser.add_argument(
        "--records",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders with records; by default results/runs, or results/shipped if that has none",
    )
    parser.add_argument(
        "--out", default=f"results/{kind}", help=f"folder of the {kind} (%(default)s)"
    )
    logging.basicConfig(format="%(message)s")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def errors_in_one_line(command: str) -> Iterator[None]:
    """End the command with a line instead of a traceback."""
    try:
        yield
    except SwaBenchError as error:
        sys.exit(f"{command}: {error}")
