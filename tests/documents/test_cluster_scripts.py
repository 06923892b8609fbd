"""The training script of docs/cluster.md, under a Slurm of two small programs."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.run.log import read_run

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "--epochs=4 --batch-size=6 --log-every-steps=1 --state-every-steps=1000 "
    "--features.num-frames=64 --model.batch-norm-momentum=1.0"
)
PROGRAMS = {
    "srun": 'echo $$ > "$JOB_FOLDER/srun.pid"\nexec "$@"',
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    "scontrol": 'echo "$@" >> "$JOB_FOLDER/scontrol.txt"\n[ "$1" = show ] && echo 127.0.0.1; true',
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Job:
    """What `sbatch` would start, with one process on this machine in place of 64 elsewhere."""

    def __init__(self, folder: Path, shards: Path, run_dir: Path) -> None:
        self.folder, self.run_dir = folder, run_dir
        text = (ROOT / "docs" / "cluster.md").read_text()
        (self.script,) = (b for b in text.split("```bash\n")[1:] if "--job-name=train" in b)
        self.script = self.script.partition("```")[0]
        for there, here in {
            "source /shared/psla-wds/.venv/bin/activate": ":",
            "--nproc-per-node 8": "--nproc-per-node 1",
            "29500": str(free_port()),
            "audioset-full": f"demo {SETTINGS}",
            "/shared/shards/full": f"{shards}:train",
            "/shared/runs/full": str(run_dir),
        }.items():
            assert there in self.script
            self.script = self.script.replace(there, here)
        for name, body in PROGRAMS.items():
            (folder / name).write_text(f"#!/bin/bash\n{body}\n")
            (folder / name).chmod(0o755)

    def start(self, restarts: int) -> subprocess.Popen[str]:
        slurm = {"SLURM_NNODES": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1]"}
        slurm |= {"SLURM_RESTART_COUNT": str(restarts), "JOB_FOLDER": str(self.folder)}
        path = {"PATH": f"{self.folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            ["bash", "-c", self.script],
            env=os.environ | slurm | path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def requeued(self) -> int:
        return (self.folder / "scontrol.txt").read_text().count("requeue 7\n")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_whose_time_is_over_is_queued_again_and_goes_on(shards: Path, tmp_path: Path):
    job, log = Job(tmp_path, shards, tmp_path / "run"), tmp_path / "run" / "log.jsonl"
    first = job.start(restarts=0)
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGUSR1)
    errors = first.communicate(timeout=120)[1]
    assert first.returncode != 0 and job.requeued() == 1
    assert "--resume" in errors and "Traceback" not in errors.partition("torch")[0]
    done = len(read_run(tmp_path / "run").steps)
    assert 3 <= done < 24 and (tmp_path / "run" / "state.pt").exists()

    second = job.start(restarts=1)
    out, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert "wrote 4 epochs" in out and job.requeued() == 1
    assert [r.step for r in read_run(tmp_path / "run").steps] == list(range(1, 25))


@pytest.mark.slow
@pytest.mark.parametrize(("restarts", "requeued"), [(19, 1), (20, 0)])
def test_a_job_that_fails_again_and_again_ends(tmp_path: Path, restarts: int, requeued: int):
    job = Job(tmp_path, tmp_path / "none", tmp_path / "run")
    failed = job.start(restarts)
    assert "no such folder" in failed.communicate(timeout=120)[1]
    assert failed.returncode != 0 and job.requeued() == requeued
