"""Builds to and from URLs: fsspec's memory, buckets of an S3 server, and a web server."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile
from builds import build as build_by_command
from builds import content as content_on_disk
from conftest import (
    assert_user_error,
    build_in_one_process,
    manifest_arguments,
    run,
    run_command,
    write_corpus,
)
from data_sets import write_classes, write_esc50, write_fsd50k, write_sound, write_tars
from services.s3_server import CREDENTIALS, forget_credentials, serving_s3
from services.store_server import serving

from psla_wds.errors import ClipRefusedError, ConfigError, ShardError, StaleIndexError
from psla_wds.io.locations import Location, parse_location
from psla_wds.io.stores import at
from psla_wds.labels.manifest import Clip
from psla_wds.shards.index_files import read_index
from sharding.build import build
from sharding.check import check
from sharding.index import make_index
from sharding.info import summarise
from sharding.packing.config import PackConfig
from sharding.packing.decode import decode
from sharding.sources import (
    AudioSetSource,
    Esc50Source,
    FolderSource,
    Fsd50kSource,
    ManifestSource,
    PslaJsonSource,
    Source,
    TarsSource,
)

NUM_SHARDS = 20


@dataclass
class Bucket:
    """A place for builds, and what another program sees of it."""

    root: str
    """Before a name in URLs."""
    fs: Any
    port: int = 0

    def path(self, name: str) -> str:
        """Of a file or folder in `fs`."""
        return self.fs._strip_protocol(self.root + name)

    def location(self, name: str) -> Location:
        return parse_location(self.root + name)

    def content(self, folder: str) -> dict[str, bytes]:
        top = self.path(folder) + "/"
        return {path.removeprefix(top): self.fs.cat(path) for path in self.fs.find(top)}

    def config(self, output: str, **settings: object) -> PackConfig:
        return replace(PackConfig(output=self.location(output), clips_per_shard=12), **settings)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    build_in_one_process(monkeypatch)  # other processes do not see the store
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", (0.0, 0.0))
    fs = fsspec.filesystem("memory")
    yield Bucket("memory://", fs)
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with serving_s3() as (port, fs):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        yield Bucket("s3://bucket/", fs, port)


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    return request.getfixturevalue(request.param)


def source(corpus: Path, **settings: Location) -> ManifestSource:
    lists = ManifestSource(file=corpus / "clips.jsonl", class_labels=corpus / "classes.csv")
    return replace(lists, **settings)


def test_a_build_in_a_store_is_that_of_a_disk(corpus: Path, shards: Path, bucket: Bucket):
    build(source(corpus), bucket.config("a/b"))
    there = bucket.location("a/b")
    assert bucket.content("a/b") == content_on_disk(shards)
    assert check(there, deep=True) == []
    assert summarise(read_index(there)) == summarise(read_index(shards))


def test_only_what_lacks_its_sidecar_is_made_again(corpus: Path, shards: Path, memory: Bucket):
    build(source(corpus), memory.config("a"))
    memory.fs.rm("/a/shard-000002.sidecar.json")
    memory.fs.pipe("/a/shard-000001.tar", b"another length")
    before = {path: memory.fs.modified(path) for path in memory.fs.glob("/a/shard-*")}
    build(source(corpus), memory.config("a"))
    changed = {path for path, time in before.items() if memory.fs.modified(path) != time}
    names = ("shard-000002.tar", "shard-000001.tar", "shard-000001.sidecar.json")
    assert changed == {f"/a/{name}" for name in names}
    assert memory.content("a") == content_on_disk(shards)


@pytest.mark.parametrize("fails", ["shard-000002.tar", "size.npy"])
def test_an_upload_that_fails_publishes_nothing(
    corpus: Path, shards: Path, memory: Bucket, monkeypatch: pytest.MonkeyPatch, fails: str
):
    put_file = type(memory.fs).put_file

    def failing(store: Any, source: str, target: str, **options: object) -> None:
        put_file(store, source, target, **options)
        if target.endswith(fails):
            store.pipe(target, b"half")

    if fails == "size.npy":  # also where an older index is
        build(source(corpus), memory.config("a"))
    with monkeypatch.context() as faulty:
        faulty.setattr(type(memory.fs), "put_file", failing)
        with pytest.raises(ShardError, match="not whole when it was written"):
            build(source(corpus), memory.config("a"))
    assert "shard-000001.sidecar.json" in memory.content("a")
    assert "index/meta.json" not in memory.content("a")
    with pytest.raises(StaleIndexError, match="no index here"):
        read_index(memory.location("a"))
    build(source(corpus), memory.config("a"))
    assert memory.content("a") == content_on_disk(shards)


def test_shards_on_the_web_are_checked(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    with serving(copied) as web:
        url = parse_location(web.url())
        assert check(url, deep=True) == []
        (copied / "shard-000001.sidecar.json").unlink()
        (copied / "shard-000002.tar").unlink()
        assert {"shard-000001.tar: no sidecar", "shard-000002.tar: missing"} <= set(
            check(url, deep=False)
        )


def test_tasks_of_an_array_meet_in_a_store(corpus: Path, shards: Path, bucket: Bucket):
    there = bucket.location("a")
    build(source(corpus), bucket.config("a", task="0/2"))
    with pytest.raises(ShardError, match="2 shards are not made yet: 1, 3"):
        make_index(there)
    build(source(corpus), bucket.config("a", task="1/2"))
    bucket.fs.rm(bucket.path("a/shard-000003.sidecar.json"))
    with pytest.raises(ShardError, match="1 shards are not made yet: 3"):
        make_index(there)
    build(source(corpus), bucket.config("a", task="1/2"))
    make_index(there)
    whole = content_on_disk(shards)
    del whole["coverage.json"]
    assert bucket.content("a") == whole


def test_refused_clips_are_tried_again_in_a_store(tmp_path: Path, bucket: Bucket):
    corpus = write_corpus(tmp_path, num_clips=24)
    whole = (corpus / "clip.003.wav").read_bytes()
    (corpus / "clip.003.wav").write_text("no audio")
    build(source(corpus), bucket.config("a", max_rejected=0.1))
    first = bucket.content("a")
    assert json.loads(first["rejected.jsonl"])["detail"] == "Format not recognised."
    (corpus / "clip.003.wav").write_bytes(whole)
    bucket.fs.pipe(bucket.path("a/shard-000005.tar"), b"what a killed retry left")
    build(source(corpus), bucket.config("a", retry_rejected=True))
    again = bucket.content("a")
    assert again["rejected.jsonl"] == b"" and len(read_index(bucket.location("a"))) == 24
    assert all(again[name] == first[name] for name in first if name.endswith(".tar"))


@pytest.mark.parametrize("begun", [True, False])
def test_another_build_in_a_store_is_not_overwritten(corpus: Path, memory: Bucket, begun: bool):
    if begun:
        build(source(corpus), memory.config("a"))
    else:
        memory.fs.pipe("/a/precious", b"data")
    before = memory.content("a")
    message = "holds another build" if begun else "no build was begun in it"
    with pytest.raises(ConfigError, match=message):
        build(source(corpus), memory.config("a", codec="wav"))
    assert memory.content("a") == before


def test_an_output_of_file_is_a_folder(corpus: Path, shards: Path, tmp_path: Path):
    build_by_command(corpus, f"file://{tmp_path}/out")
    assert content_on_disk(tmp_path / "out") == content_on_disk(shards)


def test_the_web_takes_no_shards(tmp_path: Path):
    with pytest.raises(ConfigError, match="take no files"):
        PackConfig(output=parse_location("http://127.0.0.1:1/shards"))
    with pytest.raises(ConfigError, match="take no files"):
        make_index(parse_location("http://127.0.0.1:1/shards"))
    done = run_command(
        "sharding.build", "folder", "http://127.0.0.1:1/audio", f"--output={tmp_path}", check=False
    )
    assert_user_error(done, "does not list its files", "http://127.0.0.1:1/audio")


def test_lists_and_audio_may_be_on_the_web(corpus: Path, shards: Path, memory: Bucket):
    with serving(corpus) as web:
        files = {name: parse_location(web.url(f"corpus/{name}")) for name in os.listdir(corpus)}
        lists = {"file": files["clips.jsonl"], "class_labels": files["classes.csv"]}
        build(source(corpus, **lists), memory.config("a"))
    tars = {name: tar for name, tar in content_on_disk(shards).items() if name.endswith(".tar")}
    assert {name: memory.content("a")[name] for name in tars} == tars


def test_a_missing_file_is_refused_and_a_failing_store_is_not(tmp_path: Path, memory: Bucket):
    corpus = write_corpus(tmp_path, num_clips=24)
    (corpus / "clip.000.wav").unlink()
    (corpus / "clip.003.wav").write_bytes(b"")
    with serving(corpus) as web:
        remote = source(corpus, audio_root=parse_location(web.url("corpus")))
        build(remote, memory.config("a", max_rejected=0.1))
        refused = map(json.loads, memory.content("a")["rejected.jsonl"].splitlines())
        reasons = {"clip.000.wav": "missing", "clip.003.wav": "unreadable"}
        assert {r["clip_id"]: r["reason"] for r in refused} == reasons
        for fault, words in {"403": "refuses access", "503": "also when asked again"}.items():
            web.fault = lambda path, number, fault=fault: fault if "clip.006" in path else None
            with pytest.raises(ShardError, match=words):
                build(remote, memory.config(fault, max_rejected=0.1))
            assert not any(name.startswith("index") for name in memory.content(fault))


def test_a_path_of_a_manifest_may_be_a_url(tmp_path: Path, memory: Bucket):
    write_sound(tmp_path / "here.wav", 1)
    memory.fs.put(str(tmp_path / "here.wav"), "/far/there.wav")
    (tmp_path / "clips.csv").write_text("path,labels\nhere.wav,Bark\nmemory://far/there.wav,Meow\n")
    listed = ManifestSource(
        file=tmp_path / "clips.csv", class_labels=write_classes(tmp_path / "lists")
    )
    here, there = listed.read()[1]
    assert waveform(here) == waveform(there)
    with pytest.raises(ClipRefusedError, match="no such file"):
        decode(replace(there, path=memory.location("far/gone.wav")), sample_rate_hz=8000)


def data_sets(folder: Path) -> list[Source]:
    """A source of each kind that a store can hold."""
    classes = write_classes(folder / "lists")
    segments = folder / "lists" / "x_segments.csv"
    segments.write_text("# header\na b#c, 0.0, 0.5, /m/a\nabsent, 0.0, 0.5, /m/b\n")
    write_sound(folder / "audio" / "deep" / "Ya b#c.wav", 3)
    write_sound(folder / "audio" / "deep" / ".hidden.wav", 3)
    for number, name in enumerate(("Bark", "Meow")):
        write_sound(folder / "kinds" / name / "below" / f"{number}.wav", number)
        write_sound(folder / "kinds" / name / ".hidden.wav", number)
    (folder / "lists" / "train.json").write_text(
        json.dumps({"data": [{"wav": "/gone/0.wav", "labels": "/m/a"}]})
    )
    audio = folder / "kinds" / "Bark" / "below"
    samples = [{"__key__": "a", "wav": (audio / "0.wav").read_bytes(), "txt": "Bark"}]
    return [
        AudioSetSource(segments=segments, audio_root=folder / "audio", class_labels=classes),
        FolderSource(folder=folder / "kinds"),
        Fsd50kSource(folder=write_fsd50k(folder / "fsd50k")),
        Esc50Source(folder=write_esc50(folder / "esc50")),
        PslaJsonSource(
            file=folder / "lists" / "train.json", class_labels=classes, audio_root=audio
        ),
        TarsSource(folder=write_tars(folder / "tars", samples), class_labels=classes),
    ]


def test_every_source_reads_in_a_store_as_on_a_disk(tmp_path: Path, bucket: Bucket):
    sources = data_sets(tmp_path / "sets")
    bucket.fs.put(str(tmp_path / "sets"), bucket.path("sets"), recursive=True)
    for on_disk in sources:
        moved = {
            name: bucket.location(str(path.relative_to(tmp_path)))
            for name, path in vars(on_disk).items()
            if isinstance(path, Path)
        }
        classes, clips = on_disk.read()
        classes_there, clips_there = replace(on_disk, **moved).read()  # type: ignore[type-var]
        assert classes == classes_there
        for clip, there in zip(clips, clips_there, strict=True):
            assert str(there.path) == f"{bucket.root}{clip.path.relative_to(tmp_path)}"
            assert replace(there, path=clip.path, source=clip.source) == clip
            assert waveform(there) == waveform(clip)


def waveform(clip: Clip) -> list[float] | str:
    try:
        return decode(clip, sample_rate_hz=8000).tolist()
    except ClipRefusedError as error:
        return error.reason


def test_tars_of_others_in_a_store_get_sidecars_once(tmp_path: Path, memory: Bucket):
    soundfile.write(tmp_path / "a.flac", np.linspace(0, 0.5, 8000), 16_000)
    audio = (tmp_path / "a.flac").read_bytes()
    samples = [{"__key__": f"{n}", "flac": audio, "txt": "Bark"} for n in range(12)]
    tars = write_tars(tmp_path / "tars", samples, per_tar=4)
    memory.fs.put(str(tars), "/tars", recursive=True)
    _, found = make_index(memory.location("tars"), write_classes(tmp_path))
    assert found.num_scanned == 3 and check(memory.location("tars"), deep=True) == []
    assert make_index(memory.location("tars"))[1].num_scanned == 0
    first = min(memory.fs.glob("/tars/*.tar"))
    memory.fs.pipe(first, memory.fs.cat(first))
    assert make_index(memory.location("tars"))[1].num_scanned == 1
    assert len(memory.fs.glob("/tars/*.sidecar.json")) == 3


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("many"), num_clips=12 * NUM_SHARDS)


@pytest.fixture(scope="module")
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of a build on a disk."""
    output = tmp_path_factory.mktemp("whole") / "shards"
    build_by_command(many, output)
    return content_on_disk(output)


