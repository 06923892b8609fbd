"""What the audit of `sharding.stats` says of the clips in shards."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from conftest import assert_user_error, run_command
from data_sets import audio_of, write_class_labels, write_classes, write_members, write_table

from benchmarks.torchaudio_import import kaldi
from psla_wds.audio.pcm import decode_pcm
from psla_wds.features.config import FeatureConfig
from psla_wds.loading.normalisation import is_off
from psla_wds.reading.reader import Reader
from psla_wds.shards.index_files import read_index
from sharding.build import build
from sharding.check import check
from sharding.index import make_index
from sharding.packing.config import PackConfig
from sharding.sources import ManifestSource
from sharding.stats import audit

pytestmark = pytest.mark.usefixtures("one_process")


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
    build(source, PackConfig(output=tmp_path / "shards"))
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


def test_the_audit_of_a_truncated_shard_is_refused(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    tar = copied / "shard-000001.tar"
    os.truncate(tar, tar.stat().st_size - 4096)
    done = run_command("sharding.stats", str(copied), check=False)
    assert_user_error(done, "shard-000001.tar", "expects a shard of")


def test_the_audit_names_a_clip_that_cannot_be_decoded(tmp_path: Path):
    """Scans of tars that others built read only the headers of the audio."""
    whole = audio_of(0, "flac")
    broken = whole[:100] + bytes(len(whole) - 100)
    members = {"a.flac": whole, "a.txt": b"low", "b.flac": broken, "b.txt": b"low"}
    folder = write_members(tmp_path / "tars" / "x.tar", members)
    make_index(folder, write_class_labels(tmp_path / "classes.csv"))
    done = run_command("sharding.stats", str(folder), check=False)
    assert_user_error(
        done, "cannot be decoded", "x.tar", "clip b", f"psla-wds check {folder} --deep"
    )


@pytest.mark.parametrize("scale", [0.1, 1.0])
@pytest.mark.parametrize(
    ("container", "subtype"),
    [("WAV", "FLOAT"), ("WAV", "G721_32"), ("OGG", "VORBIS"), ("OGG", "OPUS")],
)
def test_foreign_audio_is_measured_at_its_level(
    tmp_path: Path, container: str, subtype: str, scale: float
):
    noise = np.random.default_rng(0).normal(0, scale, 32_000)
    buffer = io.BytesIO()
    limited = noise if subtype == "FLOAT" else np.clip(noise, -1, 1)
    soundfile.write(buffer, limited, 16_000, format=container, subtype=subtype)
    members = {f"a.{container.lower()}": buffer.getvalue(), "a.txt": b"low"}
    folder = write_members(tmp_path / "tars" / "x.tar", members)
    make_index(folder, write_class_labels(tmp_path / "classes.csv"))
    assert check(folder, deep=True) == []
    found = audit(read_index(folder), num_clips=1, seed=0)
    with soundfile.SoundFile(io.BytesIO(buffer.getvalue())) as file:
        expected = np.clip(file.read(file.frames), -1, 1)
    level = 20 * np.log10(expected.std())
    assert found["level_dbfs"]["median"] == pytest.approx(level, abs=0.01)
    assert found["silent"] == 0
    assert subtype == "G721_32" or found["clipped"] == int(scale == 1)


def test_statistics_of_log_mel_are_those_of_torchaudio(shards: Path):
    index = read_index(shards)
    reader = Reader(index, threads=1)
    values = []
    for clip in reader.start(np.arange(len(index))).wait():
        waveform = torch.from_numpy(decode_pcm(clip.tobytes())[0] / 32768).float()[None]
        settings = {
            "window_type": "hanning",
            "num_mel_bins": 128,
            "dither": 0.0,
            "use_energy": False,
        }
        log_mel = kaldi.fbank(waveform - waveform.mean(), htk_compat=True, **settings)
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
    assert is_off({"mean": mean, "std": std}, FeatureConfig()) == off
