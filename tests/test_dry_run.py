"""dry_run: what there is to do, what is there already, and for how long."""

import csv
import io
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from training_helpers import SHORT_RECIPE, TINY, SwaTrain

from swa_bench.config.spec import compose_spec
from swa_bench.results import machine
from swa_bench.results.verdicts import Check, Verdict, write_verdict

BOTH = [*TINY[:-1], "also_train=[sgd]"]
OWN = [*SHORT_RECIPE, "dataset.train_images=40", "dataset.test_images=20", "batch_size=20"]
OWN += ["model=own", "model.name=planned", "model._target_=planned.Net", "precision=auto"]
NETWORK = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(3072, num_classes))
"""


def check_device(results: Path, device: str, image_s: float, torch: str = version("torch")) -> None:
    """What swa-check leaves, where VGG16 takes so long for an image in fp32."""
    named = {"format": 1, "device": device, "driver": "", "torch": torch, "date": "2026-01-31"}
    found = {"usable": True, "cuda_graphs": None, "compile": None, "seeds_together": 1}
    speeds = {"vgg16": {"fp32": image_s}}
    ok = Check(name="speed", topic="", outcome="ok", measured="")
    verdict: Any = {**named, **found, "because": {}, "image_s": speeds, "checks": [ok]}
    write_verdict(results, Verdict(**verdict))


def test_the_curve_is_csv_and_the_summary_on_stderr(swa_train: SwaTrain, tmp_path: Path) -> None:
    outcome = swa_train("model=vgg16", "dry_run=csv")
    assert outcome.code == 0
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert list(rows[0]) == ["epoch", "learning_rate", "collects", "reports_budget"]
    assert [int(row["epoch"]) for row in rows] == list(range(1, 301))
    assert float(rows[80]["learning_rate"]) == 0.05
    assert float(rows[81]["learning_rate"]) == pytest.approx(
        0.05 * (1 - 0.8 * (81 / 161 - 0.5) / 0.4)
    )
    assert float(rows[299]["learning_rate"]) == pytest.approx(0.01)
    assert next(row["epoch"] for row in rows if row["collects"] == "1") == "161"
    reported = {row["epoch"]: row["reports_budget"] for row in rows if row["reports_budget"]}
    assert reported == {"200": "1", "250": "1.25", "300": "1.5"}
    assert "vgg16 on cifar10, swa, seed 0: 300 epochs, 117,300 steps\n" in outcome.err
    assert "reported budgets: 1 (epoch 200), 1.25 (epoch 250), 1.5 (epoch 300)" in outcome.err
    assert (
        "to train: 300 epochs, time unknown (no run like it, and no swa-check, on this machine)"
        in outcome.err
    )
    assert list(tmp_path.iterdir()) == []


def test_a_verdict_of_swa_check_on_this_device_gives_the_time(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    results = tmp_path / "results" / "runs"
    check_device(results, "A processor of elsewhere, 2 threads", 0.1)
    assert "time unknown" in swa_train("model=vgg16", "dry_run=true").out
    check_device(results, f"{machine.cpu_name()}, 64000 threads", 0.1)
    check_device(results, f"{machine.cpu_name()}, 1 thread", 0.1, torch="2.6.0+cu126")
    assert "time unknown" in swa_train("model=vgg16", "dry_run=true").out
    check_device(results, f"{machine.cpu_name()}, 1 thread", 0.01)
    # 50,000 images an epoch; 300 tests of 10,000 and 28 averages, which also pass the training
    # images (epochs 165, 170, ... 300), at a third: 300 * 533.3 s + 28 * 200 s.
    said = swa_train("model=vgg16", "dry_run=true").out
    assert "to train: 300 epochs, about 1 d 22 h (by swa-check)" in said
    assert "time unknown" in swa_train("model=vgg16", "precision=bf16", "dry_run=true").out


def test_methods_of_one_job_share_and_what_is_there_is_said(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    """SWA of 1.5 budgets is 6 epochs, SGD of one 4, and the first two are common."""
    fresh = swa_train(*BOTH, "dry_run=true").out
    assert "to train: 6 epochs, time unknown" in fresh
    assert "shared with the runs above: epochs 1 to 2\nto train: epochs 3 to 4 of 4" in fresh
    assert "2 runs to train, 8 epochs, time unknown" in fresh
    assert fresh.rstrip().endswith("Sharing saves 2 of 10 epochs.")
    assert list(tmp_path.iterdir()) == []

    assert swa_train(*BOTH[:-1]).code == 0  # SWA alone
    after = swa_train(*BOTH, "dry_run=true").out
    assert "finished: nothing to train" in after
    assert "on disk: epochs 1 to 2, of another run\nto train: epochs 3 to 4 of 4" in after
    assert "(by 1 run on this device)" in after
    assert swa_train(*TINY, "budget=2", "dry_run=true").out.count("on disk: epochs 1 to 6\n") == 1


def test_stored_states_of_other_weights_or_images_are_no_start(swa_train: SwaTrain) -> None:
    assert swa_train(*TINY, "method=sgd").code == 0
    longer = [*TINY, "method=swa", "dry_run=true"]
    assert "on disk: epochs 1 to 2" in swa_train(*longer).out
    for other in ("seed=1", "dataset.train_images=287", "+model.arguments.width=9"):
        assert "on disk" not in swa_train(*longer, other).out


def test_a_sweep_is_a_line_a_job_and_a_total(swa_train: SwaTrain, tmp_path: Path) -> None:
    sweep = ["model.learning_rate=0.1,0.05", "seed=0,1", "hydra/launcher=basic"]
    outcome = swa_train("-m", *BOTH, *sweep, "dry_run=true")
    assert outcome.code == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines()]
    jobs = [["0.1", "0"], ["0.1", "1"], ["0.05", "0"], ["0.05", "1"]]
    assert lines[3:7] == [[*one, "0", "2", "8", "unknown"] for one in jobs]
    assert "8 runs to train, 32 epochs, time unknown" in outcome.out
    assert "Sharing saves 8 of 40 epochs." in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_a_speed_is_of_runs_that_train_alike(swa_train: SwaTrain, undisturbed: Path) -> None:
    here = [*TINY, f"results_dir={undisturbed / 'runs'}", "dry_run=true", "seed=7"]
    assert "(by 1 run on this device)" in swa_train(*here).out
    assert "time unknown" in swa_train(*here, "batch_size=64").out


@pytest.mark.parametrize(
    ("flags", "smi", "found"),
    [
        ("fma amx_bf16", None, ("cpu", "bf16")),
        ("fma avx512f", None, ("cpu", "fp32")),
        ("fma avx512f", "9.0", ("cuda", "bf16")),
        ("fma amx_bf16", "7.5", ("cuda", "fp32")),
        ("fma amx_bf16", "fails", ("cuda", "auto")),
    ],
)
def test_what_auto_stands_for_shows_without_torch(
    flags: str, smi: str | None, found: tuple[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    """On a machine that is made up: its processor's flags, and what nvidia-smi prints, if any."""
    for name in ("CUDA_VISIBLE_DEVICES", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "cpuinfo").write_text(f"model name : X\nflags : {flags}\n")
    if smi:
        (tmp_path / "nvidia0").touch()
        (tmp_path / "0").mkdir()
        (tmp_path / "0" / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n")
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\necho {smi}\n" if smi != "fails" else "#!/bin/sh\nexit 9\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    monkeypatch.setattr(machine, "NVIDIA_INFO", tmp_path)
    machine.gpu_names.cache_clear()
    asked = compose_spec("precision=auto")
    config = machine.guess(asked).config
    machine.gpu_names.cache_clear()
    assert (config.device, config.precision) == found


WITHOUT_TORCH = """
import sys
from swa_bench import train

for line in sys.argv[1:]:
    sys.argv[1:] = line.split()
    train.main()
    print("heavy:", sorted({"torch", "torchvision"} & set(sys.modules)))
"""


def test_plans_and_finished_runs_need_no_torch(swa_train: SwaTrain, tmp_path: Path) -> None:
    """One process: a plan, a sweep's, a curve; a run of an own network that is finished."""
    (tmp_path / "planned.py").write_text(NETWORK)
    first = swa_train(*OWN)
    assert first.code == 0, first.err
    plans = ["model=wrn28_10 dry_run=true", "-m seed=0,1 dry_run=true", "dry_run=csv method=fge"]
    own = " ".join(OWN)
    command = [sys.executable, "-c", WITHOUT_TORCH, *plans, own, f"{own} dry_run=true"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.count("heavy: []") == 5
    assert first.out[first.out.index("swa 1 seed 0: ") :] in done.stdout
    assert "Finished already" in done.stderr
    assert "finished: nothing to train" in done.stdout
    (tmp_path / "planned.py").write_text(f"{NETWORK}\nCHANGED = True\n")
    done = subprocess.run([*command[:3], own], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "planned.py (model._target_=planned.Net) has changed since" in done.stderr


def test_the_experiment_with_a_fixed_rate_is_a_sweep_of_any_network(swa_train: SwaTrain) -> None:
    """PreResNet20: 150 epochs a seed, which the last weights share."""
    sweep = ["experiment=fixed_rate", "model=preresnet20", "dataset=cifar10", "dry_run=true"]
    outcome = swa_train(*sweep)
    assert outcome.code == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines()]
    assert [line[:4] for line in lines if line[-1:] == ["unknown"]] == [
        [str(seed), "0", "150", "150"] for seed in range(3)
    ]
    assert "Sharing saves 450 of 900 epochs." in outcome.out


def test_what_is_neither_true_false_nor_csv(swa_train: SwaTrain) -> None:
    outcome = swa_train("dry_run=maybe")
    assert outcome.code == 2
    assert outcome.err == "swa-train: dry_run=maybe: must be false, true or 'csv'\n"
