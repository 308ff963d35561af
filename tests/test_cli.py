"""swa-train as a user types it: plans, help, bad values, sweeps."""

import itertools
import os
import shlex
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from training_helpers import SHORT_RECIPE, TINY, SwaTrain, config_of, plan_of

from swa_bench.commands.command_line import groups
from swa_bench.commands.export import swa_evaluate, swa_export
from swa_bench.commands.records import swa_tables
from swa_bench.commands.status import swa_status
from swa_bench.commands.width import swa_width
from swa_bench.errors import needs_extra
from swa_bench.training import hardware
from swa_bench.training.network import fresh_model

EXPERIMENTS = Path(__file__).parent.parent / "conf" / "experiment"


def test_help_fits_a_screen_and_names_the_options(swa_train: SwaTrain, tmp_path: Path) -> None:
    outcome = swa_train("--help")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert len(lines) <= 48 and max(map(len, lines)) <= 80
    for word in ("swa-train", "budget", "preresnet164", "swa_cyclic", "quickstart", "dry_run"):
        assert word in outcome.out
    shipped = {"model", "dataset", "method", "schedule", "optimizer", "augmentation", "experiment"}
    assert set(groups()) == shipped
    (tmp_path / "my/model").mkdir(parents=True)
    (tmp_path / "my/model/mine.yaml").write_text("defaults: [own]")
    assert "model: densenet161, mine, own, " in swa_train("--help", "--config-dir", "my").out


def test_versions(swa_train: SwaTrain, capfd: pytest.CaptureFixture[str]) -> None:
    expected = f"swa_bench {version('swa-bench')}, torch {version('torch')}\n"
    assert swa_train("--version").out == expected
    for command in (swa_tables, swa_status, swa_width, swa_export, swa_evaluate):
        with pytest.raises(SystemExit) as end:
            command(["--version"])
        assert (end.value.code, capfd.readouterr().out) == (0, expected)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    {
        "-m experiment=quickstart seed=0,1 --cfg job --package model.budget_epochs": "15\n",
        "-m +experiment=quickstart --cfg job --package model.name": "preresnet20\n",
        "-m model=vgg19,vgg16 --cfg job --package model.name": "vgg19\n",
        "seed=3 --config-dir . model=vgg19 -c job batch_size=9 -p seed": "3\n",
        "model=vgg19 --cfg job --resolve -p epochs": "300\n",
        "--cfg job '+experiment=[quickstart,precision]' -p model.name": "preresnet20\n",
    }.items(),
)
def test_flags_may_stand_anywhere(swa_train: SwaTrain, arguments: str, printed: str) -> None:
    """With --cfg the options of one job are printed, of a sweep its first."""
    outcome = swa_train(*shlex.split(arguments))
    assert (outcome.code, outcome.out, outcome.err) == (0, printed, "")


@pytest.mark.parametrize(
    ("arguments", "page"),
    {
        "--info searchpath seed=1": "Config search path",
        "--info seed=1": "Installed Hydra Plugins",
        "--hydra-help": "See https://hydra.cc",
    }.items(),
)
def test_hydras_own_pages(swa_train: SwaTrain, arguments: str, page: str) -> None:
    outcome = swa_train(*arguments.split())
    assert outcome.code == 0 and page in outcome.out


@pytest.mark.parametrize(
    ("line", "offered"),
    {
        "precision=": "precision=auto precision=fp32 precision=tf32 precision=bf16",
        "-m seed=0,1 force=": "force=false force=true",
        "checkpoints.keep=": "checkpoints.keep=ends checkpoints.keep=cells "
        "checkpoints.keep=collected",
        "model=vgg16 --config-dir my seeds": "seeds_together=",
        "--config-dir my model=m": "model=mine",
        "model=preresnet20 --config-dir my method=swa_": (
            "method=swa_cyclic method=swa_fge method=swa_fixed_rate"
        ),
        "model=[ seed": "",
        "--foo": "",
        "seed=1 --config-dir m": "",
    }.items(),
)
def test_completion(
    swa_train: SwaTrain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    offered: str,
) -> None:
    """What bash asks after TAB, as the function asks it that -sc install=bash prints."""
    (tmp_path / "my/model").mkdir(parents=True)
    (tmp_path / "my/model/mine.yaml").write_text("defaults: [own]")
    monkeypatch.setenv("COMP_LINE", f"swa-train {line}")
    outcome = swa_train("-sc", "query=bash")
    assert (outcome.out.strip(), outcome.err) == (offered, "")


