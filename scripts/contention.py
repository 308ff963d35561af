"""How fast training on a CPU is beside another busy process, with one thread and with several."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch
from tabulate import tabulate

from swa_bench.config.schema import TrainConfig
from swa_bench.labels import counted
from swa_bench.training import timing
from swa_bench.training.threads import measure_threads


def contention(config: TrainConfig, steps: int, threads: int) -> dict[str, Any]:
    """Images a second with a number of threads, with nothing else to do and beside a busy process.

    `auto_quiet` and `auto_busy` are what threads=auto chooses then.
    """
    found: dict[str, Any] = {"threads": threads}
    for when in ("quiet", "busy"):
        with busy_process() if when == "busy" else contextlib.nullcontext():
            found[f"auto_{when}"], _ = measure_threads(config)
            torch.set_num_threads(threads)
            step = [timing.step_on_noise(config, steps)]
            found[when] = steps * config.batch_size / timing.usual_seconds(step)
    return found


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Another process that uses a core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def contention_table(model: str, rows: list[dict[str, Any]]) -> str:
    """Speeds beside a busy process, also with the fastest without one as 1."""
    best = max(row["quiet"] for row in rows)
    lines = [
        [
            counted(row["threads"], "thread"),
            f"{row['quiet']:,.0f}",
            f"{row['busy']:,.0f}",
            f"{row['busy'] / best:.2f}",
        ]
        for row in rows
    ]
    header = ["images/s", "quiet", "beside a busy process", "x the fastest quiet"]
    body = tabulate(lines, header, "simple", disable_numparse=True, stralign="right")
    quiet, busy = (", ".join(str(row[f"auto_{w}"]) for row in rows) for w in ("quiet", "busy"))
    return f"{model}: threads=auto chose {quiet} when quiet, and {busy} beside it\n{body}\n"
