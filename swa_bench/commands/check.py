"""The command swa-check: whether this machine trains as it should, in under a minute."""

import argparse
import datetime
import signal
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from swa_bench.commands.command_line import networks
from swa_bench.commands.export import device_option
from swa_bench.commands.terminal import CommandParser, command, path
from swa_bench.files import check_writable
from swa_bench.results.locks import handled
from swa_bench.results.verdicts import FORMAT, Verdict, verdict_on, write_verdict
from swa_bench.training.self_check import Outcome, Trial, outcomes

CHECKS = "swa_bench.training.checks.all_checks"
TIMES_FOR_S = 45  # after which no further network is timed
# How long steps may take at most, compared with what, so that they pay; less gain is noise.
GAINS = {
    "cuda_graphs": (1.0, "recorded steps take {:.2f} times as long as eager ones"),
    "seeds_together": (0.95, "three take {:.2f} times as long as one after the other"),
}
WIDTH = 80


def swa_check(arguments: Sequence[str] | None = None) -> None:
    """The command swa-check."""
    # The process and the folder of the checks end with this one.
    ending = handled((signal.SIGTERM, signal.SIGHUP), lambda number, _: sys.exit(128 + number))
    with command("swa-check"), ending:
        options = _parser().parse_args(arguments)
        check_writable("--results-dir", options.results_dir)
        found = []
        with tempfile.TemporaryDirectory(prefix="swa-check-") as folder:
            until = time.monotonic() + (1e9 if options.models else TIMES_FOR_S)
            trial = Trial(options.device, tuple(options.models), folder, until)
            for outcome in outcomes(CHECKS, trial):
                print(line(outcome), flush=True)
                found.append(outcome)
        verdict = verdict_of(found)
        said, code = conclusion(verdict)
        print(textwrap.fill(said, WIDTH))
        if verdict.device:  # else nothing would find it
            # What was not timed now keeps its time.
            known = (verdict.device, verdict.driver, verdict.torch)
            before = verdict_on(options.results_dir, *known)
            image_s = (before.image_s if before else {}) | verdict.image_s
            verdict = verdict.model_copy(update={"image_s": image_s})
            print(f"Verdict: {write_verdict(options.results_dir, verdict)}")
        if code:
            sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "swa-check",
        description="Check in about a minute that this machine trains as it should. swa-train "
        "reads the verdict: cuda_graphs=auto, seeds_together=auto, compile, and dry_run's times.",
    )
    where = "that of swa-train; the verdict goes below it (%(default)s)"
    parser.add_argument("--results-dir", type=path, default=Path("results/runs"), help=where)
    models = "networks whose steps are timed, however long it takes"
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="MODEL", choices=networks(), help=models
    )
    device_option(parser)
    return parser


def line(outcome: Outcome) -> str:
    """What is printed of a check: name, outcome, what was measured."""
    check = outcome.check
    begin = f"{check.outcome:<8}{check.name:<20}"
    return textwrap.fill(begin + check.measured, WIDTH, subsequent_indent=" " * len(begin))


def verdict_of(found: Sequence[Outcome]) -> Verdict:
    """The verdict that follows from the outcomes of all checks."""
    facts: dict[str, str] = {"device": "", "driver": "", "torch": ""}
    image_s: dict[str, dict[str, float]] = {}
    shares: dict[str, list[float]] = {topic: [] for topic in GAINS}
    because: dict[str, str] = {}
    for one in found:
        facts |= {name: one.found[name] for name in facts if name in one.found}
        image_s |= one.found.get("image_s", {})
        for topic, times in shares.items():
            times += one.found.get("shares", {}).get(topic, [])
        if one.check.outcome == "not ok" and one.check.topic:
            because.setdefault(one.check.topic, f"{one.check.name}: {one.check.measured}")
    for topic, (most, text) in GAINS.items():
        if shares[topic] and (share := statistics.median(shares[topic])) > most:
            because.setdefault(topic, text.format(share))

    def holds(topic: str) -> bool | None:
        tried = any(one.check.topic == topic and one.check.outcome != "skipped" for one in found)
        return topic not in because if tried else None

    pays = holds("seeds_together") and shares["seeds_together"]
    return Verdict(
        format=FORMAT,
        **facts,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        usable="device" not in because,
        cuda_graphs=holds("cuda_graphs"),
        compile=holds("compile"),
        seeds_together=3 if pays else 1,
        because=because,
        image_s=image_s,
        checks=[one.check for one in found],
    )


def conclusion(verdict: Verdict) -> tuple[str, int]:
    """What a user does about a verdict, and the exit code."""
    because = verdict.because
    if not verdict.usable:
        is_cpu = verdict.device and not verdict.driver
        advice = "do not train here" if is_cpu else "use device=cpu"
        return f"{advice} because {because['device']}", 2
    said = ["as configured"]
    if verdict.cuda_graphs is False:
        said = [f"graphs off because {because['cuda_graphs']}"]
    if verdict.compile is False:
        said.append(f"no compile=true because {because['compile']}")
    if verdict.seeds_together > 1:
        said.append(f"seeds_together={verdict.seeds_together} pays")
    if any(one.outcome == "not ok" and not one.topic for one in verdict.checks):
        said.append("see what is not ok above")
    return "; ".join(said), 0
