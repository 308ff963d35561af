"""Verdicts of swa-check on a device: their schema, place, reader and writer.

A verdict is one JSON file in results_dir/.checks, for a device, its driver and torch's version.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import StrictBool

from swa_bench.config.identity import digest
from swa_bench.config.schema import Count, Positive
from swa_bench.files import write_atomically
from swa_bench.results.foreign import check_format, if_sound, parse_json, read_file
from swa_bench.results.record import Part

FORMAT = 1
FOLDER = ".checks"
# What a check is about: an option that its failure decides, or nothing but what it measures.
Topic = Literal["device", "cuda_graphs", "compile", "seeds_together", ""]


class Check(Part):
    """The outcome of one check, and what was measured or why it was skipped."""

    name: str
    topic: Topic
    outcome: Literal["ok", "not ok", "skipped"]
    measured: str


class Verdict(Part):
    """What swa-check found on a device.

    Attributes:
        device: its name, as records have it, such as 'AMD EPYC, 2 threads'.
        driver: version of the GPU's driver; empty for a CPU.
        date: of the day, such as 2026-01-31.
        usable: whether swa-train should use the device.
        cuda_graphs: whether steps should be recorded and replayed; None on a CPU.
        compile: whether compile=true works; None if that was not tried.
        seeds_together: how many seeds should train at the same time.
        because: why an option is as it is, by its name (device, cuda_graphs, ...).
        image_s: seconds of training an image, by the network's name and the precision.
    """

    format: int
    device: str
    driver: str
    torch: str
    date: str
    usable: StrictBool
    cuda_graphs: StrictBool | None
    compile: StrictBool | None
    seeds_together: Count
    because: dict[str, str]
    image_s: dict[str, dict[str, Positive]]
    checks: list[Check]


def verdict_path(results_dir: Path, device: str, driver: str, torch: str) -> Path:
    """Where the verdict on a device lies: a file for each device, driver and version of torch."""
    slug = re.sub("[^a-z0-9]+", "-", device.lower())[:60].strip("-")
    name = digest({"device": device, "driver": driver, "torch": torch})[:8]
    return results_dir / FOLDER / f"{slug}-{name}.json"


def write_verdict(results_dir: Path, verdict: Verdict) -> Path:
    """Write a verdict, over an older one of the same device, driver and torch."""
    path = verdict_path(results_dir, verdict.device, verdict.driver, verdict.torch)
    write_atomically(path, (verdict.model_dump_json(indent=1) + "\n").encode())
    return path


def read_verdicts(results_dir: Path) -> list[Verdict]:
    """All sound verdicts below a results_dir; the others are named in the log."""
    paths = sorted((results_dir / FOLDER).glob("*.json"))
    return [verdict for path in paths if (verdict := if_sound(_load, path)) is not None]


def verdict_on(results_dir: Path, device: str, driver: str, torch: str) -> Verdict | None:
    """The verdict on a device with this driver and version of torch, if there is a sound one."""
    found = if_sound(_load, verdict_path(results_dir, device, driver, torch))
    known = found and (found.device, found.driver, found.torch)
    return found if known == (device, driver, torch) else None


def _load(path: Path) -> Verdict:
    values = parse_json(read_file(path))
    check_format(values, FORMAT)
    return Verdict.model_validate(values)
