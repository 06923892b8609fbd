"""Storage that never answers: the process ends with one message, and does not wait for it."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import assert_user_error
from store_server import serving

READ_ALL = """
import sys
import numpy as np
from psla_wds import cli
from psla_wds.shards.index_files import read_index
from psla_wds.reading.reader import Reader

def main():
    index = read_index(sys.argv[1])
    print("opened", flush=True)
    sys.stdin.readline()
    reader = Reader(index, threads=2, timeout_s=float(sys.argv[2]))
    try:
        reader.start(np.arange(len(index))).wait()
    finally:
        reader.close()

cli.run(main)
"""


def read_all(shards: str | Path, timeout_s: float) -> subprocess.Popen[str]:
    """A process that has opened the index, and reads once a line is sent to it."""
    process = subprocess.Popen(
        [sys.executable, "-c", READ_ALL, str(shards), str(timeout_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "opened\n"
    return process


def finish(process: subprocess.Popen[str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """What became of it, and the seconds that it took."""
    started = time.perf_counter()
    out, err = process.communicate("read\n", timeout=60)
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    return done, time.perf_counter() - started


def test_a_file_that_never_answers_ends_the_process(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    process = read_all(copied, timeout_s=2)
    (copied / "shard-000002.tar").unlink()
    os.mkfifo(copied / "shard-000002.tar")  # opening it waits for a writer
    done, took_s = finish(process)
    assert_user_error(done, "did not arrive within 2 s", "shard-000002.tar, byte ", "clip clip.")
    assert "--reader.timeout-s" in done.stderr
    assert 2 <= took_s < 20


@pytest.mark.parametrize("fault", ["silent", "reset"])
def test_a_store_that_never_answers_ends_the_process(shards: Path, fault: str):
    with serving(shards) as store:
        process = read_all(store.url(), timeout_s=2)
        store.fault = lambda path, number: fault if path.endswith("2.tar") else None
        done, took_s = finish(process)
    assert_user_error(done, "did not arrive within 2 s", "shard-000002.tar, byte ", "clip clip.")
    assert took_s < 20
