"""Packing, as a user does it: from files to shards, and what happens to bad input."""

import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from builds import build, content, ids, tars_of
from conftest import assert_user_error, manifest_arguments, run_command, write_corpus
from data_sets import (
    write_classes,
    write_esc50,
    write_fsd50k,
    write_panns_hdf5,
    write_passt_hdf5,
    write_psla_json,
    write_sound,
)

from psla_wds.audio.pcm import decode_pcm
from psla_wds.errors import ConfigError, ManifestError
from psla_wds.labels import class_list
from psla_wds.reading.reader import Reader
from psla_wds.shards.index_files import read_index
from psla_wds.shards.tar import read_sidecar
from sharding.build import build as build_from
from sharding.check import check
from sharding.packing.config import PackConfig
from sharding.sources import (
    Esc50Source,
    FolderSource,
    Fsd50kSource,
    Hdf5Source,
    ManifestSource,
    PslaJsonSource,
    TarsSource,
)

pytestmark = pytest.mark.usefixtures("one_process")


def test_clips_become_16_khz_mono_and_16_bits_survive(corpus: Path, shards: Path):
    index = read_index(shards)
    reader = Reader(index, threads=2)
    clips = reader.start(np.arange(len(index))).wait()
    reader.close()
    for row, clip in enumerate(clips):
        pcm, rate_hz = decode_pcm(clip.tobytes())
        assert rate_hz == 16_000 and len(pcm) == index.num_samples[row]
        assert pcm.std() > 100
        if index.clip_id(row) == "clip.000.wav":
            source, _ = soundfile.read(corpus / "clip.000.wav", dtype="int16")
            assert np.array_equal(pcm, source)


def test_the_seed_shuffles_clips_over_the_shards(corpus: Path, shards: Path, tmp_path: Path):
    index = read_index(shards)
    ids = [index.clip_id(row) for row in range(len(index))]
    assert ids != sorted(ids)
    per_shard = [index.targets(np.flatnonzero(index.shard == s)).sum(axis=0) for s in range(4)]
    assert all((counts > 0).sum() >= 3 for counts in per_shard)
    build(corpus, tmp_path / "other", "--seed=1")
    assert tars_of(tmp_path / "other") != tars_of(shards)


