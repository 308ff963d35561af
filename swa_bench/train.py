"""swa-train: compose, check, plan, train, record, and print results beside the published ones."""

import csv
import os
import re
import signal
import sys
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from swa_bench.commands import sweep
from swa_bench.commands.explain import explain
from swa_bench.config.plan import Plan, make_plan
from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import METHODS, RunSpec, import_from_here, register_resolvers
from swa_bench.data import folder
from swa_bench.errors import ConfigError, SwaBenchError, Terminated
from swa_bench.labels import duration
from swa_bench.results.record import read_record, record_path


def train(spec: RunSpec) -> None:
    """Do one run, then those of the methods in `also_train`; print the row of the table so far.

    Raises:
        SwaBenchError: some of them failed; the others were done even so.
    """
    also_train, keep_for = spec.config.also_train, spec.config.checkpoints.keep_for
    for option, methods in (("also_train", also_train), ("checkpoints.keep_for", keep_for)):
        for method in methods:
            if method not in METHODS:
                raise ConfigError(option, method, f"choose from {', '.join(METHODS)}")
    runs = [spec, *(spec.with_method(method) for method in also_train)]
    from swa_bench.training.job import check  # torch takes seconds to import

    for one in runs:  # what cannot be done is refused before anything is trained
        check(one.config)
    failures = []
    for one in runs:
        try:
            train_one(one)
        except SwaBenchError as error:
            failures.append(error)
    config, sweeping = spec.config, HydraConfig.get().mode is RunMode.MULTIRUN
    if not (sweeping or config.dry_run or len(failures) == len(runs)):
        rows = Path(config.results_dir) / config.dataset.name / config.model.name
        sweep.print_tables(rows, [config.model.name])
    if failures:
        failure = SwaBenchError("\n".join(map(str, failures)))
        failure.exit_code = max(error.exit_code for error in failures)
        raise failure


def train_one(spec: RunSpec) -> None:
    """Do one run: train what is missing of it, or print its plan."""
    from swa_bench.training import ensembles, hardware, job

    spec = hardware.resolve(spec)
    config = spec.config
    if config.dry_run and spec.is_ensemble_of_runs:
        members = {one.config.seed: one for one in ensembles.member_specs(spec)}
        train_one(members[config.seed])
        seeds = ", ".join(map(str, members))
        print(f"The plan is the same for each of the seeds {seeds}.", file=sys.stderr)
    elif config.dry_run:
        plans = [make_plan(one) for one in job.block_specs(spec)]
        summary = job.describe(plans)
        print_plan(next(plan for plan in plans if plan.config.seed == config.seed), summary)
    elif spec.is_ensemble_of_runs:
        print_results(ensembles.train_members(spec))
    else:
        print_results(job.train_missing(spec))


def print_plan(plan: Plan, summary: str) -> None:
    """The plan as CSV on stdout, a summary on stderr; nothing is trained or written."""
    from swa_bench.training import timing

    config = plan.config
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["epoch", "learning_rate", "collects", "reports_budget"])
    for epoch in range(config.epochs):
        budgets = " ".join(f"{report.budget:g}" for report in plan.reports_at(epoch + 1))
        writer.writerow([epoch + 1, plan.rates(epoch)[-1], int(plan.collects(epoch)), budgets])
    sys.stdout.flush()
    seconds = timing.run_seconds(plan, timing.seconds_per_image(config))
    print(f"{summary}, about {duration(seconds)} here from epoch 1", file=sys.stderr)


def print_results(reports: list[TrainConfig]) -> None:
    """A line for each budget that a run reports."""
    for report in reports:
        record = read_record(record_path(report))
        assert record is not None
        print(
            f"{record.method} {record.budget:g} seed {record.seed}: test error "
            f"{record.result.test_error_pct:.2f} %, loss {record.result.test_loss:.4f}"
        )


# What main reports after Hydra is done: the failure of a run that is no sweep.
_failed: list[SwaBenchError] = []


def job(cfg: DictConfig) -> None:
    """One job of Hydra; in a sweep Hydra must see it fail, a run alone is reported by main."""
    register()  # a launcher may have started a process for it
    try:
        train(RunSpec.of(cfg))
    except BrokenPipeError:  # Hydra would call it an error
        _end_unread()
    except SwaBenchError as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise
        _failed.append(error)


def register() -> None:
    """Make the resolvers of conf/*.yaml known, and modules in the working folder importable."""
    import_from_here()
    register_resolvers()
    folder.register()


def main() -> None:
    """The command swa-train."""
    register()
    # An experiment is an optional group of its own: it works with and without the plus.
    sys.argv[1:] = [re.sub(r"^\+(?=experiment=)", "", argument) for argument in sys.argv[1:]]
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print in its own words
    start = hydra.main(config_path="pkg://swa_bench.conf", config_name="train", version_base="1.3")
    try:
        start(job)()
        if _failed:
            raise _failed.pop()
    except (SwaBenchError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        if wants_traceback:
            raise
        if not sweep.report_failed():
            print(f"swa-train: {explain(error)}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, SwaBenchError) else 2)
    except Terminated:
        print("swa-train: ended as asked; start it again to go on (without force)", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        sys.exit("swa-train: interrupted; start it again to go on from the last checkpoint")
    except BrokenPipeError:
        _end_unread()
    except Exception:
        sweep.report_failed()
        raise


def _end_unread() -> None:
    """End silently: a reader such as head has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


if __name__ == "__main__":
    main()
