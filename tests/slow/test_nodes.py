"""Two nodes, each a network namespace of this machine, with a cable between them that is cut."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_runs import MAIN, arguments, logged_losses, num_logged, same_weights

NODES = (f"psla-a{os.getpid()}", f"psla-b{os.getpid()}")
DEVICES = ("psla-a", "psla-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
TIMEOUT_S = 20
"""How long a rank waits for the other once the cable is cut."""
BOUND_S = 200
"""Until both launchers have ended: that, and torchrun's own 60 s for its rendezvous."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def cable() -> Iterator[None]:
    """Namespaces NODES, joined by a pair of devices."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` on this machine (iproute2)")
    try:
        for node in NODES:
            ip("netns", "add", node)
        ends = list(zip(NODES, DEVICES, strict=True))
        ip("link", "add", DEVICES[0], "netns", NODES[0], "type", "veth",
           "peer", "name", DEVICES[1], "netns", NODES[1])  # fmt: skip
        for (node, device), address in zip(ends, ADDRESSES, strict=True):
            ip("-n", node, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", node, "link", "set", "lo", "up")
            ip("-n", node, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        remove_namespaces()
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
    yield
    remove_namespaces()


def remove_namespaces() -> None:
    for node in NODES:
        subprocess.run(["ip", "netns", "del", node], check=False, capture_output=True)


def start(node: int, words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """torchrun on a node; what it says goes to a file, since both are watched at once."""
    launcher = [
        *["ip", "netns", "exec", NODES[node], sys.executable, "-m", "torch.distributed.run"],
        *["--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}"],
        *[f"--master-addr={ADDRESSES[0]}", "--master-port=29500", str(MAIN)],
    ]
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": DEVICES[node],
        "PSLA_TIMEOUT_S": str(TIMEOUT_S),
        "OMP_NUM_THREADS": "1",
    }
    with (folder / f"node-{node}.txt").open("wb") as output:
        return subprocess.Popen(
            [*launcher, *words], env=environment, stdout=output, stderr=subprocess.STDOUT
        )


def finish(launchers: list[subprocess.Popen[bytes]], folder: Path) -> list[str]:
    """Exit statuses are those of the processes; the texts, what they said."""
    deadline = time.monotonic() + BOUND_S
    try:
        for launcher in launchers:
            launcher.wait(timeout=max(deadline - time.monotonic(), 1))
    finally:
        for launcher in launchers:
            launcher.kill()
    return [(folder / f"node-{node}.txt").read_text() for node in (0, 1)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("cable")
def test_a_cut_cable_ends_both_nodes_and_the_run_resumes(shards: Path, tmp_path: Path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    launchers = [start(node, arguments(shards, whole), tmp_path) for node in (0, 1)]
    texts = finish(launchers, tmp_path)
    assert [launcher.returncode for launcher in launchers] == [0, 0], texts

    launchers = [start(node, arguments(shards, cut), tmp_path) for node in (0, 1)]
    deadline = time.monotonic() + 120
    while num_logged(cut) < 4:
        assert time.monotonic() < deadline and launchers[0].poll() is None
        time.sleep(0.002)
    ip("-n", NODES[0], "link", "set", DEVICES[0], "down")
    begun = time.monotonic()
    texts = finish(launchers, tmp_path)
    assert time.monotonic() - begun < BOUND_S
    assert num_logged(cut) < 14, "cut too late to show anything"
    for node, text in enumerate(texts):
        assert launchers[node].returncode != 0
        assert text.count(f"error: rank {node} has lost another of the 2 processes") == 1, text
        assert "--resume" in text

    ip("-n", NODES[0], "link", "set", DEVICES[0], "up")
    launchers = [start(node, arguments(shards, cut, "--resume"), tmp_path) for node in (0, 1)]
    texts = finish(launchers, tmp_path)
    assert [launcher.returncode for launcher in launchers] == [0, 0], texts
    assert logged_losses(cut) == logged_losses(whole)
    assert same_weights(cut, whole)