def test_finished_shards_are_not_made_again(corpus: Path, shards: Path, tmp_path: Path):
    output = shutil.copytree(shards, tmp_path / "shards")
    (output / "shard-000002.sidecar.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in output.glob("shard-*")}
    build(corpus, output)
    made = {path.name for path, time_ns in kept.items() if path.stat().st_mtime_ns != time_ns}
    assert made == {"shard-000002.tar"} and tars_of(output) == tars_of(shards)


def test_start_and_end_cut_a_clip_out_of_a_longer_file(tmp_path: Path):
    time_s = np.arange(3 * 16_000) / 16_000
    soundfile.write(tmp_path / "long.wav", np.where(time_s < 1, 0.5, -0.5), 16_000)
    (tmp_path / "clips.csv").write_text(
        "path,labels,clip_id,start_s,end_s\nlong.wav,Bark,first,0,1\nlong.wav,Bark,later,1.5,9\n"
    )
    source = ManifestSource(file=tmp_path / "clips.csv", class_labels=write_classes(tmp_path))
    build_from(source, PackConfig(output=tmp_path / "shards"))
    index = read_index(tmp_path / "shards")
    lengths = {index.clip_id(row): index.num_samples[row] for row in range(2)}
    assert lengths == {"first": 16_000, "later": 24_000}


def test_a_folder_per_class_is_split_by_clip_id(tmp_path: Path):
    write_corpus(tmp_path / "corpus", num_clips=40)
    for path in (tmp_path / "corpus").glob("clip.*"):
        target = tmp_path / "classes" / f"class {int(path.name[5:8]) % 4}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    output = tmp_path / "shards"
    words = [f"{tmp_path}/classes", f"--output={output}", "--eval-share=0.3"]
    run_command("sharding.build", "folder", *words)
    index = read_index(output)
    assert index.classes.names == tuple(f"class {n}" for n in range(4))
    assert index.splits == ("eval", "train")
    assert 4 <= (index.split == 0).sum() <= 20


def test_a_shortened_clip_id_is_whole_in_the_json(tmp_path: Path):
    names = [f"{'雨' * 83}.wav", "b.wav"]
    for number, name in enumerate(names):
        write_sound(tmp_path / "set" / "rain" / name, number)
    output = tmp_path / "shards"
    done = run_command("sharding.build", "folder", tmp_path / "set", f"--output={output}")
    assert "1 clip ids" in done.stderr
    with tarfile.open(output / "shard-000000.tar") as tar:
        texts = [tar.extractfile(m).read() for m in tar if m.name.endswith(".json")]
    sources = {row["clip_id"]: row["source"] for row in map(json.loads, texts)}
    assert sources.pop("rain/b.wav") == "b.wav"
    ((clip_id, source),) = sources.items()
    assert source.endswith(f"rain/{names[0]}") and clip_id in ids(output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["manifest", "no.csv", "--class-labels=no.csv"], "no class list here"),
        (["manifest", "empty.jsonl", "--class-labels=classes.csv"], "lists no clip"),
        (["manifest", "unknown.csv", "--class-labels=classes.csv"], "did you mean"),
        (["manifest", "twice.csv", "--class-labels=classes.csv"], "appears twice"),
        (["folder", "no"], "no such folder"),
        (["folder", "bare"], "no subfolder"),
        (["folder", "classes", "--output=full"], "not empty"),
        (["folder", "classes", "--output=file"], "not empty"),
        (["folder", "classes", "--clips-per-shard=0"], "--clips-per-shard"),
        (["folder", "classes", "--eval-share=1.5"], "--eval-share"),
        (["folder", "classes", "--max-clip-s=0"], "--max-clip-s"),
        (["folder", "classes", "--codec=flac", "--sample-rate-hz=700000"], "--codec flac"),
        (["folder", "classes", "--codec=flac", "--sample-rate-hz=65537"], "--codec flac"),
        (["folder", "classes", "--codec=vorbis", "--sample-rate-hz=200001"], "--codec vorbis"),
        (["folder", "classes", "--codec=opus", "--sample-rate-hz=32000"], "--codec opus"),
        (["folder", "classes", "--codec=vorbis", "--sample-rate-hz=250000"], "--codec vorbis"),
        (["folder", "classes", "--sample-rate-hz=700000"], "--codec flac"),
        (["folder", "classes", "--sample-rate-hz=100001"], "--codec flac"),
        (["folder", "classes", "--max-clip-s=1e308"], "--max-clip-s"),
        (["manifest", "splits.csv", "--class-labels=classes.csv", "--dry-run"], "257 splits"),
        (["folder", "classes"], "2 of 2 clips were refused"),
    ],
)
def test_bad_input_gets_one_error_and_overwrites_nothing(
    tmp_path: Path, arguments: list[str], message: str
):
    (tmp_path / "classes.csv").write_text("index,mid,display_name\n0,/t/dog,dog\n")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "unknown.csv").write_text("path,labels\na.wav,dig\n")
    (tmp_path / "twice.csv").write_text("path,labels\na.wav,dog\na.wav,dog\n")
    rows = (f"{n}.wav,dog,split{n}\n" for n in range(257))
    (tmp_path / "splits.csv").write_text("path,labels,split\n" + "".join(rows))
    for name in ("bare", "full/precious", "classes/dog"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").write_text("precious")
    for name in ("1.wav", "2.wav"):
        (tmp_path / "classes" / "dog" / name).write_text("no audio")
    if not any(a.startswith("--output") for a in arguments):
        arguments = [*arguments, "--output=out"]
    done = run_command("sharding.build", *arguments, check=False, cwd=tmp_path)
    assert_user_error(done, message)
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "out" / "index").exists()


