"""Samples of clips: those of 16-bit files exactly, of all others at their level."""

import io
from contextlib import suppress

import numpy as np
import pytest
import soundfile
from by_libsndfile import by_libsndfile, outcome
from fuzz.properties import limited_memory

from psla_wds.audio import pcm as pcm_module
from psla_wds.audio.decode import MAX_CLIP_S, MAX_RATE_HZ, load_clip, mix_channels
from psla_wds.audio.pcm import decode_float, decode_pcm
from psla_wds.errors import ClipRefusedError

RATE_HZ = 8_000
NOISE = np.random.default_rng(0).normal(0, 0.1, (RATE_HZ, 3)).astype(np.float32)


def file_of(waveform: np.ndarray, container: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, RATE_HZ, format=container, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_sixteen_bits_are_kept_exactly(container: str, channels: int):
    written = np.random.default_rng(1).integers(-32768, 32768, (999, channels)).astype(np.int16)
    pcm, rate_hz = decode_pcm(file_of(written, container, "PCM_16"))
    assert rate_hz == RATE_HZ
    assert np.array_equal(pcm, np.rint(written.mean(axis=1)))


def mean_by_libsndfile(encoded: bytes) -> np.ndarray:
    return mix_channels(by_libsndfile(encoded))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_ordinary_wav_is_as_by_libsndfile_without_it(
    channels: int, monkeypatch: pytest.MonkeyPatch
):
    written = np.random.default_rng(1).integers(-32768, 32768, (999, channels)).astype(np.int16)
    encoded = file_of(written, "WAV", "PCM_16")
    expected = mean_by_libsndfile(encoded)
    monkeypatch.delattr(pcm_module, "_by_libsndfile")
    samples, rate_hz = decode_float(memoryview(encoded))
    assert rate_hz == RATE_HZ
    np.testing.assert_array_equal(samples, expected)


def test_changed_headers_of_wav_have_the_outcome_of_libsndfile():
    encoded = file_of((1000 * NOISE[:333, :2]).astype(np.int16), "WAV", "PCM_16")
    changed = [bytes(encoded[:cut]) for cut in (0, 11, 43, 44, 45, 46, 47, 100, len(encoded) - 1)]
    for place in range(44):
        for value in (0, 1, 2, 3, 0x41, 0x7F, 0x80, 0xFF):
            changed.append(encoded[:place] + bytes([value]) + encoded[place + 1 :])
    outcomes = [
        (outcome(lambda encoded: decode_float(encoded)[0], some), outcome(mean_by_libsndfile, some))
        for some in [*changed, encoded + b"LIST\4\0\0\0text"]
    ]
    assert all(ours == theirs for ours, theirs in outcomes)
    assert 20 < outcomes.count(("refused", "refused")) < len(outcomes) - 20


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE", "PCM_24", "ULAW"])
def test_other_wav_keeps_its_level(subtype: str):
    pcm, _ = decode_pcm(file_of(NOISE[:, :1], "WAV", subtype))
    assert np.allclose(pcm / 32768, NOISE[:, 0], atol=0.02)
    assert (pcm / 32768).std() == pytest.approx(NOISE[:, 0].std(), rel=0.01)


@pytest.mark.parametrize(
    ("container", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("WAV", "FLOAT")]
)
def test_above_full_scale_is_clipped(container: str, subtype: str):
    encoded = file_of(np.clip(10 * NOISE[:, 0], -1, 1), container, subtype)
    if subtype == "FLOAT":
        encoded = file_of(10 * NOISE[:, 0], container, subtype)
    expected, _ = soundfile.read(io.BytesIO(encoded))
    assert np.abs(expected).max() > 1
    pcm, _ = decode_pcm(encoded)
    assert np.abs(pcm / 32768 - np.clip(expected, -1, 1)).max() < 1e-4


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32"])
def test_codecs_that_cannot_seek_are_decoded(subtype: str):
    encoded = file_of(NOISE[:6400, 0], "WAV", subtype)
    pcm, _ = decode_pcm(encoded)
    assert len(pcm) == soundfile.info(io.BytesIO(encoded)).frames
    assert (pcm / 32768).std() == pytest.approx(NOISE[:, 0].std(), rel=0.3)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(RuntimeError, match="NaN or infinite"):
        decode_pcm(file_of(np.array([0, np.nan, 0], np.float32), "WAV", "FLOAT"))


@pytest.mark.parametrize("rate_hz", [8_000, 192_000])
def test_a_claimed_length_takes_no_memory(rate_hz: int):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.tile(NOISE, (1, 2)), rate_hz, format="FLAC")
    encoded = bytearray(buffer.getvalue())
    claimed = MAX_CLIP_S * MAX_RATE_HZ // 6 - 1
    encoded[21] &= 0xF0  # the length has 36 bits
    encoded[22:26] = int(claimed).to_bytes(4, "big")
    with limited_memory():
        with pytest.raises(ClipRefusedError):
            load_clip(io.BytesIO(encoded), sample_rate_hz=16_000)
        with suppress(RuntimeError):
            assert len(decode_pcm(bytes(encoded))[0]) < 10 * len(NOISE)
