"""Builds to and from URLs, in one process: fsspec's memory as a store, and a web server."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
from builds import build as build_by_command
from builds import content as content_on_disk
from conftest import assert_user_error, build_in_one_process, run_command, write_corpus
from data_sets import write_classes, write_esc50, write_fsd50k, write_sound, write_tars
from store_server import serving

from psla_wds.audio.decode import ClipRefusedError
from psla_wds.errors import ConfigError, ShardError, StaleIndexError
from psla_wds.io.locations import Location, parse_location
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

STORE = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def one_process_and_an_empty_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    build_in_one_process(monkeypatch)  # other processes do not see the store
    monkeypatch.setattr("psla_wds.io.retries.RETRY_PAUSES_S", (0.0, 0.0))
    yield
    STORE.store.clear()
    STORE.pseudo_dirs[:] = [""]


def location(name: str) -> Location:
    return parse_location(f"memory://{name}")


def content(folder: str) -> dict[str, bytes]:
    """Every file in a folder of the store."""
    return {path.removeprefix(f"/{folder}/"): STORE.cat(path) for path in STORE.find(f"/{folder}")}


def source(corpus: Path) -> ManifestSource:
    return ManifestSource(file=corpus / "clips.jsonl", class_labels=corpus / "classes.csv")


def config(output: str, **settings: object) -> PackConfig:
    return replace(PackConfig(output=location(output), clips_per_shard=12), **settings)


def test_a_build_in_a_store_is_that_of_a_disk(corpus: Path, shards: Path):
    build(source(corpus), config("a/b"))
    assert content("a/b") == content_on_disk(shards)
    assert check(location("a/b"), deep=True) == []
    assert summarise(read_index(location("a/b"))) == summarise(read_index(shards))
    # Shards that are not finished are made anew, and no others.
    STORE.rm("/a/b/shard-000002.sidecar.json")
    STORE.pipe("/a/b/shard-000001.tar", b"another length")
    before = {path: STORE.modified(path) for path in STORE.glob("/a/b/shard-*.tar")}
    build(source(corpus), config("a/b"))
    changed = {path[-5] for path, time in before.items() if STORE.modified(path) != time}
    assert changed == {"1", "2"} and content("a/b") == content_on_disk(shards)
    with pytest.raises(ConfigError, match="holds another build"):
        build(source(corpus), config("a/b", codec="wav"))
    STORE.pipe("/b/precious", b"data")
    with pytest.raises(ConfigError, match="no build was begun in it"):
        build(source(corpus), config("b"))
    assert content("b") == {"precious": b"data"}


@pytest.mark.parametrize(
    ("name", "message"),
    [("shard-000002.tar", "not whole when it was written"), ("size.npy", "refuses access")],
)
def test_a_build_goes_on_after_an_upload_that_failed(
    corpus: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
):
    put_file = type(STORE).put_file

    def failing(store: object, source: str, target: str, **options: object) -> None:
        if target.endswith("size.npy"):
            raise PermissionError("full")
        put_file(store, source, target, **options)
        if target.endswith(name):
            STORE.pipe(target, b"half")

    with monkeypatch.context() as faulty:
        faulty.setattr(type(STORE), "put_file", failing)
        with pytest.raises(ShardError, match=message):
            build(source(corpus), config("a"))
    assert "shard-000001.sidecar.json" in content("a")
    if name.startswith("shard"):
        assert "shard-000002.sidecar.json" not in content("a")
    with pytest.raises(StaleIndexError, match="there is no index here"):
        read_index(location("a"))
    build(source(corpus), config("a"))
    assert content("a") == content_on_disk(shards)


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


def test_refused_clips_are_tried_again_in_a_store(tmp_path: Path):
    corpus = write_corpus(tmp_path, num_clips=24)
    whole = (corpus / "clip.003.wav").read_bytes()
    (corpus / "clip.003.wav").write_text("no audio")
    build(source(corpus), config("a", max_rejected=0.1))
    first = content("a")
    assert json.loads(first["rejected.jsonl"])["detail"] == "Format not recognised."
    (corpus / "clip.003.wav").write_bytes(whole)
    STORE.pipe("/a/shard-000005.tar", b"what a killed retry left")
    build(source(corpus), config("a", retry_rejected=True))
    assert content("a")["rejected.jsonl"] == b"" and len(read_index(location("a"))) == 24
    assert content("a")["shard-000000.tar"] == first["shard-000000.tar"]


def test_an_output_of_file_is_a_folder(corpus: Path, shards: Path, tmp_path: Path):
    build_by_command(corpus, f"file://{tmp_path}/out")
    assert content_on_disk(tmp_path / "out") == content_on_disk(shards)


def test_the_web_takes_no_shards(corpus: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="take no files"):
        PackConfig(output=parse_location("http://127.0.0.1:1/shards"))
    with pytest.raises(ConfigError, match="take no files"):
        make_index(parse_location("http://127.0.0.1:1/shards"))
    done = run_command(
        "sharding.build", "folder", "http://127.0.0.1:1/audio", f"--output={tmp_path}", check=False
    )
    assert_user_error(done, "does not list its files", "http://127.0.0.1:1/audio")


def test_lists_and_audio_on_the_web_give_the_same_shards(corpus: Path, shards: Path):
    with serving(corpus) as web:
        remote = ManifestSource(
            file=parse_location(web.url("corpus/clips.jsonl")),
            class_labels=parse_location(web.url("corpus/classes.csv")),
        )
        build(remote, config("a"))
    tars = {name: tar for name, tar in content_on_disk(shards).items() if name.endswith(".tar")}
    assert {name: content("a")[name] for name in tars} == tars


def test_a_missing_file_is_refused_and_a_failing_store_an_error(tmp_path: Path):
    corpus = write_corpus(tmp_path, num_clips=24)
    (corpus / "clip.000.wav").unlink()
    (corpus / "clip.003.wav").write_bytes(b"")
    with serving(corpus) as web:
        remote = ManifestSource(
            file=corpus / "clips.jsonl",
            class_labels=corpus / "classes.csv",
            audio_root=parse_location(web.url("corpus")),
        )
        build(remote, config("a", max_rejected=0.1))
        refused = [json.loads(line) for line in content("a")["rejected.jsonl"].splitlines()]
        assert {r["clip_id"]: r["reason"] for r in refused} == {
            "clip.000.wav": "missing", "clip.003.wav": "unreadable",
        }  # fmt: skip
        web.fault = lambda path, number: "403" if "clip.006" in path else None
        with pytest.raises(ShardError, match="refuses access"):
            build(remote, config("b", max_rejected=0.1))
        web.fault = lambda path, number: "503" if "clip.006" in path else None
        with pytest.raises(ShardError, match="also when asked again"):
            build(remote, config("c", max_rejected=0.1))
    assert not any(name.startswith("index") for name in {**content("b"), **content("c")})


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
    return [
        AudioSetSource(segments=segments, audio_root=folder / "audio", class_labels=classes),
        FolderSource(folder=folder / "kinds"),
        Fsd50kSource(folder=write_fsd50k(folder / "fsd50k")),
        Esc50Source(folder=write_esc50(folder / "esc50")),
        PslaJsonSource(
            file=folder / "lists" / "train.json", class_labels=classes, audio_root=audio
        ),
        TarsSource(folder=_tars(folder / "tars"), class_labels=classes),
    ]


def _tars(folder: Path) -> Path:
    audio = folder.with_suffix(".wav")
    write_sound(audio, 7)
    return write_tars(folder, [{"__key__": "a", "wav": audio.read_bytes(), "txt": "Bark"}])


def test_every_source_reads_in_a_store_what_it_reads_on_a_disk(tmp_path: Path):
    sets = data_sets(tmp_path / "sets")
    STORE.put(str(tmp_path / "sets"), "/sets", recursive=True)
    for on_disk in sets:
        moved = {
            name: location(str(path.relative_to(tmp_path)))
            for name, path in vars(on_disk).items()
            if isinstance(path, Path)
        }
        classes, clips = on_disk.read()
        classes_there, clips_there = replace(on_disk, **moved).read()  # type: ignore[type-var]
        assert classes == classes_there
        for clip, there in zip(clips, clips_there, strict=True):
            assert str(there.path) == f"memory://{clip.path.relative_to(tmp_path)}"
            assert replace(there, path=clip.path, source=clip.source) == clip
            assert waveform(there) == waveform(clip)


def waveform(clip) -> list[float] | str:
    try:
        return decode(clip, sample_rate_hz=8000).tolist()
    except ClipRefusedError as error:
        return error.reason


def test_tars_of_others_in_a_store_get_sidecars_once(tmp_path: Path):
    soundfile.write(tmp_path / "a.flac", np.linspace(0, 0.5, 8000), 16_000)
    audio = (tmp_path / "a.flac").read_bytes()
    samples = [{"__key__": f"{n}", "flac": audio, "txt": "Bark"} for n in range(12)]
    STORE.put(str(write_tars(tmp_path / "tars", samples, per_tar=4)), "/tars", recursive=True)
    _, found = make_index(location("tars"), write_classes(tmp_path))
    assert found.num_scanned == 3 and check(location("tars"), deep=True) == []
    sidecars = {path: STORE.modified(path) for path in STORE.glob("/tars/*.sidecar.json")}
    _, found = make_index(location("tars"))
    assert found.num_scanned == 0
    STORE.pipe(min(STORE.glob("/tars/*.tar")), STORE.cat(min(STORE.glob("/tars/*.tar"))))
    _, found = make_index(location("tars"))
    assert found.num_scanned == 1 and len(sidecars) == 3
