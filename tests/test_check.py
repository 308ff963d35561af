"""swa-check on this CPU, on made-up GPUs, and what its verdict decides."""

import contextlib
import dataclasses
import functools
import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from check_helpers import FOUND
from helpers import make_folder
from training_helpers import DROPOUT, TARGET, TINY_NET, SwaTrain, records_of

from swa_bench.commands import check
from swa_bench.config.spec import compose_spec
from swa_bench.errors import ConfigError
from swa_bench.results.record import read_records
from swa_bench.results.verdicts import Verdict, read_verdicts, verdict_on, write_verdict
from swa_bench.training import checks, hardware
from swa_bench.training.self_check import NotOkError, Outcome, Trial, outcomes, perform


def verdict(**values: Any) -> Verdict:
    common: dict[str, Any] = {"format": 1, "date": "2026-01-31", "usable": True}
    common |= {"cuda_graphs": True, "compile": True, "seeds_together": 3, "because": {}}
    return Verdict(**{**common, **FOUND, "image_s": {}, "checks": [], **values})


@dataclasses.dataclass
class Checked:
    out: str
    results: Path
    verdict: Verdict


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """The command, once, on this CPU, for which there is a verdict already."""
    results, out = tmp_path_factory.mktemp("check") / "runs", io.StringIO()
    cpu = {"device": hardware.device_name(torch.device("cpu")), "torch": str(torch.__version__)}
    write_verdict(results, verdict(**cpu, driver="", image_s={"vgg16": {"fp32": 0.5}}))
    with contextlib.redirect_stdout(out):
        check.swa_check(
            ["--device", "cpu", "--models", "preresnet20", "--results-dir", str(results)]
        )
    (found,) = read_verdicts(results)
    return Checked(out.getvalue(), results, found)


def test_a_cpu_is_checked_in_a_line_each(on_cpu: Checked) -> None:
    lines = on_cpu.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the last one is a path
    assert [line for line in lines if line.startswith("not ok")] == []
    assert "as configured" in lines
    outcome = {one.name: one.outcome for one in on_cpu.verdict.checks}
    skipped = {name for name, said in outcome.items() if said == "skipped"}
    assert skipped == {"steps as on the CPU", "CUDA graphs", "no waiting", "compile"}
    for name in ("arithmetic", "stopped, resumed", "seeds together", "memory"):
        assert outcome[name] == "ok"
    # It gives back the signals that would end it.
    assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_the_verdict_on_a_cpu_says_how_fast_it_is(on_cpu: Checked) -> None:
    found = on_cpu.verdict
    assert found.device == hardware.device_name(torch.device("cpu"))
    assert found.torch == torch.__version__
    assert 0 < found.image_s["preresnet20"]["fp32"] < 1
    assert found.image_s["vgg16"] == {"fp32": 0.5}  # it was not timed this time
    assert (found.usable, found.cuda_graphs, found.compile) == (True, None, None)
    assert found.seeds_together == 1 and found.because == {}
    assert read_records([on_cpu.results]) == []


def test_seeds_that_have_other_bits_together_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def digests(trial: Trial, name: str, *options: str) -> dict[int, str]:
        return {0: "a", 1: "b" if name == "together" else "c"}

    monkeypatch.setattr(checks, "digests", digests)
    with pytest.raises(NotOkError, match="2 seeds at the same time, and each alone: OTHER bits"):
        checks.together(Trial("cpu", (), "", 0.0))


