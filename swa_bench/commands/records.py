"""The commands that read records: swa-tables, swa-figures and swa-report."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from swa_bench.errors import SwaBenchError
from swa_bench.results.record import Record, read_records

DEFAULT_RECORDS = ("results/runs", "results/shipped")


@contextlib.contextmanager
def errors_in_one_line(command: str) -> Iterator[None]:
    """End the command with a line instead of a traceback."""
    try:
        yield
    except SwaBenchError as error:
        sys.exit(f"{command}: {error}")


def swa_tables(arguments: Sequence[str] | None = None) -> None:
    """Turn records into tables."""
    from swa_bench.reporting.tables import write_tables

    with errors_in_one_line("swa-tables"):
        records, where, out = _parse("tables", "Turn records into tables.", arguments)
        tables = write_tables(records, out)
    for table in tables:
        print(table.text())
    print(f"{len(records)} records from {where}; tables in {out}/ as .txt .md .csv .tex")


def swa_figures(arguments: Sequence[str] | None = None) -> None:
    """Draw figures from records."""
    from swa_bench.reporting.figures import write_figures

    with errors_in_one_line("swa-figures"):
        records, where, out = _parse("figures", "Draw figures from records.", arguments)
        paths = write_figures(records, out)
    for path in paths:
        print(path)
    if not paths:
        print(f"No runs in {where}: nothing to draw.")


def swa_report(arguments: Sequence[str] | None = None) -> None:
    """Turn records into one page."""
    from swa_bench.reporting.page import write_report

    with errors_in_one_line("swa-report"):
        records, where, out = _parse("report", "Turn records into one page.", arguments)
        path = write_report(records, where, out)
    print(f"{len(records)} records from {where}; report in {path}, figures beside it")


def _parse(
    kind: str, description: str, arguments: Sequence[str] | None
) -> tuple[list[Record], str, Path]:
    """The records of --records, where they are, and --out.

    Raises:
        SwaBenchError: no such folder.
    """
    parser = argparse.ArgumentParser(f"swa-{kind}", description=description)
    parser.add_argument(
        "--records",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="folders with records; by default results/runs, or results/shipped if that has none",
    )
    out_help = f"folder of the {kind} (%(default)s)"
    parser.add_argument("--out", type=Path, default=Path(f"results/{kind}"), help=out_help)
    logging.basicConfig(format="%(message)s")
    options = parser.parse_args(arguments)
    return *_find_records(options.records), options.out


def _find_records(folders: Sequence[Path]) -> tuple[list[Record], str]:
    """Records of the folders, or of the first default folder that has some, and where they are.

    The user's and the shipped records are never mixed unless both folders are named.
    """
    for folder in folders:
        if not folder.is_dir():
            raise SwaBenchError(f"--records {folder}: no such folder")
    if folders:
        return read_records(folders), ", ".join(map(str, folders))
    for default in DEFAULT_RECORDS:
        if records := read_records([Path(default)]):
            return records, default
    return [], " or ".join(DEFAULT_RECORDS)
