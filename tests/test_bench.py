"""The benchmark's arithmetic, a small run of it, and the table in docs/speed.md."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bench
import operations
import pytest
import torch
from contention import contention, contention_table

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("model", "tflop_an_epoch"),
    [("vgg16", 94.1), ("preresnet110", 50.2), ("preresnet164", 74.3), ("wrn28_10", 1785)],
)
def test_flops_of_a_training_epoch(model: str, tflop_an_epoch: float) -> None:
    flops = 3 * operations.forward_flops(bench.composed(model, ["device=cpu"])) * 50_000
    assert flops / 1e12 == pytest.approx(tflop_an_epoch, rel=1e-3)


def test_bytes_are_of_what_is_read_and_written() -> None:
    a = torch.ones(10, 3)
    weight = torch.zeros(7, requires_grad=True)
    weight.grad = torch.ones(7)
    sgd = torch.optim.SGD([weight], 0.1, momentum=0.9, fused=True)
    with operations.ByteCounter() as counter:
        a.t()  # a view moves nothing
        b = a + 1  # reads 30 numbers of 4 bytes, writes 30
        b.mul_(2)  # reads and writes 30
        # Reads weight, gradient and momentum, and by its schema may write all three.
        sgd.step()
    assert counter.moved == 4 * (4 * 30 + 6 * 7)


def test_shares_and_ratios() -> None:
    """10 ms a step of 100 images and 20 GFLOP: 10,000 images/s, 2 of 8 TFLOP/s, 1 of 4 GB/s."""
    variants = {
        "reference loop": {"ms_a_step": 25.0},
        "all but compile": {"ms_a_step": 10.0},
    }
    measured = {
        "model": "net",
        "precision": "bf16",
        "batch_size": 100,
        "peak_memory_gb": 1.25,
        "flops_a_step": 20e9,
        "bytes_a_step": 10e6,
        "variants": variants,
    }
    ceilings = {"matmul": {"tflop_per_s": 8.0}, "copy_gb_per_s": 4.0}
    title, *_, reference, ours = bench.table(ceilings, measured).strip().splitlines()
    assert title == "net, bf16, 1.25 GB at most"
    assert reference.split() == "reference loop 4,000 25.00 12.50 1.00 10 %".split()
    assert ours.split() == "all but compile 10,000 10.00 5.00 2.50 25 % 25 %".split()


def test_every_variant_takes_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "own_process", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(bench, "_turns", {})
    overrides = ["device=cpu", "batch_size=4", "precision=fp32"]
    measured = bench.measure_model("preresnet20", overrides, rounds=2, compiled=False)
    assert list(measured["variants"]) == [
        "reference loop",
        "data on the device",
        "+ channels_last",
        "+ fp32",
        "all but compile",
        "the same, 3 seeds",
    ]
    for variant in measured["variants"].values():
        assert len(variant["seconds_a_step"]) == 2
        assert variant["ms_a_step"] > 0
    assert 0.1 < measured["peak_memory_gb"] < 20
    json.dumps(measured)


def test_a_speed_beside_a_busy_process_is_compared_with_the_fastest_quiet_one() -> None:
    one = {"threads": 1, "quiet": 800.0, "busy": 720.0, "auto_quiet": 2, "auto_busy": 1}
    two = {"threads": 2, "quiet": 1200.0, "busy": 24.0, "auto_quiet": 2, "auto_busy": 1}
    title, *_, first, second = contention_table("net", [one, two]).strip().splitlines()
    assert title == "net: threads=auto chose 2, 2 when quiet, and 1, 1 beside it"
    assert first.split() == "1 thread 800 720 0.60".split()
    assert second.split() == "2 threads 1,200 24 0.02".split()


def test_a_speed_is_measured_quiet_and_beside_a_busy_process() -> None:
    config = bench.composed("preresnet20", ["device=cpu", "batch_size=4", "precision=fp32"])
    found = contention(config, 1, threads=1)
    assert found["quiet"] > 0 and found["busy"] > 0
    assert found["auto_quiet"] in (1, torch.get_num_threads())


def test_the_pages_table_is_of_the_shipped_measurements() -> None:
    report = json.loads((ROOT / "results/bench/amd-epyc-2-threads.json").read_text())
    page = (ROOT / "docs" / "speed.md").read_text()
    for measured in report["models"]:
        assert bench.table(report, measured) in page
    assert contention_table(**report["contention"]) in page