def test_arithmetic_that_is_not_that_of_its_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of bf16 under the name of fp32, as some libraries can be told to make them."""
    autocast = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    monkeypatch.setattr(hardware, "autocast", lambda config: autocast())
    monkeypatch.setattr(hardware, "native_precisions", lambda device: ["fp32"])
    with pytest.raises(NotOkError, match=r"fp32 .*e-03 \(below 0.0001\)"):
        checks.arithmetic(Trial("cpu", (), "", 0.0))


# Machines that are made up.


def found_on(name: str, folder: Path, hangs_after_s: float = 120) -> list[Outcome]:
    trial = Trial("cuda", (), str(folder), 0.0)
    return list(outcomes(f"check_helpers.{name}", trial, hangs_after_s))


def said(found: list[Outcome]) -> list[tuple[str, str]]:
    return [(one.check.name, one.check.outcome) for one in found]


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ("segfault_in_graphs", "graphs: ended its process (SIGSEGV)"),
        ("capture_fails", "graphs: RuntimeError: CUDA error: operation not permitted"),
    ],
)
def test_graphs_that_fail_are_off_and_the_other_checks_go_on(
    tmp_path: Path, machine: str, reason: str
) -> None:
    found = found_on(machine, tmp_path)
    assert said(found) == [("device", "ok"), ("graphs", "not ok"), ("a", "ok")]
    its = check.verdict_of(found)
    assert its.usable and its.cuda_graphs is False
    text, code = check.conclusion(its)
    assert text.startswith(f"graphs off because {reason}") and code == 0


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ("segfault_in_device", "device: ended its process (SIGSEGV)"),
        ("does_not_load", "start: ended its process (exit code 3)"),
    ],
)
def test_a_device_that_fails_ends_the_checks(tmp_path: Path, machine: str, reason: str) -> None:
    found = found_on(machine, tmp_path)
    assert len(found) == 1
    text, code = check.conclusion(check.verdict_of(found))
    assert text == f"use device=cpu because {reason}" and code == 2


def test_a_hang_is_an_outcome(tmp_path: Path) -> None:
    found = found_on("hang_in_memory", tmp_path, hangs_after_s=3)
    assert said(found) == [("device", "ok"), ("memory", "not ok"), ("a", "ok")]
    assert found[1].check.measured == "did not end within 3 s"
    assert check.conclusion(check.verdict_of(found))[0].endswith("see what is not ok above")


def test_graphs_that_lose_are_off_and_seeds_that_gain_are_on(tmp_path: Path) -> None:
    its = check.verdict_of(found_on("graphs_lose", tmp_path))
    assert its.cuda_graphs is False and its.seeds_together == 3
    assert its.image_s == {"vgg16": {"bf16": 1e-4}}
    text, code = check.conclusion(its)
    assert "recorded steps take 1.20 times as long as eager ones" in text and code == 0


def test_a_gpu_that_this_torch_was_not_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *given: (12, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *given: "NVIDIA Fake")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    find = functools.partial(checks.find_device, Trial("cuda", (), "", 0.0))
    outcome = perform("device", "device", find)
    assert outcome.check.outcome == "not ok" and "sm_90" in outcome.check.measured
    assert check.conclusion(check.verdict_of([outcome]))[1] == 2


# What the verdict decides.


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU that is looked at and not used."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *given: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    monkeypatch.setattr(hardware, "cuda_fault", lambda: None)
    monkeypatch.setattr(hardware, "device_name", lambda device: FOUND["device"])
    monkeypatch.setattr(hardware, "driver_version", lambda: FOUND["driver"])
    monkeypatch.setattr(torch, "__version__", FOUND["torch"])
    yield


def resolved(results: Path, *options: str, swept: set[int] | None = None) -> tuple[object, object]:
    spec = compose_spec("device=cuda", f"results_dir={results}", *options)
    config = hardware.resolve(spec, swept or set()).config
    return config.cuda_graphs, config.seeds_together


def test_graphs_are_on_for_what_is_shipped(
    tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ([], ["model=preresnet110", "method=ema"], ["cuda_graphs=true"]):
        assert resolved(tmp_path, *options) == (True, 1)
    own_augmentation = f"augmentation._target_={TARGET}"
    for options in (TINY_NET, [own_augmentation], ["optimizer._target_=torch.optim.Adam"]):
        assert resolved(tmp_path, *options) == (False, 1)
        assert resolved(tmp_path, *options, "cuda_graphs=true") == (True, 1)
    assert resolved(tmp_path, "cuda_graphs=false") == (False, 1)
    make_folder(tmp_path / "images")
    streams = ["dataset=image_folder", f"dataset.root={tmp_path}/images", "dataset.memory=disk"]
    assert resolved(tmp_path, *streams) == (False, 1)
    assert resolved(tmp_path, "device=cpu") == (False, 1)
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert resolved(tmp_path) == (False, 1)


def test_a_verdict_decides_for_its_device_driver_and_torch(tmp_path: Path, gpu: None) -> None:
    write_verdict(tmp_path, verdict(cuda_graphs=False))
    assert resolved(tmp_path) == (False, 1)
    assert resolved(tmp_path, "cuda_graphs=true") == (True, 1)
    for other in ("torch", "driver", "device"):
        folder = tmp_path / other
        path = write_verdict(folder, verdict(cuda_graphs=False, **{other: "another"}))
        assert resolved(folder) == (True, 1)
        # Nor if it lies where that of this one would.
        path.rename(write_verdict(folder, verdict()))
        assert verdict_on(folder, *FOUND.values()) is None and resolved(folder) == (True, 1)


def test_a_damaged_verdict_is_left_out_with_a_line(
    tmp_path: Path, gpu: None, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_verdict(tmp_path, verdict(cuda_graphs=False))
    for content, reason in (
        (path.read_text()[:-20], "is damaged"),
        (path.read_text().replace('"cuda_graphs": false', '"cuda_graphs": "no"'), "cuda_graphs"),
        (path.read_text().replace('"format": 1', '"format": 2'), "newer version"),
    ):
        caplog.clear()
        path.write_text(content)
        assert resolved(tmp_path) == (True, 1) and read_verdicts(tmp_path) == []
        assert all(path.name in line and reason in line for line in caplog.messages)


def test_seeds_train_together_only_if_all_were_asked_for(tmp_path: Path, gpu: None) -> None:
    write_verdict(tmp_path, verdict())
    assert resolved(tmp_path, "seed=1") == (True, 1)
    assert resolved(tmp_path, "seed=1", swept={0, 1, 2}) == (True, 3)
    assert resolved(tmp_path, "seed=3", swept={0, 1, 2, 3}) == (True, 1)
    assert resolved(tmp_path, "seed=1", "seeds_together=2") == (True, 2)
    independent = ["method=independent", "budget=2", "seed=1"]
    assert resolved(tmp_path, *independent, swept={0, 1, 2}) == (True, 1)


def test_compiling_that_fails_is_refused(tmp_path: Path, gpu: None) -> None:
    because = {"compile": "compile: no C compiler"}
    write_verdict(tmp_path, verdict(compile=False, because=because))
    with pytest.raises(ConfigError, match="compile=true: swa-check found: compile: no C compiler"):
        resolved(tmp_path, "compile=true")


def test_a_sweep_over_seeds_trains_them_together(
    tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_verdict", lambda config, device: verdict(seeds_together=2))
    assert swa_train("-m", *DROPOUT, "method=sgd", "budget=1", "seed=0,1,2").code == 0
    found = records_of(tmp_path / "results").values()
    together = {one["seed"]: one["config"]["seeds_together"] for one in found}
    assert together == {0: 2, 1: 2, 2: 1}
    alone = swa_train(*DROPOUT, "method=sgd", "budget=1", "seed=0", "results_dir=alone")
    assert alone.code == 0 and len(records_of(tmp_path / "alone")) == 1


def test_what_is_neither_auto_nor_a_number_is_refused(swa_train: SwaTrain) -> None:
    for option, right in (
        ("seeds_together=all", "must be auto, or an integer of 1 or more"),
        ("seeds_together=0", "must be auto, or an integer of 1 or more"),
        ("cuda_graphs=maybe", "must be 'auto', true or false"),
    ):
        outcome = swa_train("model=vgg16", option, "dry_run=true")
        assert outcome.code == 2
        assert outcome.err.splitlines() == [f"swa-train: {option}: {right}"]