def run_process(module: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own: s3fs keeps what it once read of the environment."""
    return run([sys.executable, "-m", module, *words], check=check)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(6))
def test_a_build_killed_at_any_moment_ends_as_on_a_disk(
    many: Path, whole: dict[str, bytes], s3: Bucket, seed: int
):
    rng = random.Random(seed)
    words = ["manifest", *manifest_arguments(many, "s3://bucket/a/b"), "--workers=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sharding.build", *words],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wanted, deadline = rng.randrange(NUM_SHARDS), time.monotonic() + 120
    while len(s3.fs.glob("bucket/a/b/*.sidecar.json")) < wanted and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.3))
    assert process.poll() is None, "killed too late to show anything"
    (os.killpg if rng.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    assert "index/meta.json" not in s3.content("a/b")
    run_process("sharding.build", *words)
    assert s3.content("a/b") == whole


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_every_command_takes_a_bucket(corpus: Path):
    url = "s3://bucket/shards"
    for task in ("0/2", "1/2"):
        done = run_process(
            "sharding.build", "manifest", *manifest_arguments(corpus, url), f"--task={task}"
        )
        assert f"psla-wds index {url}" in done.stdout
    run_process("sharding.index", url)
    assert "agree" in run_process("sharding.check", url, "--deep").stdout
    assert "48 clips" in run_process("sharding.info", url).stdout
    assert "48 clips" in run_process("sharding.stats", f"{url}:train,eval", "--clips=8").stdout


@pytest.mark.slow
def test_what_a_bucket_refuses_is_one_error(
    corpus: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
):
    def message_of(output: str) -> Any:
        words = ["manifest", *manifest_arguments(corpus, output)]
        return run_process("sharding.build", *words, check=False)

    nowhere = "s3://nobucket/shards"
    assert_user_error(message_of(nowhere), "no such bucket", nowhere)
    assert_user_error(run_process("sharding.info", nowhere, check=False), "no such folder")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert_user_error(message_of("s3://bucket/a"), "can be reached from here")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    forget_credentials(monkeypatch)
    assert_user_error(message_of("s3://bucket/a"), "refuses access", "credentials")


@pytest.mark.slow
def test_a_tar_that_is_sent_in_parts_arrives_whole(s3: Bucket, tmp_path: Path):
    tar = tmp_path / "large.tar"
    tar.write_bytes(random.Random(0).randbytes(130 * 2**20))
    at(s3.location("large.tar")).put(tar)
    assert "-" in s3.fs.info("bucket/large.tar")["ETag"], "sent in one part"
    with at(s3.location("large.tar")).local_copy() as copy:
        assert copy.read_bytes() == tar.read_bytes()
