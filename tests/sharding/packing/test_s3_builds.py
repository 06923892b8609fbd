"""Builds into a bucket of an S3 server, by the commands, killed and refused on the way."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builds import build as build_on_disk
from builds import content as content_on_disk
from conftest import assert_user_error, manifest_arguments, run, write_corpus
from s3_server import CREDENTIALS, serving_s3

from psla_wds.io.locations import parse_location
from psla_wds.io.url_files import download, upload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NUM_SHARDS = 20


@dataclass
class Bucket:
    """A bucket, `bucket`, and the server that has it."""

    port: int
    store: Any

    def content(self, folder: str) -> dict[str, bytes]:
        found = self.store.find(f"bucket/{folder}")
        return {path.removeprefix(f"bucket/{folder}/"): self.store.cat(path) for path in found}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with serving_s3() as (port, store):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        yield Bucket(port, store)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("many"), num_clips=12 * NUM_SHARDS)


@pytest.fixture(scope="module")
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of a build on a disk."""
    output = tmp_path_factory.mktemp("whole") / "shards"
    build_on_disk(many, output)
    return content_on_disk(output)


def run_command(module: str, *words: str, check: bool = True):
    """In a process of its own: s3fs keeps what it once read of the environment."""
    return run([sys.executable, "-m", module, *words], check=check)


def build(corpus: Path, output: str, *more: str, check: bool = True):
    words = [*manifest_arguments(corpus, output), *more]
    return run_command("sharding.build", "manifest", *words, check=check)


@pytest.mark.parametrize("seed", range(4))
def test_a_build_killed_in_a_bucket_ends_as_on_a_disk(
    many: Path, whole: dict[str, bytes], bucket: Bucket, seed: int
):
    rng = random.Random(seed)
    command = [sys.executable, "-m", "sharding.build", "manifest"]
    process = subprocess.Popen(
        [*command, *manifest_arguments(many, "s3://bucket/a/b"), "--workers=2"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wanted, deadline = rng.randrange(NUM_SHARDS), time.monotonic() + 120
    while _finished(bucket) < wanted and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.3))
    assert process.poll() is None, "killed too late to show anything"
    (os.killpg if rng.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    assert "index/meta.json" not in bucket.content("a/b")
    build(many, "s3://bucket/a/b")
    assert bucket.content("a/b") == whole


def _finished(bucket: Bucket) -> int:
    return len(bucket.store.glob("bucket/a/b/*.sidecar.json"))


def test_tasks_of_an_array_and_every_command_on_a_bucket(
    many: Path, whole: dict[str, bytes], bucket: Bucket
):
    url = "s3://bucket/shards"
    assert f"sharding.index {url}" in build(many, url, "--task=0/2").stdout
    done = run_command("sharding.index", url, check=False)
    assert_user_error(done, "10 shards are not made yet", "of tasks 1 of 2", url)
    build(many, url, "--task=1/2")
    run_command("sharding.index", url)
    assert bucket.content("shards").items() - {("coverage.json", b"")} == whole.items() - {
        ("coverage.json", whole["coverage.json"])
    }
    assert "agree" in run_command("sharding.check", url, "--deep").stdout
    assert "240 clips" in run_command("sharding.info", url).stdout
    assert "240 clips" in run_command("sharding.stats", f"{url}:train,eval", "--clips=8").stdout
    assert_user_error(build(many, url, "--codec=wav", check=False), "holds another build", url)


def test_a_refusal_of_the_store_is_one_error(
    many: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    nowhere = build(many, "s3://nobucket/shards", check=False)
    assert_user_error(nowhere, "no such bucket", "s3://nobucket/shards")
    unknown = run_command("sharding.info", "s3://nobucket/shards", check=False)
    assert_user_error(unknown, "no index here")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert_user_error(build(many, "s3://bucket/a", check=False), "can be reached from here")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bucket.port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    assert_user_error(build(many, "s3://bucket/a", check=False), "refuses access", "credentials")


def test_a_tar_that_is_sent_in_parts_arrives_whole(bucket: Bucket, tmp_path: Path):
    tar = tmp_path / "large.tar"
    tar.write_bytes(random.Random(0).randbytes(130 * 2**20))
    url = parse_location("s3://bucket/large.tar")
    upload(tar, url)
    assert "-" in bucket.store.info("bucket/large.tar")["ETag"], "sent in one part"
    download(url, tmp_path / "back.tar")
    assert (tmp_path / "back.tar").read_bytes() == tar.read_bytes()
