"""What dry_run prints: of one run a summary or its curve, of a sweep a line a job and a total."""

import csv
import sys
from collections.abc import Sequence

from tabulate import tabulate

from swa_bench.config.plan import Plan, make_plan
from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import RunSpec
from swa_bench.labels import duration
from swa_bench.reporting.sweep_table import Job, broken, swept
from swa_bench.results.record import run_folder
from swa_bench.training import ensembles, job
from swa_bench.training.outlook import look_ahead, total


def plans_of(runs: Sequence[RunSpec]) -> list[Plan]:
    """The plans of all that the runs train: members of ensembles, and seeds that train together."""
    found = []
    for spec in runs:
        members = ensembles.member_specs(spec) if spec.is_ensemble_of_runs else [spec]
        found += [make_plan(one) for member in members for one in job.block_specs(member)]
    return found


def summary(runs: Sequence[RunSpec]) -> str:
    """What the runs of one job are, what is there already, and how long the rest takes.

    Raises:
        ConfigError: the network cannot be trained.
    """
    known: set[str] = set()
    sections, found = [], []
    for spec in runs:
        plans = plans_of([spec])
        looks = look_ahead(plans, known)
        found += looks
        text = [job.describe(plans), _reported(plans[0].reports)]
        for look in looks:
            seed = f"seed {look.plan.config.seed}: " * (len(looks) > 1)
            text += [seed + line for line in look.text().splitlines()]
            text.append(f"{seed}results: {run_folder(look.plan.config)}")
        sections.append("\n".join(text))
    return "\n\n".join([*sections, *[total(found)] * (len(found) > 1)])


def _reported(reports: Sequence[TrainConfig]) -> str:
    budgets = ", ".join(f"{report.budget:g} (epoch {report.epochs})" for report in reports)
    return f"reported budgets: {budgets}"


def print_curve(spec: RunSpec) -> None:
    """The plan as CSV on stdout, the summary on stderr."""
    plans = plans_of([spec])
    plan = next(plan for plan in plans if plan.config.seed == spec.config.seed)
    said = summary([spec])  # first, since it refuses what cannot be trained
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["epoch", "learning_rate", "collects", "reports_budget"])
    for epoch in range(plan.config.epochs):
        budgets = " ".join(f"{report.budget:g}" for report in plan.reports_at(epoch + 1))
        writer.writerow([epoch + 1, plan.rates(epoch)[-1], int(plan.collects(epoch)), budgets])
    sys.stdout.flush()
    print(said, file=sys.stderr)


def sweep_summary(jobs: Sequence[Job], plans: Sequence[Sequence[Plan]]) -> str:
    """A line for each job of a sweep, and a total that counts shared epochs once.

    Args:
        plans: of each job.
    """
    known: set[str] = set()
    names, lines, looks = swept(jobs), [], []
    for one, of_job in zip(jobs, plans, strict=True):
        found = look_ahead(of_job, known)
        looks += found
        options = [one.options().get(name, "-") for name in names]
        on_disk, shared = sum(look.first for look in found), sum(look.shared for look in found)
        to_train = sum(len(look.epochs) for look in found)
        time = duration(sum(look.seconds for look in found)) if to_train else "-"
        lines.append([*options, on_disk, shared, to_train, time])
    header = [*map(broken, names), "epochs\non disk", "\nshared", "\nto train", "\ntime"]
    align = [*["left"] * len(names), *["right"] * 4]
    table = tabulate(lines, header, "simple", disable_numparse=True, colalign=align)
    return f"{table}\n{total(looks)}"
