"""The commands that read records: swa-tables, swa-figures and swa-report."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swa_bench.commands.terminal import CommandParser, command, path
from swa_bench.config.grid import paper_columns
from swa_bench.config.renames import flatten
from swa_bench.errors import SwaBenchError
from swa_bench.labels import counted, plain_recipe, recipe_text
from swa_bench.results.record import Record, read_records
from swa_bench.results.references import Reference, source

DEFAULT_RECORDS = ("results/runs", "results/shipped")
NAMES = ("dataset", "model", "method")  # each is a filter of its own
HEAD = (*NAMES, "seed", "budget", "epochs", "device", "recipe_hash")
LISTED = 12  # names in a message


@dataclass(frozen=True)
class Found:
    """What a command works on.

    Attributes:
        where: the folders of the records and the filters, in words.
        whole: data sets of which what is missing can be said; None for those that the records have.
        reference: what test errors are compared with; None for the published figures.
    """

    records: list[Record]
    where: str
    out: Path
    whole: Sequence[str] | None
    reference: Reference | None = None

    def __str__(self) -> str:
        return f"{counted(len(self.records), 'record')} from {self.where}"


def swa_tables(arguments: Sequence[str] | None = None) -> None:
    """Turn records into tables."""
    from swa_bench.reporting.tables import write_tables

    with command("swa-tables"):
        found = _parse("tables", "Turn records into tables.", arguments)
        for table in write_tables(found.records, found.out, found.whole, found.reference):
            print(table.text())
        if found.reference and found.reference.weights:
            print(_equal_weights(found.records, found.reference))
            for dataset in _with_other_images(found.records, found.reference):
                print(f"{dataset}: these records are of other images than the reference.")
        print(f"{found}; tables in {found.out}/ as .txt .md .csv .tex")


def swa_figures(arguments: Sequence[str] | None = None) -> None:
    """Draw figures from records."""
    from swa_bench.reporting.figures import write_figures

    with command("swa-figures"):
        found = _parse("figures", "Draw figures from records.", arguments)
        paths = write_figures(found.records, found.out)
        for figure in paths:
            print(figure)
        if not paths:
            print(f"No runs in {found.where}: nothing to draw.")


def swa_report(arguments: Sequence[str] | None = None) -> None:
    """Turn records into one page."""
    from swa_bench.reporting.page import write_report

    with command("swa-report"):
        found = _parse("report", "Turn records into one page.", arguments)
        page = write_report(found.records, found.where, found.out, found.whole)
        print(f"{found}; report in {page}, figures beside it")


def _parse(kind: str, description: str, arguments: Sequence[str] | None) -> Found:
    """The records of --records that the filters leave, and --out."""
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
    for name in NAMES:
        parser.add_argument(f"--{name}", nargs="+", default=[], metavar="NAME", help="only these")
    where_help = "only records with these options, such as precision=bf16 model.swa_start=12"
    parser.add_argument(
        "--where", nargs="+", default=[], metavar="OPTION=VALUE", type=_option, help=where_help
    )
    if kind == "tables":
        against_help = (
            "compare with these figures instead of the published ones: a source_id of "
            "results/published/sources.csv, or a folder with records"
        )
        parser.add_argument("--against", metavar="SOURCE", help=against_help)
    logging.basicConfig(format="%(message)s")
    given = parser.parse_args(arguments)
    against = getattr(given, "against", None)
    reference = _reference(against) if against else None
    wanted: dict[str, list[str]] = {name: getattr(given, name) for name in NAMES}
    for name, value in given.where:  # an option that is given twice may have either value
        wanted.setdefault(name, []).append(value)
    wanted = {name: values for name, values in wanted.items() if values}
    records, where = _find_records(given.records)
    said = " ".join(f"{name}={','.join(values)}" for name, values in wanted.items())
    where = f"{where} with {said}" if said else where
    asked = wanted.get("dataset", [])
    of_paper = [*wanted] == ["dataset"] and all(map(paper_columns, asked))
    if of_paper and not any(record.dataset in asked for record in records):
        return Found([], where, given.out, asked, reference)  # the figures of the reference alone
    left = _filtered(records, wanted) if records else []
    if reference:
        _check_comparable(left, reference, f"--against {against}")
    return Found(left, where, given.out, () if wanted else None, reference)


def _reference(against: str) -> Reference:
    """What --against names; statistics takes a moment to import."""
    from swa_bench.results.statistics import of_records

    folder = Path(against).expanduser()
    if not folder.is_dir():
        return source(against)
    if not (records := read_records([folder])):
        raise SwaBenchError(f"--against {against}: no records there")
    return of_records(records, against)


def _check_comparable(records: Sequence[Record], reference: Reference, what: str) -> None:
    """Refuse a comparison of which there would be nothing to see."""
    cells = [one.cell for one in records]
    if not any(reference.figure(one.cell, one.recipe) for one in records):
        there = dict.fromkeys(" ".join(key[:2]) for key in reference.cells())
        has = f"it has {_listed(list(there))}"
        if same := set(cells) & set(reference.cells()):
            of_same = {
                recipe or "the published one" for key, recipe in reference.figures if key in same
            }
            has = f"its recipe is another: {' or '.join(sorted(of_same))}"
        raise SwaBenchError(f"{what}: nothing to compare with these records; {has}")


def _equal_weights(records: Sequence[Record], reference: Reference) -> str:
    """How many results have the weights of the reference, to the last bit."""
    ours = {one.place: one.result.weights_sha256 for one in records if one.result.weights_sha256}
    common = [place for place in ours if reference.weights.get(place)]
    equal = sum(ours[place] == reference.weights[place] for place in common)
    return f"Weights equal to those of the reference, to the last bit: {equal} of {len(common)}"


def _with_other_images(records: Sequence[Record], reference: Reference) -> list[str]:
    """The data sets of which a cell and the reference's same cell have other images."""
    found = set[str]()
    for record in records:
        theirs = reference.images.get((record.cell, plain_recipe(record.recipe)))
        if theirs and record.data_sha256 and record.data_sha256 not in theirs:
            found.add(record.dataset)
    return sorted(found)


