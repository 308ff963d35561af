"""Which of several records is meant: one of a single run, or what tells the candidates apart."""

from collections.abc import Iterable, Sequence
from typing import Any

from swa_bench.config.renames import lookup
from swa_bench.errors import SwaBenchError
from swa_bench.labels import recipe_text
from swa_bench.results.record import Record
from swa_bench.text import printable

MOST = 20  # candidates that are listed


def only(records: Iterable[Record], what: str) -> Record:
    """The record of the largest budget of one run; SwaBenchError begins with `what` for several."""
    last: dict[Any, Record] = {}
    for record in sorted(records, key=lambda record: record.budget):
        last[record.folder] = record
    if len(last) > 1:
        raise SwaBenchError(f"{what}\n{listed(sorted(last.values(), key=lambda r: r.path))}")
    return next(iter(last.values()))


def listed(records: Sequence[Record]) -> str:
    """A line for each record: its path, and the options in which it differs from the others."""
    lines = []
    for record, differing in zip(records, differences(records), strict=True):
        lines.append(f"  {record.path}" + f"  {recipe_text(differing)}" * bool(differing))
    if len(lines) > MOST:
        lines[MOST:] = [f"  and {len(lines) - MOST} more"]
    return "\n".join(printable(line) for line in lines)


def differences(records: Sequence[Record]) -> list[dict[str, Any]]:
    """For each record, {option: value} of all options in which they are not all alike."""
    heads = ("dataset", "model", "method", "seed")
    recipe = {name for record in records for name in record.recipe_diff} | {"precision"}
    found = [
        {name: getattr(record, name) for name in heads}
        | {name: record.recipe_diff.get(name, _option(record, name)) for name in recipe}
        | {"budget": f"{record.budget:g}", "data_sha256": (record.data_sha256 or "")[:12]}
        for record in records
    ]
    same = {name for name in found[0] if all(one[name] == found[0][name] for one in found)}
    return [{name: one[name] for name in one if name not in same} for one in found]


def _option(record: Record, name: str) -> Any:
    """The value of an option such as model.learning_rate, as far as the record says."""
    value = lookup(record.config, name)
    return "as published" if value is None else value
