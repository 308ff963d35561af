"""Sweeps by Hydra's launchers: Ray with GPUs that are only declared, and a real Slurm.

Those that start an engine are marked slow and run by `make test-engines`. All their jobs are on the
CPU, with one thread each, so that a record is the same wherever it was made.
"""

import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from training_helpers import TINY, SwaTrain, records_of

from swa_bench.config.spec import gpu_count
from swa_bench.errors import ConfigError

HAS_RAY = importlib.util.find_spec("ray")
HAS_SUBMITIT = importlib.util.find_spec("submitit")

# A user's own schedule, in the working folder. Files there say what else is to happen while
# a job trains; whatever does happens once, when epoch 3 is stored.
SCHEDULE = """
import os, signal, time
from pathlib import Path

def rate(epoch, step, steps_per_epoch, *, first, explodes):
    me = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    Path(f"gpu-{me}-{os.getpid()}").touch()
    if Path("together").exists():  # until as many processes are here as its content says
        while len(list(Path().glob("gpu-*"))) < int(Path("together").read_text()):
            time.sleep(0.05)
    stored = any(Path("results").rglob(f"seed*-epoch0003-*.pt"))
    if stored and epoch == 3 and not explodes:
        if Path("crash").exists():
            Path("crash").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if "SLURM_JOB_ID" in os.environ and "SLURM_RESTART_COUNT" not in os.environ:
            array = [os.environ.get(f"SLURM_ARRAY_{part}_ID", "") for part in ("JOB", "TASK")]
            Path("waiting-" + "_".join(array)).touch()
            time.sleep(600)
    return 1e20 if explodes and epoch >= 1 else first
"""

OWN = [*TINY, "budget=1.5", "device=cpu", "schedule=constant", "~schedule.learning_rate"]
OWN += ["schedule._target_=own_rates.rate", "+schedule.first=0.1", "+schedule.explodes=false"]


class Engine:
    """A working folder, and swa-train in it with the environment that an engine needs."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        (folder / "own_rates.py").write_text(SCHEDULE)
        kept = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        self.environment = kept | {"OMP_NUM_THREADS": "1"} | environment

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        program = [str(Path(sys.executable).parent / "swa-train"), "-m", *OWN, *arguments]
        return subprocess.Popen(
            program,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        return finish(process)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it hangs:\n{out}\n{err}") from None
    return process.returncode, out, err


def wait_until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of seeds 0 and 1, by Hydra's basic launcher."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, _, err = Engine(folder).train("seed=0,1")
    assert code == 0, err
    return folder / "results"


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
            f"swa-train: hydra/launcher={launcher} needs an extra: pip install 'swa-bench[{extra}]'"
        ]


def test_gpus_are_counted_and_none_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no GPU was found"):
        gpu_count()  # the tests hide them all


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
    ray_engine: Engine, undisturbed: Path
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
    assert records_of(folder / "results") == records_of(undisturbed)
    told = [line for line in err.splitlines() if line.startswith("swa-train: ")]
    assert len(told) == 5, err
    assert sum("FAILED" in line and "training loss of epoch 2" in line for line in told) == 2
    assert sum("FAILED" in line and "seed=-1: must be 0 or more" in line for line in told) == 2
    assert told[-1] == "swa-train: 4 jobs failed, see above"
    assert len(list(folder.rglob("swa-seed*/traceback.txt"))) == 2
    assert not list(folder.rglob(".failed-*"))
    assert re.search(r"PreResNet20 \[a\] .* no runs .*\(n=2\)", out)


@pytest.mark.slow
def test_ray_packs_two_jobs_on_a_gpu_and_tries_a_killed_one_again(
    ray_engine: Engine, undisturbed: Path
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
    assert records_of(folder / "results") == records_of(undisturbed)


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
def test_a_running_ray_cluster(ray_engine: Engine, ray_address: str, undisturbed: Path) -> None:
    code, out, err = ray_engine.train(
        "hydra/launcher=ray_cluster",
        f"hydra.launcher.ray.init.address={ray_address}",
        "seed=0,1",
    )
    assert code == 0, err
    assert records_of(ray_engine.folder / "results") == records_of(undisturbed)
    assert "(n=2)" in out


# Slurm.

SLURM_CONF = """
ClusterName=sandbox
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.sock,cred_expire=5
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=3600
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
GRES_CONF = "NodeName={host} Name=gpu File=/dev/null\nNodeName={host} Name=gpu File=/dev/zero\n"
# submitit asks sacct, which needs a database; this answers from the controller.
SACCT = "#!/bin/sh\necho 'JobID|State|NodeList'\nsqueue -h -r -t all -o '%i|%T|%N'\n"
PACKAGES = ["slurmctld", "slurmd", "slurm-client", "munge"]


