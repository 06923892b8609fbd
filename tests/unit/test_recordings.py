"""Recordings as streams: the samples that packing has, from files, pipes and arrays."""

import csv
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_models import sweep

from psla_wds.audio import recordings
from psla_wds.audio.decode import load_clip
from psla_wds.audio.recordings import blocks_of, decode, length_s
from psla_wds.errors import AudioError

RATE_HZ = 16_000
FFMPEG = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on PATH")


@pytest.fixture(scope="module")
def stereo() -> np.ndarray:
    left = sweep(1.3, rate_hz=44_100)
    return np.stack([left, 0.5 * left[::-1]], axis=1)


def whole(blocks: Iterator[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(blocks))


@contextmanager
def piped(content: bytes) -> Iterator[int]:
    """A pipe that these bytes come out of, a few at a time."""
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as file:
            for start in range(0, len(content), 5_000):
                file.write(content[start : start + 5_000])

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield reader
    finally:
        os.close(reader)
        thread.join()


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff"])
def test_a_file_gives_the_samples_that_packing_has(stereo: np.ndarray, name: str, tmp_path: Path):
    path = tmp_path / name
    soundfile.write(path, stereo, 44_100)
    expected = load_clip(path, sample_rate_hz=RATE_HZ)
    blocks = list(decode(path, RATE_HZ))
    assert len(blocks) > 2
    np.testing.assert_array_equal(np.concatenate(blocks), expected)
    assert length_s(path) == pytest.approx(1.3, abs=0.01)


@FFMPEG
def test_ffmpeg_decodes_the_rest_into_a_pipe(stereo: np.ndarray, tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", stereo, 44_100)
    m4a = tmp_path / "-a b.m4a"
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.wav"), f"file:{m4a}"]
    subprocess.run(command, check=True)
    expected = load_clip(m4a, sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(whole(decode(m4a, RATE_HZ)), expected)
    assert length_s(m4a) is None
    next(decode(m4a, RATE_HZ))  # and no more: ffmpeg is ended


@FFMPEG
def test_what_ffmpeg_cannot_read_has_its_reason(tmp_path: Path):
    (tmp_path / "a.m4a").write_bytes(b"no audio" * 500)
    with pytest.raises(AudioError, match=r"ffmpeg: .*Invalid data"):
        whole(decode(tmp_path / "a.m4a", RATE_HZ))


def test_without_ffmpeg_its_formats_are_refused(tmp_path: Path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"audio")
    monkeypatch.setattr(recordings.ffmpeg, "version", lambda: None)
    with pytest.raises(AudioError, match="m4a files need ffmpeg"):
        whole(decode(tmp_path / "a.m4a", RATE_HZ))


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "PCM_24"])
@pytest.mark.parametrize("length", ["known", "unknown"])
def test_a_wav_comes_out_of_a_pipe(stereo, subtype: str, length: str, tmp_path: Path):
    path = tmp_path / "a.wav"
    soundfile.write(path, stereo, 44_100, subtype=subtype)
    expected = load_clip(path, sample_rate_hz=RATE_HZ)
    content = bytearray(path.read_bytes())
    if length == "unknown":  # as programs write it that cannot go back and mend it
        size_at = content.index(b"data") + 4
        content[4:8] = content[size_at : size_at + 4] = b"\xff" * 4
    with piped(bytes(content)) as pipe:
        np.testing.assert_array_equal(whole(decode(pipe, RATE_HZ)), expected)


def test_what_follows_the_sound_in_a_pipe_is_a_trailer_or_an_error(stereo, tmp_path: Path):
    path = tmp_path / "a.wav"
    soundfile.write(path, stereo, 44_100)
    expected = load_clip(path, sample_rate_hz=RATE_HZ)
    with piped(path.read_bytes() + bytes(10_000)) as pipe:
        np.testing.assert_array_equal(whole(decode(pipe, RATE_HZ)), expected)
    with piped(path.read_bytes() + bytes(2**21)) as pipe:
        with pytest.raises(AudioError, match="more follows than its header says"):
            whole(decode(pipe, RATE_HZ))
        while os.read(pipe, 2**16):  # so that the thread that feeds it ends
            pass


def test_a_pipe_with_something_else_is_refused():
    with piped(b"no audio" * 100) as pipe, pytest.raises(AudioError, match="stdin"):
        whole(decode(pipe, RATE_HZ))


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 1_000, 11_025.5])
def test_arrays_give_the_same_however_they_are_cut(rate_hz: float, monkeypatch):
    waveform = sweep(1.0, rate_hz=int(rate_hz))
    expected = whole(blocks_of(waveform, rate_hz, to_hz=RATE_HZ))
    monkeypatch.setattr(recordings, "BLOCK_SAMPLES", 97)
    np.testing.assert_array_equal(whole(blocks_of(waveform, rate_hz, to_hz=RATE_HZ)), expected)


