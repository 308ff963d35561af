"""Sweeps by Hydra's launchers: what they need, and Ray with GPUs that are only declared.

Those that start an engine are marked slow and run by `make test-engines`.
"""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from launcher_helpers import Engine
from training_helpers import SwaTrain, records_of

from swa_bench.config.resolvers import gpu_count
from swa_bench.errors import ConfigError, needs_extra

HAS_RAY = importlib.util.find_spec("ray")
HAS_SUBMITIT = importlib.util.find_spec("submitit")

# Without an engine.


def test_a_missing_extra_says_what_to_install(swa_train: SwaTrain) -> None:
    cases = [("local_gpus", "ray", HAS_RAY), ("ray_cluster", "ray", HAS_RAY)]
    cases += [("slurm", "slurm", HAS_SUBMITIT)]
    for launcher, extra, installed in cases:
        if installed:
            continue
        outcome = swa_train("-m", f"hydra/launcher={launcher}", "seed=0,1")
        assert outcome.code == 2
        assert outcome.err.splitlines() == [
            f"swa-train: hydra/launcher={launcher} {needs_extra(extra)}"
        ]


def test_gpus_are_counted_and_none_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no GPU was found"):
        gpu_count()  # the tests hide them all


# Cores of this machine.


def test_local_cpus_runs_jobs_side_by_side_and_a_failed_job_fails_alone(
    tmp_path: Path, two_seeds: Path
) -> None:
    """Each of one thread, with or without a wish of the user's; no job is lost or done twice."""
    engine = Engine(tmp_path)
    del engine.environment["OMP_NUM_THREADS"]
    (tmp_path / "together").write_text("2")
    local = ["hydra/launcher=local_cpus", "hydra.launcher.n_jobs=2"]
    code, out, err = engine.train(*local, "seed=0,1,-1", LOKY_MAX_CPU_COUNT="2")
    assert code == 2, err
    assert records_of(tmp_path / "results") == records_of(two_seeds)  # of one thread too
    told = [line for line in err.splitlines() if line.startswith("swa-train: ")]
    assert len(told) == 2, err
    assert "FAILED" in told[0] and "seed=-1: must be 0 or more" in told[0]
    assert told[1] == "swa-train: 1 job failed, see above"
    assert not list(tmp_path.rglob(".sweep-*"))
    assert "(n=2)" in out and "joblib" not in (out + err).lower()


def test_local_cpus_goes_on_after_a_job_was_killed(tmp_path: Path, two_seeds: Path) -> None:
    engine = Engine(tmp_path)
    (tmp_path / "crash").touch()
    local = ["hydra/launcher=local_cpus", "hydra.launcher.n_jobs=2", "seed=0,1"]
    code, _, err = engine.train(*local)
    assert code == 1
    assert err.splitlines()[-1].startswith("swa-train: the process of a job was killed")
    assert "Traceback" not in err and not list(tmp_path.rglob(".sweep-*"))
    code, _, err = engine.train(*local)
    assert code == 0, err
    assert "Going on after epoch 3" in err
    assert records_of(tmp_path / "results") == records_of(two_seeds)


# Ray.


@pytest.fixture
def ray_engine(tmp_path: Path) -> Engine:
    if not HAS_RAY:
        pytest.skip("needs the extra swa-bench[ray]")
    ours = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    return Engine(tmp_path, HOME=str(tmp_path), **ours)


def gpus_seen(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[1] for path in folder.glob("gpu-*"))


@pytest.mark.slow
def test_ray_gives_each_job_a_gpu_and_a_failed_job_fails_alone(
    ray_engine: Engine, two_seeds: Path
) -> None:
    """Two declared GPUs; two jobs that train at once, two that diverge, two that cannot start."""
    folder = ray_engine.folder
    (folder / "together").write_text("2")
    code, out, err = ray_engine.train(
        "hydra/launcher=local_gpus",
        "hydra.launcher.ray.init.num_gpus=2",
        "schedule.explodes=false,true",
        "seed=0,1,-1",
    )
    assert code == 2, err  # of the first that failed: a bad setting
    assert set(gpus_seen(folder)) == {"0", "1"}
    assert records_of(folder / "results") == records_of(two_seeds)
    told = [line for line in err.splitlines() if line.startswith("swa-train: ")]
    assert len(told) == 5, err
    assert sum("FAILED" in line and "training loss of epoch 2" in line for line in told) == 2
    assert sum("FAILED" in line and "seed=-1: must be 0 or more" in line for line in told) == 2
    assert told[-1] == "swa-train: 4 jobs failed, see above"
    assert len(list(folder.rglob("swa-seed*/traceback.txt"))) == 2
    assert not list(folder.rglob(".sweep-*"))
    assert re.search(r"│ false .* ± .*│ 2 ", out)  # of schedule.explodes


@pytest.mark.slow
def test_ray_packs_two_jobs_on_a_gpu_and_tries_a_killed_one_again(
    ray_engine: Engine, two_seeds: Path
) -> None:
    folder = ray_engine.folder
    (folder / "together").write_text("2")
    (folder / "crash").touch()
    code, _, err = ray_engine.train(
        "hydra/launcher=local_gpus",
        "hydra.launcher.ray.init.num_gpus=1",
        "hydra.launcher.ray.remote.num_gpus=0.5",
        "seed=0,1",
    )
    assert code == 0, err
    assert not (folder / "crash").exists()
    assert gpus_seen(folder) == ["0", "0", "0"]  # the killed job has had two processes
    assert "Going on after epoch 3" in err
    assert records_of(folder / "results") == records_of(two_seeds)


@pytest.fixture
def ray_address(ray_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one machine with two declared GPUs, which was started in another folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
    ray += ["--port", address.split(":")[1], "--num-gpus=2", "--include-dashboard=false"]
    short = tempfile.mkdtemp(prefix="ray-")  # names of sockets have at most 107 characters
    ray += ["--disable-usage-stats", "--temp-dir", short]
    cluster = subprocess.Popen(
        ray,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env=ray_engine.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert cluster.stdout is not None
    assert any("Ray runtime started" in line for line in cluster.stdout)
    yield address
    os.killpg(cluster.pid, signal.SIGKILL)  # asked to end, it takes half a minute
    cluster.wait()
    shutil.rmtree(short)


@pytest.mark.slow
def test_a_running_ray_cluster(ray_engine: Engine, ray_address: str, two_seeds: Path) -> None:
    code, out, err = ray_engine.train(
        "hydra/launcher=ray_cluster",
        f"hydra.launcher.ray.init.address={ray_address}",
        "seed=0,1",
    )
    assert code == 0, err
    assert records_of(ray_engine.folder / "results") == records_of(two_seeds)
    assert "(n=2)" in out