@pytest.mark.parametrize("source", ["folder", "manifest"])
def test_too_many_classes_are_refused_before_packing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
):
    monkeypatch.setattr(class_list, "MAX_CLASSES", 1)
    for name in ("cat", "dog"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        (tmp_path / "clips" / name / "a.wav").touch()
    (tmp_path / "c.csv").write_text("index,mid,display_name\n0,/t/cat,cat\n1,/t/dog,dog\n")
    (tmp_path / "m.csv").write_text("path,labels\na.wav,dog\n")
    sources = {
        "folder": FolderSource(folder=tmp_path / "clips"),
        "manifest": ManifestSource(file=tmp_path / "m.csv", class_labels=tmp_path / "c.csv"),
    }
    config = PackConfig(output=tmp_path / "out", dry_run=True)
    with pytest.raises(ManifestError, match="2 classes, and an index has room for 1"):
        build_from(sources[source], config)


def test_an_unknown_split_of_fsd50k_is_refused(tmp_path: Path):
    words = ["fsd50k", str(tmp_path), f"--output={tmp_path}/out", "--splits", "train", "tset"]
    done = run_command("sharding.build", *words, check=False)
    assert done.returncode == 2 and "tset" in done.stdout + done.stderr


def splits_of(shards: Path) -> dict[str, list[str]]:
    index = read_index(shards)
    assert check(shards, deep=True) == []
    found: dict[str, list[str]] = {}
    for row in range(len(index)):
        found.setdefault(index.splits[index.split[row]], []).append(index.clip_id(row))
    return {split: sorted(ids) for split, ids in found.items()}


def test_published_data_sets_become_shards_with_their_splits(tmp_path: Path):
    classes = write_classes(tmp_path)
    psla = write_psla_json(tmp_path / "lists", ["/m/a", "/m/b,/m/c"])
    panns, passt = write_panns_hdf5(tmp_path / "w.h5"), write_passt_hdf5(tmp_path / "m.hdf")
    wavs = psla.parent / "wavs"
    sources = {
        "fsd50k": Fsd50kSource(folder=write_fsd50k(tmp_path / "fsd")),
        "esc50": Esc50Source(folder=write_esc50(tmp_path / "esc")),
        "psla": PslaJsonSource(file=psla, class_labels=classes, audio_root=wavs, split="train"),
        "panns": Hdf5Source(files=(panns,), class_labels=classes, split="eval"),
        "passt": Hdf5Source(files=(passt,), class_labels=classes),
        "again": TarsSource(folder=tmp_path / "fsd50k"),
    }
    for name, source in sources.items():
        build_from(source, PackConfig(output=tmp_path / name, max_rejected=0.5))
    found = {name: splits_of(tmp_path / name) for name in sources}
    assert found["fsd50k"] == {"train": ["10", "11"], "val": ["12", "13"], "eval": ["20", "21"]}
    assert found["again"] == found["fsd50k"]
    tar = "shard-000000.tar"  # packed anew, the same clips give the same bytes
    first, again = (read_sidecar(tmp_path / name / tar) for name in ("fsd50k", "again"))
    assert first.clips.crc32 == again.clips.crc32 and first.clips.mids == again.clips.mids
    folds = found["esc50"]
    assert sorted(folds) == [f"fold{n}" for n in range(1, 6)]
    assert all(len(ids) == 2 and {i[0] for i in ids} == {f[-1]} for f, ids in folds.items())
    assert found["psla"] == {"train": ["0", "1"]}
    assert found["panns"] == {"eval": ["--PJHxphWEs", "clip.1"]}
    assert found["passt"] == {"": ["--PJHxphWEs", "abcdefghijk"]}


def test_a_dry_run_foretells_what_the_build_then_gives(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=100)
    named = [f"--class-labels={corpus}/classes.csv", f"--output={tmp_path}/shards"]
    arguments = ["manifest", f"{corpus}/clips.jsonl", *named, "--codec=wav", "--shard-mib=1"]
    done = run_command("sharding.build", *arguments, "--max-clip-s=0.8", "--dry-run")
    assert not (tmp_path / "shards").exists()
    printed = dict(line.split(None, 1) for line in done.stdout.splitlines()[:6])
    assert printed["clips"].startswith("100 (eval ")
    assert printed["classes"].startswith("4, 4 of them")
    assert printed["refused"].startswith("none, of 64 clips tried")
    run_command("sharding.build", *arguments, "--max-clip-s=0.8")
    index = read_index(tmp_path / "shards")
    _, size_mb, unit = printed["size"].split()
    assert unit == "MB" and " s with " in printed["time"]
    assert sum(index.shard_sizes) / 1e6 == pytest.approx(float(size_mb), rel=0.1)
    assert len(index.shards) == int(printed["shards"]) > 1
    assert 0.8 * 2**20 < index.shard_sizes[0] < 1.2 * 2**20
    assert index.num_samples.max() == 0.8 * 16_000
    finished = {tar: tar.stat().st_mtime_ns for tar in index.shards}
    (corpus / "clip.000.wav").unlink()  # of the sample: the begun build keeps its shards
    run_command("sharding.build", *arguments, "--max-clip-s=0.8")
    assert {tar: tar.stat().st_mtime_ns for tar in finished} == finished


@pytest.mark.parametrize("num_there", [0, 3])
def test_a_dry_run_finds_files_that_are_missing(tmp_path: Path, num_there: int):
    corpus = write_corpus(tmp_path / "corpus", num_clips=4)
    for clip in sorted(corpus.glob("clip.*"))[num_there:]:
        clip.unlink()
    words = ["manifest", corpus / "clips.jsonl", f"--class-labels={corpus}/classes.csv"]
    words += [f"--output={tmp_path}/shards", "--dry-run"]
    done = run_command("sharding.build", *words, check=False)
    if not num_there:
        assert_user_error(done, "4 of 4 clips were refused", "4 missing", "--audio-root")
    else:
        last = done.stdout.splitlines()[-1]
        assert done.returncode == 0 and last.startswith("nothing was written; 1 of 4 files tried")
        assert "--audio-root" in last


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["my clips", "--output=s"], "folder 'my clips' --output=s"),
        (["--output=s", "my clips"], "folder --output=s 'my clips'"),
        (["foldr", "my clips"], "folder 'my clips'"),
        (["a.csv"], "manifest a.csv"),
        (["tars of others"], "tars 'tars of others'"),
        (["nowhere"], "SOURCE ...: folder"),
    ],
    ids=str,
)
def test_a_build_without_a_source_names_the_one_meant(words: list[str], meant: str, tmp_path: Path):
    for folder in ("my clips", "tars of others"):
        (tmp_path / folder).mkdir()
    for file in ("a.csv", "tars of others/a.tar"):
        (tmp_path / file).touch()
    done = run_command("sharding.build", *words, cwd=tmp_path, check=False)
    assert_user_error(done, f".py {meant}")


