"""How fast training is on this device, beside a loop like the authors', in one run.

Run by `make bench`. All variants of a network take turns, so that whatever slows the machine slows
them all; figures are medians over the rounds. Random images are used: they take the same time.
Prints a table and writes results/speed/<device>.json.
"""

import argparse
import datetime
import json
import multiprocessing
import re
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from reference_loop import Turn, reference
from tabulate import tabulate
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import compose_spec
from swa_bench.files import write_atomically
from swa_bench.models import build_model
from swa_bench.training import hardware, timing

EPOCH_IMAGES = 50_000
# The networks that are measured by default, and how many steps a turn takes: on a CPU only those
# that take minutes.
STEPS = {
    "cuda": {"vgg16": 100, "preresnet110": 50, "preresnet164": 50, "wrn28_10": 20},
    "cpu": {"preresnet20": 6, "vgg16": 2, "preresnet110": 1},
}


def ours(config: TrainConfig, steps: int, fused: bool = False, seeds: int = 1) -> Turn:
    """The steps of swa-train; those of several seeds count as one."""
    trained = [timing.step_on_noise(replace(config, seed=seed), steps) for seed in range(seeds)]
    if config.device == "cuda" and not fused:
        for one in trained:
            # Without the fused kernel a rate on the device would be read back at every step.
            one.optimizer.param_groups[0] |= {"fused": False, "foreach": True, "lr": 1e-6}

    def turn() -> float:
        hardware.prepare(config)
        return timing.epoch_seconds(trained) / steps

    return turn


def variants(config: TrainConfig, steps: int, compiled: bool) -> dict[str, tuple[int, Turn]]:
    """{name: (how many networks it trains, its turn)}.

    Each option is measured alone, on top of data on the device; then all of them together.
    """
    plain = replace(config, precision="fp32", channels_last=False, compile=False, cuda_graphs=False)
    best = replace(config, channels_last=True, compile=False, cuda_graphs=True)
    on_gpu = config.device == "cuda"
    found = {
        "reference loop": (1, reference(plain, steps)),
        "data on the device": (1, ours(plain, steps)),
        "+ channels_last": (1, ours(replace(plain, channels_last=True), steps)),
        f"+ {config.precision}": (1, ours(replace(plain, precision=config.precision), steps)),
    }
    if on_gpu:
        found["+ fused SGD"] = (1, ours(plain, steps, fused=True))
        found["+ fused SGD, graphs"] = (1, ours(replace(plain, cuda_graphs=True), steps, True))
    if compiled:
        found["+ compile"] = (1, ours(replace(plain, compile=True), steps))
    found["all but compile"] = (1, ours(best, steps, fused=True))
    found["the same, 3 seeds"] = (3, ours(best, steps, fused=True, seeds=3))
    if on_gpu:
        deterministic = replace(best, deterministic=True)
        found["the same, deterministic"] = (1, ours(deterministic, steps, fused=True))
    if compiled:
        whole = replace(best, compile=True)
        found["all"] = (1, ours(whole, steps, fused=True))
        found["all, 3 seeds"] = (3, ours(whole, steps, fused=True, seeds=3))
    return found


def measure_model(name: str, overrides: list[str], rounds: int, compiled: bool) -> dict[str, Any]:
    """All variants of one network, in a process of its own."""
    config = composed(name, overrides)
    steps = STEPS[config.device].get(name, 1)
    memory = peak_memory_gb(config)
    found = variants(config, steps, compiled)
    seconds: dict[str, list[float]] = {variant: [] for variant in found}
    warm_up = timing.WARM_UP[config.device]
    for round_number in range(warm_up + rounds):
        for variant, (_, turn) in list(found.items()):
            try:
                taken = turn()
            except RuntimeError as error:  # such as no memory left beside the others, no compiler
                print(f"{name}, {variant}: left out, {str(error).splitlines()[0]}", flush=True)
                del found[variant], turn
                continue
            if round_number >= warm_up:
                seconds[variant].append(taken)
    batch = config.batch_size
    flops = 3 * forward_flops(config) * batch  # backward costs twice forward
    return {
        "model": name,
        "batch_size": batch,
        "precision": config.precision,
        "peak_memory_gb": memory,
        "flops_a_step": flops,
        "bytes_a_step": step_bytes(config),
        "variants": {
            variant: {
                "networks": networks,
                "seconds_a_step": seconds[variant],
                "ms_a_step": 1e3 * statistics.median(seconds[variant]) / networks,
            }
            for variant, (networks, _) in found.items()
        },
    }


def composed(model: str, overrides: list[str]) -> TrainConfig:
    """The configuration of a network, with the precision that is fastest here."""
    spec = compose_spec(f"model={model}", "precision=auto", *overrides)
    return hardware.resolve(spec).config


def peak_memory_gb(config: TrainConfig) -> float:
    """Of a few steps of training: the GPU's, or the whole process's on a CPU."""
    steps = [timing.step_on_noise(config, 5 if config.device == "cuda" else 1)]
    for _ in range(timing.WARM_UP[config.device]):
        timing.epoch_seconds(steps)
    if config.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def forward_flops(config: TrainConfig) -> int:
    """Floating-point operations of one image's forward pass, counted on a net without weights."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_model(config.model.name, config.dataset.classes)(torch.empty(1, 3, 32, 32))
    return int(counter.get_total_flops())


class ByteCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes that the operations under it move: every input read once, every output written once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation; views and new memory move nothing."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.name():
            arguments = zip(func._schema.arguments, args, strict=False)
            changed = [value for argument, value in arguments if argument.is_write]
            made = [] if changed else result
            tensors = [
                x for x in tree_leaves((args, kwargs, changed, made)) if isinstance(x, Tensor)
            ]
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def step_bytes(config: TrainConfig) -> int:
    """Bytes that one step moves if every operation is a pass over memory of its own."""
    eager = replace(config, cuda_graphs=False, compile=False)
    one = timing.step_on_noise(eager, steps=1)
    one.begin_epoch(one.inputs.data.draw(0, 0, "train"), [1e-6], seed=0, epoch=0)
    with ByteCounter() as counter:
        one.step(config.batch_size)
    moved: int = counter.moved
    return moved


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
    """Median seconds of one call, by the host's clock, after waiting for the device."""

    def once() -> float:
        started = time.perf_counter()
        result = work()
        if result.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return statistics.median([once() for _ in range(4)][1:])


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


def in_a_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call a function in a fresh process, so that its memory and choice of kernels are its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--models", nargs="+", help="by default those that this device is for")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant (%(default)s)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="on a GPU only")
    parser.add_argument("--out", type=Path, default=Path("results/speed"), help="%(default)s")
    parser.add_argument("overrides", nargs="*", help="options of swa-train, such as device=cpu")
    options = parser.parse_args()
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
        measured = in_a_process(measure_model, model, options.overrides, options.rounds, compiled)
        report["models"].append(measured)
        print(table(ceilings, measured), flush=True)
        write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
