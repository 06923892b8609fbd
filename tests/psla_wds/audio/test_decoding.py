"""Files, pipes and arrays to waveforms: the right samples, whole or in blocks, or a reason."""

import io
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from reference.tones import peak_hz, sine
from tiny_models import sweep

from psla_wds.audio import files
from psla_wds.audio.decode import Excerpt, decode, load_clip, resample
from psla_wds.errors import AudioError, ClipRefusedError

RATE_HZ = 16_000
SUBTYPES = {
    "WAV": ("PCM_16", "PCM_24", "FLOAT", "GSM610"),  # the last cannot seek
    "FLAC": ("PCM_16",),
    "OGG": ("VORBIS", "OPUS"),
    "MP3": ("MPEG_LAYER_III",),
    "AIFF": ("PCM_16",),
}
FORMATS = [(format, subtype) for format in SUBTYPES for subtype in SUBTYPES[format]]


def load(source: Path | io.BytesIO, **excerpt: Any) -> np.ndarray:
    return load_clip(source, Excerpt(**excerpt), sample_rate_hz=RATE_HZ)


def whole(blocks: Iterator[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(blocks))


def file_of(
    waveform: np.ndarray, rate_hz: int = RATE_HZ, format: str = "WAV", subtype: str | None = None
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate_hz, format=format, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_formats_rates_and_channels_become_mono(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, subtype: str, rate_hz: int
):
    stereo = rate_hz == 48_000 and subtype != "GSM610"
    waveform = sine(rate_hz, length_s=1.5)[:, None] * ([1.2, 0.8] if stereo else [1.0])
    (tmp_path / "clip").write_bytes(file_of(waveform, rate_hz, format, subtype))
    loaded = load(tmp_path / "clip")
    assert loaded.dtype == np.float32 and len(loaded) == pytest.approx(1.5 * RATE_HZ, rel=0.1)
    assert peak_hz(loaded) == pytest.approx(1000, abs=3)
    assert loaded.std() == pytest.approx(0.5 / math.sqrt(2), rel=0.05)
    blocks = list(decode(tmp_path / "clip", RATE_HZ))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), loaded)
    once, _ = soundfile.read(tmp_path / "clip", dtype="float32", always_2d=True)
    if subtype == "GSM610":  # libsndfile appends a block to an odd number of them
        once = once[: round(1.5 * rate_hz)]
    np.testing.assert_allclose(whole(resample([once], rate_hz, RATE_HZ)), loaded, atol=1e-6)
    if rate_hz == RATE_HZ and subtype == "PCM_16":  # which are read as integers
        np.testing.assert_array_equal(once[:, 0], loaded)
    monkeypatch.setattr(files, "BLOCK_SAMPLES", 977)
    np.testing.assert_allclose(whole(decode(tmp_path / "clip", RATE_HZ)), loaded, atol=1e-6)


@pytest.mark.parametrize(
    ("rate_hz", "new_rate_hz"), [(22_050, 16_000), (44_100, 16_000), (48_000, 8_000)]
)
def test_a_sweep_comes_back_without_an_alias(rate_hz: int, new_rate_hz: int):
    time_s = np.arange(4 * rate_hz) / rate_hz
    rising = 0.5 * np.sin(2 * np.pi * rate_hz / 16 * time_s**2)  # from 0 to half the rate
    content = io.BytesIO(file_of(rising, rate_hz, subtype="FLOAT"))
    loaded = load_clip(content, sample_rate_hz=new_rate_hz)
    swept_hz = np.arange(len(loaded)) / new_rate_hz * rate_hz / 8
    in_band = (swept_hz > 100) & (swept_hz < 0.9 * new_rate_hz / 2)
    above = (swept_hz > 1.02 * new_rate_hz / 2) & (swept_hz < 0.99 * rate_hz / 2)
    assert np.abs(loaded[in_band]).max() == pytest.approx(0.5, rel=0.02)
    assert 20 * math.log10(np.abs(loaded[above]).max() / 0.5) < -80


# Excerpts.


@pytest.mark.parametrize(
    ("length_s", "start_s", "end_s", "taken"),
    [
        (10.0, 30.0, 40.0, (0, 10)),
        (10.9, 30.0, 40.0, (0, 10.9)),
        (8.0, 30.0, 40.0, (0, 8)),
        (39.5, 30.0, 40.0, (30, 39.5)),
        (12.0, 0.0, 10.0, (0, 10)),
        (25.0, 30.0, 40.0, None),
    ],
    ids=["cut", "cut, a second more", "cut, less", "whole, its end", "whole", "neither"],
)
def test_length_distinguishes_cut_clips_from_recordings(
    length_s: float, start_s: float, end_s: float, taken: tuple[float, float] | None
):
    ramp = np.arange(round(length_s * RATE_HZ)) / 1e6  # a sample says where it comes from
    content = io.BytesIO(file_of(ramp, subtype="FLOAT"))
    if taken is None:
        with pytest.raises(ClipRefusedError, match="neither the excerpt"):
            load(content, start_s=start_s, end_s=end_s, may_be_cut=True)
        return
    waveform = load(content, start_s=start_s, end_s=end_s, may_be_cut=True)
    assert len(waveform) == round((taken[1] - taken[0]) * RATE_HZ)
    assert waveform[0] == pytest.approx(taken[0] * RATE_HZ / 1e6)


