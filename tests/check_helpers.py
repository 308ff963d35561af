"""Checks of made-up machines, which processes of swa-check find by their names; without torch."""

import os
import signal
import time

from swa_bench.training.self_check import Measured, NamedCheck, Trial

FOUND = {"device": "NVIDIA Fake", "driver": "550.54", "torch": "2.9"}


def fine() -> Measured:
    return "fine"


def device() -> Measured:
    return "NVIDIA Fake", dict(FOUND)


def segfault() -> Measured:
    os.kill(os.getpid(), signal.SIGSEGV)
    return "survived"


def refuse() -> Measured:
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


def hang() -> Measured:
    time.sleep(600)
    return "awake"


def step_times() -> Measured:
    shares = {"cuda_graphs": [1.2], "seeds_together": [0.7]}
    return "10 ms", {"image_s": {"vgg16": {"bf16": 1e-4}}, "shares": shares}


def segfault_in_graphs(trial: Trial) -> list[NamedCheck]:
    return [("device", "device", device), ("graphs", "cuda_graphs", segfault), ("a", "", fine)]


def capture_fails(trial: Trial) -> list[NamedCheck]:
    return [("device", "device", device), ("graphs", "cuda_graphs", refuse), ("a", "", fine)]


def segfault_in_device(trial: Trial) -> list[NamedCheck]:
    return [("device", "device", segfault), ("a", "", fine)]


def hang_in_memory(trial: Trial) -> list[NamedCheck]:
    return [("device", "device", device), ("memory", "", hang), ("a", "", fine)]


def graphs_lose(trial: Trial) -> list[NamedCheck]:
    return [
        ("device", "device", device),
        ("graphs", "cuda_graphs", fine),
        ("together", "seeds_together", fine),
        ("vgg16", "", step_times),
    ]


def does_not_load(trial: Trial) -> list[NamedCheck]:
    os._exit(3)
