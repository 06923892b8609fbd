import io
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from psla_wds.audio import ClipRefusedError, decode_pcm, encode_clip, load_clip

RATE_HZ = 16_000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "float": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
}


def sine(rate_hz: int, frequency_hz: float, length_s: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(rate_hz * length_s)) / rate_hz)


def peak_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * RATE_HZ / len(waveform))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (48_000, 2)])
def test_every_format_rate_and_channel_count_becomes_mono(
    tmp_path: Path, name: str, rate_hz: int, channels: int
):
    container, subtype = FORMATS[name]
    waveform = np.repeat(sine(rate_hz, 1000.0)[:, None], channels, axis=1)
    soundfile.write(tmp_path / "clip", waveform, rate_hz, format=container, subtype=subtype)
    loaded = load_clip(tmp_path / "clip", sample_rate_hz=RATE_HZ)
    assert loaded.dtype == np.float32 and abs(len(loaded) - RATE_HZ) < 0.1 * RATE_HZ
    assert peak_hz(loaded) == pytest.approx(1000, abs=3)
    assert loaded.std() == pytest.approx(0.5 / math.sqrt(2), rel=0.05)


def test_channels_are_averaged(tmp_path: Path):
    waveform = np.stack([np.full(1600, 0.5), np.full(1600, -0.25)], axis=1)
    soundfile.write(tmp_path / "clip.wav", waveform, RATE_HZ)
    assert load_clip(tmp_path / "clip.wav", sample_rate_hz=RATE_HZ) == pytest.approx(0.125)


def test_what_lies_above_the_new_rate_does_not_come_back_as_an_alias(tmp_path: Path):
    soundfile.write(tmp_path / "clip.wav", sine(44_100, 10_000.0), 44_100, subtype="FLOAT")
    loaded = load_clip(tmp_path / "clip.wav", sample_rate_hz=RATE_HZ)[1000:-1000]
    assert 20 * math.log10(np.abs(loaded).max() / 0.5) < -80


def test_a_sixteen_bit_waveform_survives_packing_bit_by_bit():
    pcm = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    for codec in ("flac", "wav"):
        encoded = encode_clip((pcm / 32768).astype(np.float32), sample_rate_hz=RATE_HZ, codec=codec)
        decoded, rate_hz = decode_pcm(encoded)
        assert rate_hz == RATE_HZ and np.array_equal(decoded, pcm)


def test_what_is_louder_than_full_scale_is_clipped_not_wrapped():
    loud = np.array([1.5, -1.5, 0.0], np.float32)
    pcm, _ = decode_pcm(encode_clip(loud, sample_rate_hz=RATE_HZ, codec="wav"))
    assert pcm.tolist() == [32767, -32768, 0]


def flac_file() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, RATE_HZ)
    soundfile.write(buffer, noise, RATE_HZ, format="FLAC")
    return buffer.getvalue()


WITHOUT_SAMPLES = encode_clip(np.zeros(0, np.float32), sample_rate_hz=RATE_HZ, codec="wav")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        (b"", "unreadable"),
        (b"no audio", "unreadable"),
        (flac_file()[:2000], "unreadable"),
        (flac_file()[:400] + bytes(100) + flac_file()[500:], "unreadable"),
        (WITHOUT_SAMPLES, "empty"),
    ],
    ids=["missing", "no bytes", "no audio", "cut short", "damaged", "no samples"],
)
def test_a_file_that_cannot_be_used_is_refused_with_a_reason(
    tmp_path: Path, content: bytes | None, reason: str
):
    if content is not None:
        (tmp_path / "clip").write_bytes(content)
    with pytest.raises(ClipRefusedError) as caught:
        load_clip(tmp_path / "clip", sample_rate_hz=RATE_HZ)
    assert caught.value.reason == reason


def test_a_range_beyond_the_end_is_refused_and_one_across_it_is_cut(tmp_path: Path):
    soundfile.write(tmp_path / "clip.wav", sine(RATE_HZ, 440.0), RATE_HZ)
    cut = load_clip(tmp_path / "clip.wav", start_s=0.75, end_s=9.0, sample_rate_hz=RATE_HZ)
    assert len(cut) == RATE_HZ // 4
    with pytest.raises(ClipRefusedError, match="the file has 1 s"):
        load_clip(tmp_path / "clip.wav", start_s=2.0, end_s=3.0, sample_rate_hz=RATE_HZ)


def test_a_header_that_promises_hours_costs_no_memory(tmp_path: Path):
    header = bytearray(flac_file())
    header[21:26] = bytes([0xF0 | header[21] & 0xF, 0xFF, 0xFF, 0xFF, 0xFF])  # samples in all
    (tmp_path / "clip").write_bytes(header)
    with pytest.raises(ClipRefusedError):
        load_clip(tmp_path / "clip", sample_rate_hz=RATE_HZ)
