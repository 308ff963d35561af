"""swa-train: compose, check, plan, train, record, and print results beside the published ones."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from swa_bench.commands import command_line, completion, sweep
from swa_bench.commands.explain import SETTINGS, explain
from swa_bench.commands.terminal import safe_output, usual_interrupt, version
from swa_bench.config.composing import check_own_code, check_own_files, methods
from swa_bench.config.resolvers import register_resolvers
from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import RunSpec, import_from_here
from swa_bench.data import listing
from swa_bench.errors import (
    ConfigError,
    DeviceLostError,
    SwaBenchError,
    Terminated,
    in_a_line,
    without_frames,
)
from swa_bench.results import machine
from swa_bench.results.finished import finished_reports
from swa_bench.results.record import read_record, record_path


def train(spec: RunSpec) -> None:
    """Do a run, then those of `also_train`, and print their row; SwaBenchError if some failed."""
    check_methods(spec.config)
    runs = [spec, *(spec.with_method(method) for method in spec.config.also_train)]
    if spec.config.dry_run:
        return print_plan(list(map(machine.guess, runs)))
    known = [finished_reports(machine.guess(one)) for one in runs]
    for one, reports in zip(runs, known, strict=True):
        if reports is None:  # what cannot be done is refused before anything is trained
            from swa_bench.training.job import check  # torch takes seconds to import

            check(one.config)
    failures: list[SwaBenchError] = []
    done: list[TrainConfig] = []
    for one, reports in zip(runs, known, strict=True):
        with _noted(failures):
            done += train_one(one) if reports is None else reports
        if failures and failures[-1].exit_code == DeviceLostError.exit_code:
            break
    print_results(done)
    sweep.note_runs(done)
    if HydraConfig.get().mode is not RunMode.MULTIRUN and done:
        with _noted(failures):
            sweep.print_rows(Path(spec.config.results_dir), done)
    if failures:
        failure = SwaBenchError("\n".join(dict.fromkeys(map(str, failures))))
        failure.exit_code = max(error.exit_code for error in failures)
        raise failure


def check_methods(config: TrainConfig) -> None:
    """Raise SwaBenchError where an option names no method, or a file of the user's misleads."""
    check_own_files(config.method.name)
    for group in ("model", "dataset"):
        chosen = getattr(config, group)
        check_own_code(group, chosen.name, chosen._target_)
    known = methods()
    named = {"also_train": config.also_train, "checkpoints.keep_for": config.checkpoints.keep_for}
    if config.method.ensemble_of not in (None, config.method.name):
        named["method.ensemble_of"] = [config.method.ensemble_of]
    for option, names in named.items():
        for name in names:
            if name not in known:
                raise ConfigError(option, name, f"choose from {', '.join(known)}")


@contextlib.contextmanager
def _noted(failures: list[SwaBenchError]) -> Iterator[None]:
    """Note a failure and go on; of one that a line cannot explain, print the traceback."""
    try:
        yield
    except Exception as error:
        if in_a_line(error) is None or _wants_traceback:
            traceback.print_exception(error)
        failures.append(without_frames(error))


def train_one(spec: RunSpec) -> list[TrainConfig]:
    """Train what is missing of a run; return what it reports."""
    from swa_bench.training import ensembles, hardware, job, metrics

    spec = hardware.resolve(spec, sweep.seeds)
    ensemble = spec.is_ensemble_of_runs
    reports = ensembles.train_members(spec) if ensemble else job.train_missing(spec)
    metrics.measure_finished(reports)
    return reports


def print_plan(runs: list[RunSpec]) -> None:
    """What there is to do for the runs of a job; nothing is trained or written."""
    from swa_bench.commands import dry_run

    if runs[0].config.dry_run == "csv":
        for one in runs:
            dry_run.print_curve(one)
    elif HydraConfig.get().mode is RunMode.MULTIRUN:
        sweep.plans[:] = dry_run.plans_of(runs)
    else:
        print(dry_run.summary(runs))


def print_results(reports: list[TrainConfig]) -> None:
    """A line for each budget that a run reports."""
    for report in reports:
        record = read_record(record_path(report))
        assert record is not None
        own = "".join(f", {name} {value:.4g}" for name, value in record.result.metrics.items())
        print(
            f"{record.method} {record.budget:g} seed {record.seed}: test error "
            f"{record.result.test_error_pct:.2f} %, loss {record.result.test_loss:.4f}{own}"
        )


# What main reports after Hydra is done: the failure of a run that is no sweep.
_failed: list[SwaBenchError] = []
_wants_traceback = False


def job(cfg: DictConfig) -> None:
    """One job of Hydra; in a sweep Hydra must see it fail, a run alone is reported by main."""
    register()  # a launcher may have started a process for it
    failures: list[SwaBenchError] = []
    with safe_output(exits=False), _noted(failures):
        if HydraConfig.get().job.chdir:
            expected = "results would go to another folder: set results_dir instead"
            raise ConfigError("hydra.job.chdir", True, expected)
        train(RunSpec.of(cfg))
    if failures and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise failures.pop()
    _failed.extend(failures)


def register() -> None:
    """Make the resolvers of conf/*.yaml known, and modules in the working folder importable."""
    import_from_here()
    register_resolvers()
    listing.register()


def main() -> None:
    """The command swa-train."""
    with safe_output():
        try:
            _main()
        finally:
            sweep.end()


def _main() -> None:
    global _wants_traceback
    register()
    usual_interrupt()
    _wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print in its own words
    completes = False
    start = hydra.main(config_path="pkg://swa_bench.conf", config_name="train", version_base="1.3")
    try:
        if "--version" in sys.argv[1:]:
            print(version())
            return
        known = command_line.parse(sys.argv[1:])
        completes = completion.is_query(known)
        if completes and (offered := completion.prepare(known)) is not None:
            print(" ".join(offered))
            return
        sys.argv[1:] = command_line.checked(known)
        with command_line.wrapped(known.help):
            start(job)()
        if _failed:
            raise _failed.pop()
    except Terminated as ended:
        print("swa-train: ended as asked; start it again to go on (without force)", file=sys.stderr)
        sys.exit(128 + ended.number)
    except KeyboardInterrupt:
        go_on = "start it again to go on from the last checkpoint"
        print(f"swa-train: interrupted; {go_on}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if completes:
            sys.exit(1)  # what is wrong is said when the line is entered
        reported, line = sweep.report_failed(), explain(error)
        if line is None or _wants_traceback:
            raise
        if not reported:
            print(f"swa-train: {line}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2 if isinstance(error, SETTINGS) else 1))


if __name__ == "__main__":
    main()
