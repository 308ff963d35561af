"""What dry_run prints: of one run a summary or its curve, of a sweep a line a job and a total."""

import csv
import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tabulate import tabulate

from swa_bench.config.plan import Plan, describe, make_plan
from swa_bench.config.spec import RunSpec
from swa_bench.labels import duration
from swa_bench.results.machine import device_names
from swa_bench.results.outlook import Outlook, look_ahead, seconds_of, total
from swa_bench.results.record import run_folder

if TYPE_CHECKING:
    from swa_bench.reporting.sweep_table import Job


def plans_of(runs: Sequence[RunSpec]) -> list[Plan]:
    """The plans of all that the runs train: members of ensembles, and seeds that train together."""
    return [make_plan(one) for spec in runs for member in spec.members() for one in member.block()]


def summary(runs: Sequence[RunSpec]) -> str:
    """What the runs of one job are, what is there already, and how long the rest takes."""
    found = _looks([plans_of([spec]) for spec in runs])
    looks = list(itertools.chain(*found))
    return "\n\n".join([*map(_section, found), *[total(looks)] * (len(looks) > 1)])


def _looks(plans: Sequence[Sequence[Plan]]) -> list[list[Outlook]]:
    """The outlook of runs that are trained one after the other, grouped as their plans are."""
    found = iter(look_ahead(itertools.chain(*plans)))
    return [list(itertools.islice(found, len(group))) for group in plans]


def _section(looks: Sequence[Outlook]) -> str:
    plans = [look.plan for look in looks]
    budgets = (f"{report.budget:g} (epoch {report.epochs})" for report in plans[0].reports)
    text = [describe(plans, device_names(plans[0].config.device))]
    text.append(f"reported budgets: {', '.join(budgets)}")
    for look in looks:
        seed = f"seed {look.plan.config.seed}: " * (len(looks) > 1)
        text += [seed + line for line in look.text().splitlines()]
        text.append(f"{seed}results: {run_folder(look.plan.config)}")
    return "\n".join(text)


def print_curve(spec: RunSpec) -> None:
    """The plan as CSV on stdout, the summary on stderr."""
    plans = plans_of([spec])
    plan = next(plan for plan in plans if plan.config.seed == spec.config.seed)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["epoch", "learning_rate", "collects", "reports_budget"])
    for epoch in range(plan.config.epochs):
        budgets = " ".join(f"{report.budget:g}" for report in plan.reports_at(epoch + 1))
        writer.writerow([epoch + 1, plan.rates(epoch)[-1], int(plan.collects(epoch)), budgets])
    sys.stdout.flush()
    print(summary([spec]), file=sys.stderr)


def sweep_summary(jobs: "Sequence[Job]", plans: Sequence[Sequence[Plan]]) -> str:
    """A line for each job and its plans, and a total that counts shared epochs once."""
    from swa_bench.reporting.sweep_table import broken, swept  # takes half a second to import

    names, lines, found = swept(jobs), [], _looks(plans)
    for one, looks in zip(jobs, found, strict=True):
        options = [one.options().get(name, "-") for name in names]
        on_disk, shared = sum(look.first for look in looks), sum(look.shared for look in looks)
        to_train, seconds = sum(len(look.epochs) for look in looks), seconds_of(looks)
        time = "-" if not to_train else "unknown" if seconds is None else duration(seconds)
        lines.append([*options, on_disk, shared, to_train, time])
    header = [*map(broken, names), "epochs\non disk", "\nshared", "\nto train", "\ntime"]
    align = [*["left"] * len(names), *["right"] * 4]
    table = tabulate(lines, header, "simple", disable_numparse=True, colalign=align)
    return f"{table}\n{total(itertools.chain(*found))}"