def _option(text: str) -> tuple[str, str]:
    """The type of OPTION=VALUE."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text} is not OPTION=VALUE, such as precision=bf16")
    return name, value


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


def _filtered(records: Sequence[Record], wanted: Mapping[str, Sequence[str]]) -> list[Record]:
    """The records whose options all have one of the wanted values; each value leaves some."""
    found = [(record, _options(record)) for record in records]
    for name, texts in wanted.items():
        flag = f"--{name} " if name in NAMES else f"--where {name}="
        if not any(name in options for _, options in found):
            raise SwaBenchError(f"{flag}{texts[0]}: no record has this option; {_differing(found)}")
        values = [options.get(name) for _, options in found]
        for text in texts:
            if not any(_same(value, text) for value in values):
                there = _listed(sorted({_text(value) for value in values}))
                after = " that the filters before leave" if len(found) < len(records) else ""
                raise SwaBenchError(f"{flag}{text}: of no record{after}; there are: {there}")
        found = [
            pair
            for pair, value in zip(found, values, strict=True)
            if any(_same(value, text) for text in texts)
        ]
    return [record for record, _ in found]


def _options(record: Record) -> dict[str, Any]:
    """All that a record can be filtered by."""
    head = {name: getattr(record, name) for name in HEAD}
    return flatten(record.config) | record.recipe_diff | head


def _differing(found: Sequence[tuple[Record, Mapping[str, Any]]]) -> str:
    """The options in which records differ, those of their recipes first."""
    names = dict.fromkeys(name for record, _ in found for name in record.recipe_diff)
    names |= dict.fromkeys(name for _, options in found for name in options)
    differing = [name for name in names if len({_text(of.get(name)) for _, of in found}) > 1]
    return f"they differ in: {_listed(differing) or 'none'}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _same(value: Any, text: str) -> bool:
    """Whether an option has a value that was typed: the same number or the same text."""
    try:
        return float(value) == float(text)
    except (TypeError, ValueError, OverflowError):
        return _text(value) == text


def _text(value: Any) -> str:
    """A value as it is typed."""
    return "null" if value is None else recipe_text({"": value})[1:]
