"""From data sets as they are published to shards, and what the audit says of these."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from conftest import assert_user_error, run_command, write_corpus
from data_sets import (
    write_classes,
    write_esc50,
    write_fsd50k,
    write_panns_hdf5,
    write_passt_hdf5,
    write_psla_json,
    write_table,
)
from foreign_tars import audio_of, write_class_labels, write_members
from torchaudio.compliance.kaldi import fbank

from psla_wds.audio.decode import decode_pcm
from psla_wds.reading.reader import Reader
from psla_wds.shards.index_files import read_index
from psla_wds.shards.tar import read_sidecar
from sharding.build import build
from sharding.check import check
from sharding.index import make_index
from sharding.packing.config import PackConfig
from sharding.sources import (
    Esc50Source,
    Fsd50kSource,
    Hdf5Source,
    ManifestSource,
    PslaJsonSource,
    TarsSource,
)
from sharding.stats import audit, is_off


def splits_of(shards: Path) -> dict[str, list[str]]:
    index = read_index(shards)
    assert check(shards, deep=True) == []
    found: dict[str, list[str]] = {}
    for row in range(len(index)):
        found.setdefault(index.splits[index.split[row]], []).append(index.clip_id(row))
    return {split: sorted(ids) for split, ids in found.items()}


def test_each_published_data_set_becomes_shards_with_its_splits(tmp_path: Path):
    classes = write_classes(tmp_path)
    psla = write_psla_json(tmp_path / "lists", ["/m/a", "/m/b,/m/c"])
    sources = {
        "fsd50k": Fsd50kSource(folder=write_fsd50k(tmp_path / "fsd")),
        "esc50": Esc50Source(folder=write_esc50(tmp_path / "esc")),
        "psla": PslaJsonSource(
            file=psla, class_labels=classes, audio_root=psla.parent / "wavs", split="train"
        ),
        "panns": Hdf5Source(
            files=(write_panns_hdf5(tmp_path / "w.h5"),), class_labels=classes, split="eval"
        ),
        "passt": Hdf5Source(files=(write_passt_hdf5(tmp_path / "m.hdf"),), class_labels=classes),
    }
    for name, source in sources.items():
        build(source, PackConfig(output=tmp_path / name, workers=1, max_rejected=0.5))
    build(TarsSource(folder=tmp_path / "fsd50k"), PackConfig(output=tmp_path / "again", workers=1))
    fsd50k = {"train": ["10", "11"], "val": ["12", "13"], "eval": ["20", "21"]}
    assert splits_of(tmp_path / "fsd50k") == fsd50k
    assert splits_of(tmp_path / "again") == fsd50k
    tar = "shard-000000.tar"  # packed anew, the same clips give the same bytes
    first, again = (read_sidecar(tmp_path / name / tar) for name in ("fsd50k", "again"))
    assert first.clips.crc32 == again.clips.crc32 and first.clips.mids == again.clips.mids
    folds = splits_of(tmp_path / "esc50")
    assert sorted(folds) == [f"fold{n}" for n in range(1, 6)]
    assert all(len(ids) == 2 and {i[0] for i in ids} == {f[-1]} for f, ids in folds.items())
    assert splits_of(tmp_path / "psla") == {"train": ["0", "1"]}
    assert splits_of(tmp_path / "panns") == {"eval": ["--PJHxphWEs", "clip.1"]}
    assert splits_of(tmp_path / "passt") == {"": ["--PJHxphWEs", "abcdefghijk"]}


@pytest.mark.parametrize(("codec", "extension"), [("opus", "opus"), ("vorbis", "ogg")])
def test_ogg_shards_are_the_same_bytes_for_every_number_of_workers(
    corpus: Path, tmp_path: Path, codec: str, extension: str
):
    source = ManifestSource(file=corpus / "clips.jsonl", class_labels=corpus / "classes.csv")
    for workers in (1, 2):
        settings = {"codec": codec, "clips_per_shard": 12, "workers": workers}
        build(source, PackConfig(output=tmp_path / str(workers), **settings))
    one, two = ([t.read_bytes() for t in sorted((tmp_path / n).glob("*.tar"))] for n in "12")
    assert one == two and len(one) == 4 and f".{extension}".encode() in one[0]
    assert check(tmp_path / "1", deep=True) == []


def test_settings_that_contradict_each_other_are_told():
    for wrong, flag in (
        ({"codec": "opus", "sample_rate_hz": 32_000}, "--codec opus"),
        ({"max_clip_s": 0.0}, "--max-clip-s"),
        ({"shard_mib": 0}, "--shard-mib"),
    ):
        with pytest.raises(Exception, match=flag):
            PackConfig(output=Path("out"), **wrong)


def test_a_dry_run_foretells_what_the_build_then_gives(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=100)
    named = [f"--class-labels={corpus}/classes.csv", f"--output={tmp_path}/shards"]
    arguments = ["manifest", f"{corpus}/clips.jsonl", *named, "--codec=wav", "--shard-mib=1"]
    done = run_command("sharding.build", *arguments, "--max-clip-s=0.8", "--dry-run")
    assert not (tmp_path / "shards").exists()
    told = dict(line.split(None, 1) for line in done.stdout.splitlines()[:6])
    assert told["clips"].startswith("100 (eval ") and told["classes"].startswith("4, 4 of them")
    assert told["refused"].startswith("none, of 64 clips tried")
    run_command("sharding.build", *arguments, "--max-clip-s=0.8")
    index = read_index(tmp_path / "shards")
    size_gb = float(told["size"].split()[1])
    assert sum(index.shard_sizes) / 1e9 == pytest.approx(size_gb, rel=0.1)
    assert len(index.shards) == int(told["shards"]) > 1
    assert 0.8 * 2**20 < index.shard_sizes[0] < 1.2 * 2**20
    assert index.num_samples.max() == 0.8 * 16_000
    finished = {tar: tar.stat().st_mtime_ns for tar in index.shards}
    (corpus / "clip.000.wav").unlink()  # of the sample: the begun build keeps its shards
    run_command("sharding.build", *arguments, "--max-clip-s=0.8")
    assert {tar: tar.stat().st_mtime_ns for tar in finished} == finished


def write_audit_set(folder: Path) -> Path:
    """Ten clips of noise; three of them up-sampled, one clipped, one silent, one there twice."""
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.002, 16_000) for _ in range(10)]
    for number in range(3):
        clips[number] = soxr.resample(rng.normal(0, 0.002, 8_000), 8_000, 16_000)
    clips[3] = np.clip(1500 * clips[3], -1, 1)
    clips[4] = np.zeros(16_000)
    clips[6] = clips[5]
    for number, clip in enumerate(clips):
        soundfile.write(folder / f"{number}.wav", clip, 16_000)
    write_table(folder / "clips.csv", [["path", "labels"], *([f"{n}.wav", "0"] for n in range(10))])
    return folder / "clips.csv"


def test_the_audit_finds_what_is_wrong_with_a_set(tmp_path: Path):
    source = ManifestSource(file=write_audit_set(tmp_path), class_labels=write_classes(tmp_path))
    build(source, PackConfig(output=tmp_path / "shards", workers=1))
    done = run_command("sharding.stats", f"{tmp_path}/shards", "--json")
    report = json.loads(done.stdout)
    assert report["clips"] == report["sample"] == 10
    assert report["likely_rates_hz"] == {"8000": 3, "16000": 7}
    assert (report["clipped"], report["silent"]) == (1, 1)
    duplicates = report["duplicates"]
    assert {frozenset(pair) for pair in duplicates.items()} == {frozenset(("5.wav", "6.wav"))}
    assert report["level_dbfs"]["median"] == pytest.approx(-54, abs=0.5)
    assert "the recipes normalise by mean -4.6476" in done.stderr
    assert f"--features.mean {report['log_mel']['mean']:.4f}" in done.stderr

    some = run_command("sharding.stats", f"{tmp_path}/shards", "--clips=4").stdout
    assert "10 clips, 4 of them decoded" in some and "duplicates  1 of all" in some
    index = read_index(tmp_path / "shards")
    assert audit(index, num_clips=4, seed=0) == audit(index, num_clips=4, seed=0)


def test_the_audit_of_a_truncated_shard_is_refused(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    tar = copied / "shard-000001.tar"
    os.truncate(tar, tar.stat().st_size - 4096)
    done = run_command("sharding.stats", str(copied), check=False)
    assert_user_error(done, "shard-000001.tar", "expects a shard of")


def test_the_audit_names_a_clip_that_cannot_be_decoded(tmp_path: Path):
    """Of tars that others built only the headers of the audio were read."""
    whole = audio_of(0, "flac")
    broken = whole[:100] + bytes(len(whole) - 100)
    members = {"a.flac": whole, "a.txt": b"low", "b.flac": broken, "b.txt": b"low"}
    folder = write_members(tmp_path / "tars" / "x.tar", members)
    make_index(folder, write_class_labels(tmp_path / "classes.csv"))
    done = run_command("sharding.stats", str(folder), check=False)
    assert_user_error(done, "cannot be decoded", "x.tar", "clip b", "sharding.check --deep")


def test_a_split_that_fsd50k_has_not_is_refused(tmp_path: Path):
    words = ["fsd50k", str(tmp_path), f"--output={tmp_path}/out", "--splits", "train", "tset"]
    done = run_command("sharding.build", *words, check=False)
    assert done.returncode == 2 and "tset" in done.stdout + done.stderr


def test_statistics_of_log_mel_are_those_of_torchaudio(shards: Path):
    index = read_index(shards)
    reader = Reader(index, threads=1)
    values = []
    for clip in reader.start(np.arange(len(index))).wait():
        waveform = torch.from_numpy(decode_pcm(clip.tobytes())[0] / 32768).float()[None]
        settings = {"window_type": "hanning", "num_mel_bins": 128, "dither": 0.0}
        log_mel = fbank(waveform - waveform.mean(), htk_compat=True, use_energy=False, **settings)
        values.append(log_mel.flatten())
    reader.close()
    reference = torch.cat(values).double()
    found = audit(index, num_clips=1000, seed=0)["log_mel"]
    assert found["mean"] == pytest.approx(reference.mean().item(), abs=1e-3)
    assert found["std"] == pytest.approx(reference.std().item(), abs=1e-3)


@pytest.mark.parametrize(
    ("mean", "std", "off"),
    [
        (-4.6, 4.6, False),
        (-4.6476 - 2.2, 4.5699, False),
        (-4.6476 - 2.4, 4.5699, True),
        (-4.6476 + 2.4, 4.5699, True),
        (-4.6476, 7.0, True),
        (-4.6476, 2.0, True),
    ],
)
def test_half_a_standard_deviation_off_is_too_much(mean: float, std: float, off: bool):
    assert is_off({"mean": mean, "std": std}) == off


def test_a_class_list_is_written_once_and_named_in_what_to_run_next(tmp_path: Path):
    write_fsd50k(tmp_path)
    arguments = [f"{tmp_path}/FSD50K.ground_truth/dev.csv", f"--output={tmp_path}/made.csv"]
    done = run_command("sharding.labels", *arguments, "--separator=,")
    assert "wrote 2 classes" in done.stdout and f"--class-labels {tmp_path}/made.csv" in done.stdout
    rows = (tmp_path / "made.csv").read_text().splitlines()
    assert rows == ["index,mid,display_name", "0,Bark,Bark", "1,Meow,Meow"]
    again = run_command("sharding.labels", *arguments, check=False)
    assert_user_error(again, "there is a file already")
