"""Waveforms to files: the same bytes again, and what is lost on the way."""

import io

import numpy as np
import pytest
import soundfile
from reference.tones import peak_hz, sine

from psla_wds.audio.encode import EXTENSIONS, encode_clip
from psla_wds.audio.pcm import decode_pcm

RATE_HZ = 16_000


def encoded(waveform: np.ndarray, codec: str) -> bytes:
    return encode_clip(waveform.astype(np.float32), sample_rate_hz=RATE_HZ, codec=codec)


@pytest.mark.parametrize("codec", EXTENSIONS)
def test_codecs_repeat_bytes_and_keep_length_and_pitch(codec: str):
    waveform = sine(RATE_HZ, length_s=1.2345)
    content = encoded(waveform, codec)
    assert encoded(waveform, codec) == content
    decoded, rate_hz = decode_pcm(content)
    assert rate_hz == RATE_HZ and len(decoded) == len(waveform)
    assert peak_hz(decoded) == pytest.approx(1000, abs=3)
    assert decoded.std() / 32768 == pytest.approx(waveform.std(), rel=0.03)


def test_ogg_pages_have_serial_0_and_a_right_checksum():
    content = encoded(np.random.default_rng(0).normal(0, 0.1, 5 * RATE_HZ), "vorbis")
    start = num_pages = 0
    while start < len(content):
        segments = content[start + 27 : start + 27 + content[start + 26]]
        page = content[start : start + 27 + len(segments) + sum(segments)]
        assert page[:4] == b"OggS" and page[14:18] == bytes(4)
        assert int.from_bytes(page[22:26], "little") == slow_checksum(page)
        start, num_pages = start + len(page), num_pages + 1
    assert num_pages > 3


def slow_checksum(page: bytes) -> int:
    """RFC 3533: a CRC of the page without its checksum, by polynomial 0x04c11db7, bit by bit."""
    remainder = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1) ^ (0x104C11DB7 if remainder & 0x80000000 else 0)
    return remainder


def test_ten_minutes_of_vorbis_do_not_crash_the_encoder():
    waveform = np.tile(sine(RATE_HZ, 440.0, 10.0), 60)
    assert soundfile.info(io.BytesIO(encoded(waveform, "vorbis"))).frames == len(waveform)


@pytest.mark.parametrize("codec", ["flac", "wav"])
def test_sixteen_bits_survive_and_louder_is_clipped(codec: str):
    pcm = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    waveform = np.append(pcm / 32768, [1.5, -1.5])
    decoded, _ = decode_pcm(encoded(waveform, codec))
    np.testing.assert_array_equal(decoded, [*pcm, 32767, -32768])
