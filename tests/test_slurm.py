"""Sweeps on a real Slurm of one machine, which the tests start: slow, by `make test-engines`."""

import importlib.util
import os
import random
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from launcher_helpers import Engine, finish, wait_until
from training_helpers import records_of

HAS_SUBMITIT = importlib.util.find_spec("submitit")

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
    tmp_path: Path, slurm: dict[str, str], two_seeds: Path
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
    assert records_of(tmp_path / "results") == records_of(two_seeds)
    told = [line for line in err.splitlines() if line.startswith("swa-train: ")]
    assert sum("FAILED" in line and "training loss of epoch 2" in line for line in told) == 2
    assert told[-1] == "swa-train: 2 jobs failed, see above"
    assert len(list(tmp_path.rglob("swa-seed*/traceback.txt"))) == 2
    assert re.search(r"│ False +│ [\d.]+ ± [\d.]+ +│ 2 +│", out), out


@pytest.mark.slow
def test_a_slurm_job_that_is_preempted(
    tmp_path: Path, slurm: dict[str, str], two_seeds: Path
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
    seed0 = {name: cell for name, cell in records_of(two_seeds).items() if "-seed0-" in name}
    assert records_of(tmp_path / "results") == seed0
    assert "(n=1)" in out