def install_slurm() -> None:
    if shutil.which("slurmctld") and shutil.which("munged"):
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    if not shutil.which("apt-get") or subprocess.run(install, capture_output=True).returncode:
        pytest.skip(f"needs Debian's packages {' '.join(PACKAGES)}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Slurm of one machine with two declared GPUs; the environment that finds it."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a Slurm")
    if not HAS_SUBMITIT:
        pytest.skip("needs the extra swa-bench[slurm]")
    install_slurm()
    at = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool", "munge", "bin"):
        (at / name).mkdir(mode=0o700)
    key = at / "munge" / "key"
    key.write_bytes(random.randbytes(1024))
    key.chmod(0o400)
    (at / "slurm.conf").write_text(SLURM_CONF.format(at=at, host=host))
    (at / "gres.conf").write_text(GRES_CONF.format(host=host))
    (at / "bin" / "sacct").write_text(SACCT)
    (at / "bin" / "sacct").chmod(0o755)
    path = f"{at / 'bin'}:{os.environ['PATH']}"
    found = {"SLURM_CONF": str(at / "slurm.conf"), "PATH": path}
    munge = ["munged", "--foreground", "--force", f"--socket={at}/munge.sock"]
    munge += [f"--key-file={key}", f"--pid-file={at}/munge/pid", f"--seed-file={at}/munge/seed"]
    munge += [f"--log-file={at}/munge/log"]
    daemons = []
    try:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (at / f"{command[0]}.log").open("w") as log:
                environment = os.environ | found
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if command is munge:
                wait_until((at / "munge.sock").exists, "munged")
        wait_until(lambda: asked(found, "sinfo", "-h", "-o", "%T") == "idle", "an idle node", 30)
        yield found
        asked(found, "scancel", "--user=root")
        wait_until(lambda: not asked(found, "squeue", "-h"), "the end of all jobs", 60)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=30)


def asked(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def job_logs(folder: Path, kind: str) -> str:
    """What all jobs printed on stdout (kind "out") or stderr ("err")."""
    logs = sorted(folder.glob(f"results/runs/.slurm/*_log.{kind}"))
    return "".join(path.read_text() for path in logs)


def submit(engine: Engine, *arguments: str) -> "subprocess.Popen[str]":
    """A sweep by Slurm, in which what does not diverge waits after epoch 3 to be disturbed."""
    return engine.start("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", *arguments)


def waiting(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[1] for path in folder.glob("waiting-*"))


@pytest.mark.slow
def test_slurm_jobs_that_are_cancelled_or_timed_out_or_fail(
    tmp_path: Path, slurm: dict[str, str], undisturbed: Path
) -> None:
    """Four jobs on two GPUs: one is cancelled, one reaches its time limit, two diverge."""
    limits = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=60"]
    process = submit(Engine(tmp_path, **slurm), *limits, "schedule.explodes=false,true", "seed=0,1")
    wait_until(lambda: len(waiting(tmp_path)) == 2, "two jobs that train")
    cancel = ["scancel", "--signal=USR2", waiting(tmp_path)[0]]
    with subprocess.Popen(cancel, env=os.environ | slurm) as cancelling:
        wait_until(lambda: "Requeued job" in job_logs(tmp_path, "out"), "a job that is requeued")
        cancelling.kill()  # it would try again, since a job that is being requeued refuses signals
    code, out, err = finish(process)
    logs = job_logs(tmp_path, "err")
    assert code == 1, err + logs
    assert job_logs(tmp_path, "out").count("Requeued job") == 2, logs
    assert logs.count("Going on after epoch 3") == 2, logs
    assert records_of(tmp_path / "results") == records_of(undisturbed)
    told = [line for line in err.splitlines() if line.startswith("swa-train: ")]
    assert sum("FAILED" in line and "training loss of epoch 2" in line for line in told) == 2
    assert told[-1] == "swa-train: 2 jobs failed, see above"
    assert len(list(tmp_path.rglob("swa-seed*/traceback.txt"))) == 2
    assert re.search(r"PreResNet20 \[a\] .* no runs .*\(n=2\)", out)


@pytest.mark.slow
def test_a_slurm_job_that_is_preempted(
    tmp_path: Path, slurm: dict[str, str], undisturbed: Path
) -> None:
    process = submit(Engine(tmp_path, **slurm), "seed=0")
    wait_until(lambda: waiting(tmp_path), "a job that trains")
    urgent = ["sbatch", "--partition=high", "--gres=gpu:2", "--output=/dev/null"]
    assert "Submitted" in asked(slurm, *urgent, "--wrap=sleep 1")
    code, out, err = finish(process)
    logs = job_logs(tmp_path, "err")
    assert code == 0, err + logs
    assert "this job is preempted" in logs
    assert logs.count("Going on after epoch 3") == 1, logs
    seed0 = {name: cell for name, cell in records_of(undisturbed).items() if "-seed0-" in name}
    assert records_of(tmp_path / "results") == seed0
    assert "(n=1)" in out