def test_a_low_rate_takes_no_memory_for_being_low():
    blocks = blocks_of(np.zeros(50_000, np.float32), 1.0, to_hz=RATE_HZ)
    assert max(len(next(blocks)) for _ in range(50)) <= 20 * RATE_HZ


def damaged(name: str, folder: Path) -> Path:
    path = folder / name
    waveform = sweep(6.0)
    match name:
        case "whole.wav":
            soundfile.write(path, waveform, RATE_HZ)
        case "cut.wav" | "cut.flac":
            soundfile.write(path, waveform, RATE_HZ)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "nan.wav":
            waveform[20_000] = np.nan
            soundfile.write(path, waveform, RATE_HZ, subtype="FLOAT")
        case "empty.wav":
            soundfile.write(path, waveform[:0], RATE_HZ)
        case "text.wav":
            path.write_text("no audio")
        case "folder.wav":
            path.mkdir()
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.flac", "cannot be read"),
        ("cut.wav", "ends before its header says so"),
        ("nan.wav", "NaN or infinite"),
        ("empty.wav", "no sample"),
        ("text.wav", "cannot be read"),
        ("none.wav", "No such file"),
        ("folder.wav", "Is a directory"),
    ],
)
def test_what_cannot_be_read_is_one_error(name: str, message: str, tmp_path: Path):
    with pytest.raises(AudioError, match=message) as caught:
        whole(decode(damaged(name, tmp_path), RATE_HZ))
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["cut.flac", "cut.wav"])
def test_a_file_that_ends_early_is_heard_until_there(name: str, tmp_path: Path):
    heard = []
    with pytest.raises(AudioError):
        for block in decode(damaged(name, tmp_path), RATE_HZ):
            heard.append(block)
    assert 2 * RATE_HZ <= len(np.concatenate(heard)) <= 3 * RATE_HZ


def with_claim(content: bytes, num_bytes: int) -> bytes:
    """A WAV file whose header claims so many bytes of sound."""
    size_at = content.index(b"data") + 4
    return content[:size_at] + num_bytes.to_bytes(4, "little") + content[size_at + 4 :]


# What ffmpeg, SoX and arecord write when they cannot go back; and a header that is a little off.
@pytest.mark.parametrize("claim", [2**32 - 1, 0x7FFFF000 - 36, 2**31, 6 * RATE_HZ * 2 + 36])
def test_a_header_that_cannot_know_its_length_is_not_believed(claim: int, tmp_path: Path):
    content = with_claim(damaged("whole.wav", tmp_path).read_bytes(), claim)
    (tmp_path / "a.wav").write_bytes(content)
    assert len(whole(decode(tmp_path / "a.wav", RATE_HZ))) == 6 * RATE_HZ
    if claim > len(content):
        with piped(content) as pipe:
            assert len(whole(decode(pipe, RATE_HZ))) == 6 * RATE_HZ


def test_a_pipe_that_ends_before_its_header_says_so_is_an_error(tmp_path: Path):
    content = damaged("cut.wav", tmp_path).read_bytes()
    with piped(content) as pipe, pytest.raises(AudioError, match="before its header says so"):
        whole(decode(pipe, RATE_HZ))


def test_a_pipe_with_a_name_is_read_as_one(tmp_path: Path):
    content = damaged("whole.wav", tmp_path).read_bytes()
    os.mkfifo(tmp_path / "pipe.wav")
    assert length_s(tmp_path / "pipe.wav") is None
    feeder = threading.Thread(target=(tmp_path / "pipe.wav").write_bytes, args=(content,))
    feeder.start()
    assert len(whole(decode(tmp_path / "pipe.wav", RATE_HZ))) == 6 * RATE_HZ
    feeder.join()


def test_mp3_out_of_a_pipe_is_refused_before_it_is_noise(tmp_path: Path):
    soundfile.write(tmp_path / "a.mp3", sweep(3.0), RATE_HZ)
    with piped((tmp_path / "a.mp3").read_bytes()) as pipe:
        with pytest.raises(AudioError, match="MP3 cannot be read from a pipe"):
            next(decode(pipe, RATE_HZ))
        while os.read(pipe, 2**16):
            pass


def test_a_codec_that_cannot_tell_where_it_is_is_read(tmp_path: Path):
    soundfile.write(tmp_path / "phone.wav", sweep(2.0, rate_hz=8_000), 8_000, subtype="GSM610")
    assert len(whole(decode(tmp_path / "phone.wav", RATE_HZ))) == pytest.approx(32_000, abs=700)


@pytest.mark.slow
def test_real_recordings_give_the_samples_that_packing_has(real_clips: Path):
    with (real_clips / "manifest.csv").open(newline="") as file:
        paths = [real_clips / row["path"] for row in csv.DictReader(file)]
    others = [path for path in paths if soundfile.info(path).samplerate != RATE_HZ]
    for path in [*paths[:: len(paths) // 40], *others[:40]]:
        expected = load_clip(path, sample_rate_hz=RATE_HZ)
        np.testing.assert_array_equal(whole(decode(path, RATE_HZ)), expected)