@pytest.mark.parametrize(
    ("excerpt", "expected_s"),
    [
        ({"start_s": 2.75, "end_s": 9.0}, 0.25),
        ({"max_s": 2.0}, 2.0),
        ({"start_s": 2.5, "max_s": 2.0}, 0.5),
        ({"start_s": 3.0, "end_s": 4.0}, None),
    ],
)
def test_an_excerpt_ends_with_the_file(excerpt: dict[str, float], expected_s: float | None):
    content = io.BytesIO(file_of(sine(RATE_HZ, length_s=3.0)))
    if expected_s is None:
        with pytest.raises(ClipRefusedError, match="the file has 3 s"):
            load(content, **excerpt)
    else:
        assert len(load(content, **excerpt)) == expected_s * RATE_HZ


# Damage.


def with_claim(content: bytes, num_bytes: int) -> bytes:
    """A WAV file whose header claims so many bytes of sound."""
    size_at = content.index(b"data") + 4
    return content[:size_at] + num_bytes.to_bytes(4, "little") + content[size_at + 4 :]


def with_nan() -> np.ndarray:
    waveform = sweep(6.0)
    waveform[20_000] = np.nan
    return waveform


FLAC = file_of(sweep(6.0), format="FLAC")
WAV = file_of(sweep(6.0))
HALF = 44 + 6 * RATE_HZ
DAMAGED = {
    "no audio": (b"no audio", "unreadable"),
    "cut flac": (FLAC[: len(FLAC) // 2], "unreadable"),
    "cut wav": (WAV[:HALF], "truncated"),
    "damaged flac": (FLAC[:400] + bytes(100) + FLAC[500:], "unreadable"),
    "flac that claims hours": (
        FLAC[:21] + bytes([0xF0 | FLAC[21] & 0xF, 255, 255, 255, 255]) + FLAC[26:],
        "too-long",
    ),
    "no samples": (file_of(np.zeros(0)), "empty"),
    "nan": (file_of(with_nan(), subtype="FLOAT"), "not-finite"),
}


@pytest.mark.parametrize("name", [*DAMAGED, "missing", "folder"])
def test_damage_is_refused_with_a_reason(name: str, tmp_path: Path):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    content, reason = DAMAGED.get(name, (None, "missing"))
    if content is not None:
        path.write_bytes(content)
    told = []
    for source in (path, io.BytesIO(content or b""))[: 1 if content is None else 2]:
        with pytest.raises(ClipRefusedError) as refused:
            load(source)
        assert refused.value.reason == reason
        told.append(str(refused.value))
    assert len(set(told)) == 1  # wherever it lies
    with pytest.raises(AudioError) as caught:
        whole(decode(path, RATE_HZ))
    assert name in str(caught.value)


def test_what_is_whole_of_a_cut_wav_is_taken(tmp_path: Path):
    assert len(load(io.BytesIO(WAV[:HALF]), start_s=0.5, end_s=2.5)) == 2 * RATE_HZ
    with pytest.raises(ClipRefusedError, match="shorter than its header says"):
        load(io.BytesIO(WAV[:HALF]), start_s=2.0, end_s=4.0)
    (tmp_path / "a").write_bytes(WAV[:HALF])
    heard: list[np.ndarray] = []
    with pytest.raises(AudioError):
        heard.extend(decode(tmp_path / "a", RATE_HZ))
    assert 2 * RATE_HZ <= sum(map(len, heard)) <= 3 * RATE_HZ


# What ffmpeg, SoX and arecord write when they cannot go back; and a header that is a little off.
@pytest.mark.parametrize("claim", [2**32 - 1, 0x7FFFF000 - 36, 6 * RATE_HZ * 2 + 36])
def test_a_header_that_cannot_know_is_not_believed(claim: int, tmp_path: Path):
    content = with_claim(WAV, claim)
    (tmp_path / "a.wav").write_bytes(content)
    assert len(load(tmp_path / "a.wav")) == len(whole(decode(tmp_path / "a.wav", RATE_HZ)))
    if claim > len(content):
        with piped(content) as pipe:
            assert len(whole(decode(pipe, RATE_HZ))) == 6 * RATE_HZ


# Pipes.


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
        while os.read(reader, 2**16):  # so that the thread ends
            pass
    finally:
        os.close(reader)
        thread.join()


@pytest.mark.parametrize(("subtype", "trailer"), [("PCM_16", 0), ("FLOAT", 10_000), ("PCM_24", 0)])
def test_a_wav_comes_out_of_a_pipe(subtype: str, trailer: int):
    left = sweep(1.3, rate_hz=44_100)
    content = file_of(np.stack([left, 0.5 * left[::-1]], axis=1), 44_100, subtype=subtype)
    with piped(content + bytes(trailer)) as pipe:
        np.testing.assert_array_equal(whole(decode(pipe, RATE_HZ)), load(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WAV + bytes(2**21), "more follows than its header says"),
        (WAV[:HALF], "48000 of 96000 samples are there"),
        (b"no audio" * 100, "stdin"),
        (file_of(sweep(3.0), format="MP3"), "MP3 cannot be read from a pipe"),
    ],
    ids=["more", "cut", "no audio", "mp3"],
)
def test_a_pipe_that_cannot_be_read_is_an_error(content: bytes, message: str):
    with piped(content) as pipe, pytest.raises(AudioError, match=message):
        whole(decode(pipe, RATE_HZ))