def test_ctrl_c_while_a_command_is_imported(tmp_path: Path) -> None:
    """By the console scripts, which import these packages before the program is ready."""
    for package, command in (("hydra", "swa-train"), ("pydantic", "swa-tables")):
        (tmp_path / package).mkdir()
        program = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
        (tmp_path / package / "__init__.py").write_text(program)
        done = subprocess.run(
            [Path(sys.executable).parent / command],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_hints_fit_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    for origin, command in {
        '{"dir_info": {"editable": true}, "url": "file:///my%20code"}': "-e '/my code[ray]'",
        '{"dir_info": {}, "url": "file:///code"}': "'/code[ray]'",
        '{"archive_info": {}, "url": "file:///x/swa_bench.whl"}': "'swa-bench[ray]'",
        None: "'swa-bench[ray]'",
    }.items():
        monkeypatch.setattr("importlib.metadata.Distribution.read_text", lambda *_, o=origin: o)
        monkeypatch.setattr("importlib.metadata.PathDistribution.read_text", lambda *_, o=origin: o)
        assert needs_extra("ray") == f"needs an extra: pip install {command}"


def test_git_ignores_what_users_write() -> None:
    """Below results/ and data/; what is shipped is seen."""
    root = EXPERIMENTS.parent.parent
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    own = ["results/width/a.json", "results/speed/a.json", "results/runs/a", "results/mine/a"]
    shipped = ["results/bench/a.json", "results/shipped/a.json", "results/published/a.csv"]
    command = ["git", "-C", str(root), "check-ignore", "--no-index", *own, *shipped]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == own


def test_cuda_without_a_gpu(swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = swa_train("device=cuda")
    assert outcome.code == 2
    assert "device=cuda: torch sees no CUDA GPU here; choose cpu or auto" in outcome.err


def test_precisions_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (7, 5))
    assert hardware.native_precisions("cuda") == ["fp32"]
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    every = ["fp32", "tf32", "bf16"]
    assert hardware.native_precisions("cuda") == every
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: False)
    assert hardware.native_precisions("cpu") == ["fp32"]


def test_a_sweep_ends_with_the_table_and_says_which_jobs_failed(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    """Four jobs; with swa_start=6 an SWA run of 4 epochs cannot be, the SGD runs can."""
    outcome = swa_train("-m", *TINY, "model.swa_start=6", "method=swa,sgd", "seed=0,1")
    assert outcome.code == 2
    failed = [line for line in outcome.err.splitlines() if "FAILED" in line]
    assert len(failed) == 2
    assert "method.collect_from=6: the run ends after epoch 4" in failed[0]
    assert "2 jobs failed, see above" in outcome.err
    assert "Traceback" not in outcome.err and "Error executing job" not in outcome.err
    assert len(list(tmp_path.rglob("cell-1.json"))) == 2
    assert "(n=2)" in outcome.out[outcome.out.rindex("tiny") :]


@pytest.mark.parametrize("plus", ["", "+"])
def test_an_experiment_is_a_sweep_by_itself(swa_train: SwaTrain, tmp_path: Path, plus: str) -> None:
    """With and without a plus; the network of the demonstration itself, on few images."""
    few = ["dataset.train_images=64", "dataset.test_images=50", *SHORT_RECIPE[3:]]
    seeds = "seed=0,1" if plus else "seed=0"
    outcome = swa_train(f"{plus}experiment=quickstart", *few, "batch_size=32", seeds)
    assert outcome.code == 0, outcome.err
    cells = sorted(f"{p.parent.name[:9]} {p.stem}" for p in tmp_path.rglob("cell-*.json"))
    found = (0, 1) if plus else (0,)
    swa = [f"swa-seed{seed} cell-{budget}" for seed in found for budget in ("1.25", "1.5", "1")]
    sgd = [f"sgd-seed{seed} cell-1" for seed in found]
    assert cells == sorted(sgd + swa)
    assert "│ PreResNet20 │ ours │" in outcome.out
    assert "model.swa_learning_rate.cifar10=0.05" in outcome.out


def test_config_is_composed_from_any_directory(swa_train: SwaTrain) -> None:
    outcome = swa_train("--cfg", "job", "model=wrn28_10", "dataset=cifar100")
    assert outcome.code == 0
    assert "name: wrn28_10" in outcome.out
    assert "classes: 100" in outcome.out


@pytest.mark.parametrize("name", sorted(path.stem for path in EXPERIMENTS.glob("*.yaml")))
def test_every_experiment_can_be_planned_also_on_the_small_set(name: str) -> None:
    """Each method of its sweep, alone with the paper's settings and after quickstart's."""
    content = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())
    sweep = content.get("hydra", {}).get("sweeper", {}).get("params", {})
    methods = str(sweep.get("method", "swa")).split(",")
    models = [f"model={model}" for model in str(sweep.get("model", "preresnet20")).split(",")]
    for method, model in itertools.product(methods, models):
        for experiment in (f"experiment={name}", f"experiment=[quickstart,{name}]"):
            plan = plan_of(experiment, f"method={method}", model, "precision=fp32")
            assert plan.config.method.name == method
            assert len(plan.rates(0)) == plan.steps_per_epoch


MODELS = {path.stem for path in (EXPERIMENTS.parent / "model").glob("*.yaml")} - {"own"}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_file_names_its_network(name: str) -> None:
    config = config_of(f"model={name}")
    size = config.dataset.image_size
    with torch.no_grad():
        logits = fresh_model(config, torch.device("cpu"))(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, config.dataset.classes)
