"""Ogg streams whose bytes follow from their audio.

libsndfile gives each stream a random serial number, which every page repeats and its checksum
covers. Format: RFC 3533, section 6.
"""

import struct
import zlib

SERIAL = bytes(4)
SERIAL_AT, CHECKSUM_AT, SEGMENTS_AT, HEADER_BYTES = 14, 22, 26, 27
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def with_fixed_serial(stream: bytes) -> bytes:
    """The stream, of one logical stream, with serial number 0."""
    pages = bytearray(stream)
    start = 0
    while start < len(pages):
        num_segments = pages[start + SEGMENTS_AT]
        body = start + HEADER_BYTES + num_segments
        end = body + sum(pages[start + HEADER_BYTES : body])
        pages[start + SERIAL_AT : start + SERIAL_AT + 4] = SERIAL
        pages[start + CHECKSUM_AT : start + CHECKSUM_AT + 4] = bytes(4)
        checksum = struct.pack("<I", page_checksum(bytes(pages[start:end])))
        pages[start + CHECKSUM_AT : start + CHECKSUM_AT + 4] = checksum
        start = end
    return bytes(pages)


def page_checksum(page: bytes) -> int:
    """Ogg's CRC-32 of a page whose checksum is 0: zlib's polynomial, but with the highest bit
    first, from 0 and not inverted."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_REVERSED), "big")
