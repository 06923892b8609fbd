"""Waveforms to audio files: the same samples always give the same bytes."""

import io
import struct
import zlib
from typing import Literal

import numpy as np
import soundfile
from jaxtyping import Float32, Int16

Codec = Literal["flac", "opus", "vorbis", "wav"]

EXTENSIONS = {"flac": "flac", "opus": "opus", "vorbis": "ogg", "wav": "wav"}
"""Extension of the members of a tar, by codec."""
OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
HIGHEST_RATES_HZ = {"flac": 655_350, "vorbis": 200_000, "wav": 768_000}
"""Highest sample rates of codecs that have others than a few."""

_FORMATS = {
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
    "vorbis": ("OGG", "VORBIS"),
    "wav": ("WAV", "PCM_16"),
}
_SAMPLES_AT_ONCE = 2**18  # libvorbis overflows its stack when it gets many minutes at once

# Ogg pages, RFC 3533, section 6.
_SERIAL_AT, _CHECKSUM_AT, _SEGMENTS_AT, _HEADER_BYTES = 14, 22, 26, 27
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def takes_rate(codec: Codec, sample_rate_hz: int) -> bool:
    """Whether a codec can have this sample rate; libvorbis crashes at others."""
    if codec == "opus":
        return sample_rate_hz in OPUS_RATES_HZ
    # libFLAC's streams state rates above 16 bits in tens.
    is_written = codec != "flac" or sample_rate_hz < 2**16 or sample_rate_hz % 10 == 0
    return is_written and sample_rate_hz <= HIGHEST_RATES_HZ[codec]


def encode_clip(
    waveform: Float32[np.ndarray, " samples"], *, sample_rate_hz: int, codec: Codec
) -> bytes:
    """An audio file of the waveform. FLAC and WAV have 16 bits and keep a 16-bit source exactly."""
    pcm = to_pcm(waveform)
    container, subtype = _FORMATS[codec]
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", sample_rate_hz, channels=1, format=container, subtype=subtype
    ) as file:
        for start in range(0, len(pcm), _SAMPLES_AT_ONCE):
            file.write(pcm[start : start + _SAMPLES_AT_ONCE])
    encoded = buffer.getvalue()
    return with_fixed_serial(encoded) if container == "OGG" else encoded


def to_pcm(waveform: Float32[np.ndarray, " samples"]) -> Int16[np.ndarray, " samples"]:
    """The waveform in 16 bits, clipped at full scale."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)


def from_pcm(pcm: Int16[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Samples of 16 bits in [-1, 1): the numbers that libsndfile gives, in less time."""
    waveform = pcm.astype(np.float32)
    waveform *= np.float32(2**-15)
    return waveform


def with_fixed_serial(ogg: bytes) -> bytes:
    """An Ogg file of one stream with the serial number 0 instead of libsndfile's random one, which
    each page repeats and its checksum covers."""
    pages = bytearray(ogg)
    start = 0
    while start < len(pages):
        body = start + _HEADER_BYTES + pages[start + _SEGMENTS_AT]
        end = body + sum(pages[start + _HEADER_BYTES : body])
        pages[start + _SERIAL_AT : start + _SERIAL_AT + 4] = bytes(4)
        pages[start + _CHECKSUM_AT : start + _CHECKSUM_AT + 4] = bytes(4)
        checksum = struct.pack("<I", page_checksum(bytes(pages[start:end])))
        pages[start + _CHECKSUM_AT : start + _CHECKSUM_AT + 4] = checksum
        start = end
    return bytes(pages)


def page_checksum(page: bytes) -> int:
    """Ogg's CRC-32 of a page whose checksum is 0: zlib's polynomial, but with the highest bit
    first, starting at 0, and not inverted."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_REVERSED), "big")
