"""The commands that read records: swa-tables, swa-figures and swa-report."""

import logging
from collections.abc import Sequence
from pathlib import Path

from swa_bench.commands.terminal import CommandParser, command, path
from swa_bench.errors import SwaBenchError
from swa_bench.results.record import Record, read_records

DEFAULT_RECORDS = ("results/runs", "results/shipped")


def swa_tables(arguments: Sequence[str] | None = None) -> None:
    """Turn records into tables."""
    from swa_bench.reporting.tables import write_tables

    with command("swa-tables"):
        records, where, out = _parse("tables", "Turn records into tables.", arguments)
        for table in write_tables(records, out):
            print(table.text())
        print(f"{len(records)} records from {where}; tables in {out}/ as .txt .md .csv .tex")


def swa_figures(arguments: Sequence[str] | None = None) -> None:
    """Draw figures from records."""
    from swa_bench.reporting.figures import write_figures

    with command("swa-figures"):
        records, where, out = _parse("figures", "Draw figures from records.", arguments)
        paths = write_figures(records, out)
        for figure in paths:
            print(figure)
        if not paths:
            print(f"No runs in {where}: nothing to draw.")


def swa_report(arguments: Sequence[str] | None = None) -> None:
    """Turn records into one page."""
    from swa_bench.reporting.page import write_report

    with command("swa-report"):
        records, where, out = _parse("report", "Turn records into one page.", arguments)
        page = write_report(records, where, out)
        print(f"{len(records)} records from {where}; report in {page}, figures beside it")


def _parse(
    kind: str, description: str, arguments: Sequence[str] | None
) -> tuple[list[Record], str, Path]:
    """The records of --records, where they are, and --out.

    Raises:
        SwaBenchError: no such folder.
    """
    parser = CommandParser(f"swa-{kind}", description=description)
    parser.add_argument(
        "--records",
        nargs="+",
        type=path,
        default=[],
        metavar="FOLDER",
        help="folders with records; by default results/runs, or results/shipped if that has none",
    )
    out_help = f"folder of the {kind} (%(default)s)"
    parser.add_argument("--out", type=path, default=Path(f"results/{kind}"), help=out_help)
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