@pytest.mark.parametrize("plan_stands", [False, True])
def test_a_build_killed_at_its_beginning_can_begin(
    corpus: Path, shards: Path, tmp_path: Path, plan_stands: bool
):
    (tmp_path / "build.json.0123abcd.tmp").write_text("half")
    if plan_stands:
        shutil.copy(shards / "build.json", tmp_path)
        (tmp_path / "class_labels_indices.csv.0123abcd.tmp").write_text("half")
    build(corpus, tmp_path)
    assert content(tmp_path) == content(shards)


@pytest.mark.parametrize(
    ("engine", "scheduler"), [("dask", None), ("local", "tcp://host:8786")], ids=["none", "unused"]
)
def test_a_scheduler_goes_with_engine_dask(engine: str, scheduler: str | None):
    with pytest.raises(ConfigError, match="needs exactly one scheduler"):
        PackConfig(output=Path("shards"), engine=engine, scheduler=scheduler)


def test_interrupting_by_keyboard_leaves_no_traceback(corpus: Path, tmp_path: Path):
    output = tmp_path / "shards"
    rows = list(map(json.loads, (corpus / "clips.jsonl").read_text().splitlines()))
    many = [
        row | {"clip_id": f"{number}-{i}"} for number in range(20) for i, row in enumerate(rows)
    ]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    command = [sys.executable, "-m", "sharding.build", "manifest", str(tmp_path / "many.jsonl")]
    command += manifest_arguments(corpus, output)[1:]
    command += [f"--audio-root={corpus}", "--workers=1"]
    command += ["--clips-per-shard=1"]  # 960 shards, which take their time
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # Tests in the background of a shell ignore the signal, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(output.glob("*.sidecar.json")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr
