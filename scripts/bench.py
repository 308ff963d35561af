"""How fast training is on this device, beside a loop like the authors', in one run.

Run by `make bench`. Figures are medians over rounds. Random images are used: they take the same
time. On a CPU the first network is also timed beside a busy process. Prints tables and writes
results/speed/<device>.json.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import multiprocessing
import re
import resource
import statistics
import time
import timeit
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import joblib
import torch
from contention import contention, contention_table
from operations import forward_flops, step_bytes
from reference_loop import Turn, reference
from tabulate import tabulate
from torch import Tensor

from swa_bench.commands.command_line import networks
from swa_bench.commands.terminal import command
from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import compose_spec
from swa_bench.data.batches import to_device
from swa_bench.files import write_atomically
from swa_bench.training import hardware, timing
from swa_bench.training.states import fresh_state
from swa_bench.training.step import TrainStep

Result = TypeVar("Result")
EPOCH_IMAGES = 50_000
WARM_UP_S = 0.5
# The networks that are measured by default, and how many steps a turn takes: on a CPU only those
# that take minutes.
STEPS = {
    "cuda": {"vgg16": 100, "preresnet110": 50, "preresnet164": 50, "wrn28_10": 20},
    "cpu": {"preresnet20": 6, "vgg16": 2, "preresnet110": 1},
}


@dataclass(frozen=True)
class Variant:
    """One way to train; the steps of several seeds count as one."""

    config: TrainConfig
    fused: bool = False
    seeds: int = 1
    is_reference: bool = False


def ours(variant: Variant, steps: int) -> Turn:
    """The steps of swa-train."""
    config = variant.config
    seeds = [replace(config, seed=seed) for seed in range(variant.seeds)]
    trained = [timing.step_on_noise(one, steps) for one in seeds]
    if config.device == "cuda" and not variant.fused:
        for one in trained:
            # Without the fused kernel a rate on the device would be read back at every step.
            one.optimizer.param_groups[0] |= {"fused": False, "foreach": True, "lr": 1e-6}
    return lambda: timing.epoch_seconds(trained) / steps


_turns: dict[str, Turn] = {}  # of this process


def take_turn(name: str, variant: Variant, steps: int) -> float:
    """Seconds of a step of a variant, which stays in this process for its next turn."""
    if name not in _turns:
        is_reference, config = variant.is_reference, variant.config
        _turns[name] = reference(config, steps) if is_reference else ours(variant, steps)
    return _turns[name]()


def variants(config: TrainConfig, compiled: bool) -> dict[str, Variant]:
    """Each option is measured alone, on top of data on the device; then all of them together."""
    plain = replace(config, precision="fp32", channels_last=False, compile=False, cuda_graphs=False)
    best = replace(config, channels_last=True, compile=False, cuda_graphs=True)
    on_gpu = config.device == "cuda"
    found = {
        "reference loop": Variant(plain, is_reference=True),
        "data on the device": Variant(plain),
        "+ channels_last": Variant(replace(plain, channels_last=True)),
        f"+ {config.precision}": Variant(replace(plain, precision=config.precision)),
    }
    if on_gpu:
        found["+ fused SGD"] = Variant(plain, fused=True)
        found["+ fused SGD, graphs"] = Variant(replace(plain, cuda_graphs=True), fused=True)
    if compiled:
        found["+ compile"] = Variant(replace(plain, compile=True))
    found["all but compile"] = Variant(best, fused=True)
    found["the same, 3 seeds"] = Variant(best, fused=True, seeds=3)
    if on_gpu:
        found["the same, deterministic"] = Variant(replace(best, deterministic=True), fused=True)
    if compiled:
        whole = replace(best, compile=True)
        found["all"] = Variant(whole, fused=True)
        found["all, 3 seeds"] = Variant(whole, fused=True, seeds=3)
    return found


def measure_model(name: str, overrides: list[str], rounds: int, compiled: bool) -> dict[str, Any]:
    """All variants of one network, each in a process of its own.

    On a CPU they take turns, so that whatever slows the machine slows them all. On a GPU, whose
    memory would not hold them all, one begins after another has ended.
    """
    config = composed(name, overrides)
    steps = STEPS[config.device].get(name, 1)
    found = variants(config, compiled)
    seconds: dict[str, list[float]] = {}
    for group in [[*found]] if config.device == "cpu" else [[one] for one in found]:
        seconds |= _in_turn({one: found[one] for one in group}, steps, rounds)
    batch = config.batch_size
    flops = 3 * forward_flops(config) * batch  # backward costs twice forward
    return {
        "model": name,
        "batch_size": batch,
        "precision": config.precision,
        "peak_memory_gb": in_a_process(peak_memory_gb, config),
        "flops_a_step": flops,
        "bytes_a_step": in_a_process(step_bytes, config),
        "variants": {
            variant: {
                "networks": found[variant].seeds,
                "seconds_a_step": taken,
                "ms_a_step": 1e3 * statistics.median(taken) / found[variant].seeds,
            }
            for variant, taken in seconds.items()
        },
    }


def _in_turn(found: dict[str, Variant], steps: int, rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in found}
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(own_process()) for name in found}
        warm_up = timing.WARM_UP[next(iter(found.values())).config.device]
        for round_number in range(warm_up + rounds):
            for name in list(seconds):
                try:
                    turn = processes[name].submit(take_turn, name, found[name], steps)
                    taken = turn.result()
                except RuntimeError as error:  # such as no memory left, no compiler
                    print(f"{name}: left out, {str(error).splitlines()[0]}", flush=True)
                    del seconds[name]
                    continue
                if round_number >= warm_up:
                    seconds[name].append(taken)
    return seconds


def composed(model: str, overrides: list[str]) -> TrainConfig:
    """The configuration of a network, with the precision that is fastest here."""
    spec = compose_spec(f"model={model}", "precision=auto", *overrides)
    return hardware.resolve(spec).config


def peak_memory_gb(config: TrainConfig) -> float:
    """Of an epoch on a GPU, as torch has reserved it; of the whole process in a step on a CPU."""
    if config.device == "cpu":
        timing.epoch_seconds([timing.step_on_noise(config, 1)])
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    images = timing.random_images(config, config.dataset.train_images)
    data = to_device(images, config, hardware.prepare(config))
    step = TrainStep(config, fresh_state(config, data), data)
    for _ in range(timing.WARM_UP["cuda"]):  # with the graphs that the second one records
        timing.epoch_seconds([step])
    return torch.cuda.max_memory_reserved() / 1e9


def measure_device(overrides: list[str]) -> dict[str, Any]:
    """The device's own ceilings: a product of two 8192 x 8192 matrices, and a large copy."""
    config = composed("vgg16", overrides)
    target = hardware.prepare(config)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    a, b = (torch.randn(8192, 8192, device=target).to(dtype) for _ in range(2))
    source = torch.randn(2**28, device=target)
    copy = torch.empty_like(source)
    return {
        "device": hardware.device_name(target),
        "kind": config.device,
        "versions": hardware.versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "matmul": {"dtype": str(dtype), "tflop_per_s": 2 * 8192**3 / 1e12 / timed(lambda: a @ b)},
        "copy_gb_per_s": 2 * 4 * 2**28 / 1e9 / timed(lambda: copy.copy_(source)),
    }


def timed(work: Callable[[], Tensor]) -> float:
    """Median seconds of one call: of 20 by the GPU's events, after half a second; of 3 on a CPU."""
    warm = time.perf_counter() + WARM_UP_S
    while (result := work()).is_cuda and time.perf_counter() < warm:
        torch.cuda.synchronize()
    if not result.is_cuda:
        return statistics.median(timeit.repeat(work, repeat=3, number=1))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(21)]  # type: ignore[no-untyped-call]
    for mark in marks[:-1]:
        mark.record()
        work()
    marks[-1].record()
    torch.cuda.synchronize()
    taken: list[float] = [a.elapsed_time(b) for a, b in itertools.pairwise(marks)]
    return statistics.median(taken) / 1e3


def table(ceilings: dict[str, Any], measured: dict[str, Any]) -> str:
    """One network's variants, the reference's speed as 1.

    The last column is what the operations of one step would move if none were fused.
    """
    lines = []
    batch, found = measured["batch_size"], measured["variants"]
    for name, variant in found.items():
        ms = variant["ms_a_step"]
        flops_share = measured["flops_a_step"] / 1e9 / ms / ceilings["matmul"]["tflop_per_s"]
        bytes_share = measured["bytes_a_step"] / 1e6 / ms / ceilings["copy_gb_per_s"]
        lines.append(
            [
                name,
                f"{1e3 * batch / ms:,.0f}",
                f"{ms:,.2f}",
                f"{ms * EPOCH_IMAGES / batch / 1e3:,.2f}",
                f"{found['reference loop']['ms_a_step'] / ms:.2f}",
                f"{100 * flops_share:.0f} %",
                f"{100 * bytes_share:.0f} %" if name == "all but compile" else "",
            ]
        )
    header = ["", "images/s", "ms a step", "s an epoch", "x reference", "of matmul", "of copy"]
    body = tabulate(lines, header, "simple", disable_numparse=True, stralign="right")
    memory = f"{measured['peak_memory_gb']:.2f} GB at most"
    return f"{measured['model']}, {measured['precision']}, {memory}\n{body}\n"


def own_process() -> Executor:
    """A fresh process, whose memory and choice of kernels are its own."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def in_a_process(work: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a fresh process."""
    with own_process() as pool:
        return pool.submit(work, *arguments).result()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    help_text = "by default those that this device is for"
    parser.add_argument("--models", nargs="+", metavar="MODEL", choices=networks(), help=help_text)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant (%(default)s)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="on a GPU only")
    parser.add_argument("--out", type=Path, default=Path("results/speed"), help="%(default)s")
    parser.add_argument("overrides", nargs="*", help="options of swa-train, such as device=cpu")
    options = parser.parse_args()
    with command("bench"):  # what cannot be had is refused before anything is measured
        composed("vgg16", options.overrides)
    ceilings = in_a_process(measure_device, options.overrides)
    kind = ceilings["kind"]
    matmul = ceilings["matmul"]
    print(
        f"{ceilings['device']}, torch {ceilings['versions']['torch']}\n"
        f"{matmul['dtype'].removeprefix('torch.')} matrix product {matmul['tflop_per_s']:.2f} "
        f"TFLOP/s, copy {ceilings['copy_gb_per_s']:,.0f} GB/s\n",
        flush=True,
    )
    compiled = options.compile if options.compile is not None else kind == "cuda"
    report = {**ceilings, "models": []}
    path = options.out / f"{re.sub('[^a-z0-9]+', '-', ceilings['device'].lower())}.json"
    for model in options.models or STEPS[kind]:
        measured = measure_model(model, options.overrides, options.rounds, compiled)
        report["models"].append(measured)
        print(table(ceilings, measured), flush=True)
        write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
    if kind == "cpu" and (cores := joblib.cpu_count()) > 1:
        model = (options.models or [*STEPS[kind]])[0]
        config, steps = composed(model, options.overrides), STEPS[kind].get(model, 1)
        rows = [in_a_process(contention, config, steps, count) for count in (1, cores)]
        report["contention"] = {"model": model, "rows": rows}
        print(contention_table(**report["contention"]), flush=True)
        write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
