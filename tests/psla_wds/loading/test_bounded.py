"""What a rank holds stays bounded, and nothing of it is left: buffers, memory, processes."""

import os
import signal
import subprocess
import sys
import time
import weakref
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from lent_buffers import lend

from psla_wds import FeatureConfig, LoaderConfig, ReaderConfig, open_indexes, training_batches
from psla_wds.features.dali import PREFETCH_BATCHES
from psla_wds.features.on_cpu import COMPUTED_BATCHES
from psla_wds.reading.reader import PendingRead

MAIN = Path(__file__).parents[3] / "train" / "main.py"
BATCH_SIZE = 40


def log_mels(shards: Path, count: int) -> list[torch.Tensor]:
    # Few threads and many clips: most are still to be decoded when they are handed over.
    reader = ReaderConfig(decode_threads=1)
    config = LoaderConfig(features=FeatureConfig(num_frames=64), reader=reader, device="cpu")
    with training_batches(
        open_indexes([str(shards)]), batch_size=BATCH_SIZE, config=config
    ) as epochs:
        batches = islice(chain.from_iterable(repeat(epochs)), count)
        return [batch.log_mel.clone() for batch in batches]


@pytest.mark.parametrize("by_dali", [False, True], ids=["CPU", "DALI"])
def test_buffers_are_released_soon_after_their_use(
    shards: Path, monkeypatch: pytest.MonkeyPatch, by_dali: bool
):
    if by_dali:
        monkeypatch.setattr("psla_wds.loading.loader.needs_dali", lambda device: True)
    in_work = PREFETCH_BATCHES if by_dali else COMPUTED_BATCHES
    undisturbed = log_mels(shards, 8)
    lent: list[weakref.ref] = []
    num_held: list[int] = []
    wait = PendingRead.wait

    def wait_for_lent(pending: PendingRead) -> list[np.ndarray]:
        clips = [lend(clip) for clip in wait(pending)]
        lent.extend(map(weakref.ref, clips))
        num_held.append(sum(clip() is not None for clip in lent))
        return clips

    monkeypatch.setattr(PendingRead, "wait", wait_for_lent)
    assert all(map(torch.equal, log_mels(shards, 8), undisturbed))
    assert len(num_held) >= 8
    assert max(num_held) <= 2 * BATCH_SIZE * (in_work + 1)  # clips and their partners


# --- processes


def processes_marked(marker: str) -> list[int]:
    """Those that inherited an environment with this text in it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it ended
    return found


def ranks(marker: str) -> list[int]:
    """The marked processes that train; torchrun itself is none of them."""
    commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in processes_marked(marker)}
    return [pid for pid, path in commands.items() if b"\0--nproc" not in path.read_bytes()]


def shared_memory_of(pids: list[int]) -> set[Path]:
    """Files in /dev/shm that processes have mapped or open, and not deleted yet."""
    mapped = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids).splitlines()
    names = [line.split(maxsplit=5)[-1] for line in mapped if "/dev/shm/" in line]
    links = [link for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()]
    names += [os.readlink(link) for link in links if os.path.lexists(link)]
    return {Path(name) for name in names if name.startswith("/dev/shm/") and name[-1] != ")"}


@pytest.mark.parametrize(
    "victim", ["torchrun", *(pytest.param(f"rank {n}", marks=pytest.mark.slow) for n in (0, 1))]
)
def test_whoever_is_killed_leaves_no_process_and_no_file(shards: Path, tmp_path: Path, victim: str):
    run_dir, marker = tmp_path / "run", f"MARKER={tmp_path}"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words += [str(MAIN), "demo", f"--index={shards}:train", f"--run-dir={run_dir}"]
    words += ["--batch-size=6", "--log-every-steps=1", "--features.num-frames=64"]
    agent = subprocess.Popen(
        [*words, "--epochs=50"],
        env=os.environ | {"MARKER": str(tmp_path), "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = run_dir / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size):
        assert agent.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    by_rank = sorted(ranks(marker))
    assert len(by_rank) == 2
    shared_memory = shared_memory_of([agent.pid, *by_rank])
    pid = agent.pid if victim == "torchrun" else by_rank[int(victim[-1])]
    os.kill(pid, signal.SIGKILL)
    agent.wait(timeout=120)
    assert agent.returncode != 0
    while (left := processes_marked(marker)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
    assert not [path for path in shared_memory if path.exists()]
    assert not list(run_dir.rglob("*.tmp"))
