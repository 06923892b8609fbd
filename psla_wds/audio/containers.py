"""What containers say about their length, compared with the bytes that are there.

libsndfile reads a file that is cut short, or whose header was never completed, without an error.
"""

import io
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from psla_wds.audio.encode import page_checksum

UNKNOWN_BYTES = 2**31 - 2**16
"""Sizes in WAV headers from here on mean that the size is not known, as in a pipe."""
MP3_TAG, GSM_TAG, GSM_BLOCK_BYTES, GSM_BLOCK_SAMPLES = 0x55, 0x31, 65, 320
W64_DATA, W64_MOST = b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a"), 2**62
"""Name of the chunk with the sound, and the size from which on it is not known."""
SPHERE_SIZES = re.compile(rb"^(sample_count|channel_count|sample_n_bytes) -i (\d{1,12})$", re.M)
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
MARKS_END = (b"libVorbis", b"libopus", b"Lavf", b"Lavc")
"""Names that encoders and muxers leave which always mark the last page of an Ogg stream."""
OGG_HEADER_BYTES = 27
SEARCHED_BYTES = 2**16


@dataclass
class OggStream:
    """A stream of an Ogg file in which several follow one another."""

    start: int
    end: int
    has_end: bool
    """Whether its last page is marked as such."""
    damage: str = ""
    """Its first page that is damaged or missing."""


@dataclass(frozen=True)
class _Page:
    """A page of an Ogg file."""

    start: int
    end: int
    content: bytes

    @property
    def begins(self) -> bool:
        return bool(self.content[5] & 2)

    @property
    def ends(self) -> bool:
        return bool(self.content[5] & 4)

    @property
    def has_sound(self) -> bool:
        """Whether it is not one of the headers, whose time is 0."""
        return self.content[6:14] != bytes(8)

    @property
    def serial(self) -> bytes:
        return self.content[14:18]

    @property
    def number(self) -> int:
        return int.from_bytes(self.content[18:22], "little")

    def is_whole(self) -> bool:
        checksum = int.from_bytes(self.content[22:26], "little")
        return page_checksum(self.content[:22] + bytes(4) + self.content[26:]) == checksum


@dataclass(frozen=True)
class Claim:
    """Where the sound of a file ends by its header."""

    end: int | None = None
    """First byte after the sound; None if the header does not know."""
    num_samples: int | None = None
    """Samples of a channel, where the decoder would give another number."""
    repair: dict[int, bytes] = field(default_factory=dict)
    """Bytes to put into the header, by position, so that all sound is read."""
    problem: str = ""
    """Why the file counts as cut short, other than by its `end`."""
    flags: dict[str, str] = field(default_factory=dict)
    """What is odd, though all is there: a word for counting, and the detail."""
    is_estimate: bool = False
    """Whether libsndfile estimates the length from the bit rate, and stops there."""
    damage: str = ""
    """Part of the file that is damaged or missing, after which no position can be trusted."""
    streams: tuple[OggStream, ...] = ()
    """Streams of an Ogg file, of which libsndfile reads the first."""


def claim_of(file: io.BufferedIOBase, kind: str) -> Claim:
    """What the header of a file claims.

    Args:
        kind: as `kinds.kind_of` gives it; streams without a header (aac, amr) claim nothing.
    """
    size = file.seek(0, os.SEEK_END)
    claim = {
        "wav": _wav,
        "aiff": lambda file, size: _chunked(file, size, "big", 12, b"SSND"),
        "caf": lambda file, size: _chunked(file, size, "big", 8, b"data"),
        "w64": lambda file, size: _chunked(file, size, "little", 40, W64_DATA),
        "au": _au,
        "ogg": _ogg,
        "mp4": _mp4,
        "matroska": _matroska,
        "asf": _asf,
        "mp3": _mp3,
        "sphere": _sphere,
        "voc": _voc,
    }.get(kind, lambda file, size: Claim())(file, size)
    file.seek(0)
    return claim


def lacks(file: io.BufferedIOBase, claim: Claim) -> str:
    """How a file is cut short by what it claims; "" if it is whole, or nothing is claimed."""
    missing = (claim.end or 0) - file.seek(0, os.SEEK_END)
    file.seek(0)
    if missing > 0:
        return f"the file is {missing:,} bytes shorter than its header says"
    return claim.problem


def repaired(file: io.BufferedIOBase, claim: Claim) -> io.BufferedIOBase:
    """The file with its header repaired, read through the file that is open."""
    return io.BufferedReader(_Patched(file, claim.repair)) if claim.repair else file


class _Patched(io.RawIOBase):
    """A file with a few bytes replaced."""

    def __init__(self, file: io.BufferedIOBase, patches: dict[int, bytes]) -> None:
        self._file, self._patches = file, patches

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        start = self._file.tell()
        content = bytearray(self._file.read(len(buffer)))
        for position, patch in self._patches.items():
            for number, byte in enumerate(patch, position - start):
                if 0 <= number < len(content):
                    content[number] = byte
        buffer[: len(content)] = content
        return len(content)


@dataclass(frozen=True)
class _Chunk:
    name: bytes
    start: int
    """First byte after the chunk's header."""
    size: int


def _chunks(
    file: io.BufferedIOBase, start: int, order: str, layout: str = "riff"
) -> Iterator[_Chunk]:
    """Chunks from a byte on; their sizes are as written, and may lie."""
    name_bytes, size_bytes, align = {"riff": (4, 4, 2), "caf": (4, 8, 1), "w64": (16, 8, 8)}[layout]
    file_size = file.seek(0, os.SEEK_END)
    while start + name_bytes + size_bytes <= file_size:
        file.seek(start)
        name = file.read(name_bytes)
        size = int.from_bytes(file.read(size_bytes), order)  # type: ignore[arg-type]
        begin = start + name_bytes + size_bytes
        if layout == "w64":
            size -= name_bytes + size_bytes
        yield _Chunk(name, begin, size)
        if size < 0:
            return
        start = begin + -(-size // align) * align


def _wav(file: io.BufferedIOBase, file_size: int) -> Claim:
    tag, fact, long_size, long_size_at = 0, 0, 0, 0
    file.seek(4)
    riff_size = int.from_bytes(file.read(4), "little")
    for chunk in _chunks(file, 12, "little"):
        content = _content(file, chunk)
        if chunk.name == b"fmt ":
            tag = int.from_bytes(content[:2], "little")
        elif chunk.name == b"fact":
            fact = int.from_bytes(content[:4], "little")
        elif chunk.name == b"ds64":
            long_size, long_size_at = int.from_bytes(content[8:16], "little"), chunk.start + 8
        elif chunk.name == b"data":
            break
    else:
        return Claim()
    there = file_size - chunk.start
    if long_size_at and not long_size and chunk.size == 2**32 - 1 and there:
        said = f"the header says 0 bytes, {there:,} follow"
        patch = {long_size_at: there.to_bytes(8, "little")}
        return Claim(repair=patch, flags={"header-repaired": said})
    size = long_size if chunk.size == 2**32 - 1 and long_size else chunk.size
    if size >= UNKNOWN_BYTES and size != long_size:
        return Claim()
    if tag == GSM_TAG:
        blocks = min(size, there) // GSM_BLOCK_BYTES * GSM_BLOCK_SAMPLES
        return Claim(chunk.start + size, min(fact or blocks, blocks))
    if tag == MP3_TAG and fact:
        return Claim(chunk.start + size, fact)
    after = chunk.start + size + size % 2
    if there - size > max(size, 1) and not _is_chunks(file, after):
        unknown = (2**32 - 1).to_bytes(4, "little")
        return Claim(
            repair={4: unknown, chunk.start - 4: unknown},
            flags={"header-repaired": f"the header says {size:,} bytes, {there:,} follow"},
        )
    if size in (riff_size, file_size, file_size - 8) and size > there and riff_size <= file_size:
        return Claim(
            flags={"header-repaired": "the header counts itself"}
        )  # a mistake that some programs make
    return Claim(chunk.start + size)


def _content(file: io.BufferedIOBase, chunk: _Chunk) -> bytes:
    file.seek(chunk.start)
    return file.read(min(max(chunk.size, 0), 64)) if chunk.name != b"data" else b""


def _is_chunks(file: io.BufferedIOBase, start: int) -> bool:
    """Whether nothing but whole chunks follows to the end of the file."""
    size = file.seek(0, os.SEEK_END)
    for chunk in _chunks(file, start, "little"):
        if not all(32 <= byte < 127 for byte in chunk.name):
            return False
        start = chunk.start + chunk.size + chunk.size % 2
    return start >= size and start - size <= 1


def _chunked(file: io.BufferedIOBase, file_size: int, order: str, start: int, name: bytes) -> Claim:
    layout = {12: "riff", 8: "caf", 40: "w64"}[start]
    for chunk in _chunks(file, start, order, layout):
        if chunk.name != name:
            continue
        there = file_size - chunk.start
        if layout == "caf" and chunk.size == 2**64 - 1:  # which libsndfile refuses
            return Claim(repair={chunk.start - 8: there.to_bytes(8, "big")})
        said = f"the header says 0 bytes, {there:,} follow"
        if layout == "w64" and (chunk.size <= 0 < there or chunk.size > W64_MOST):
            patch = {chunk.start - 8: (there + 24).to_bytes(8, "little")}
            return Claim(repair=patch, flags={"header-repaired": said} if chunk.size <= 0 else {})
        if not chunk.size and there:
            return Claim(problem=said)
        return Claim(chunk.start + chunk.size)
    return Claim()


def _au(file: io.BufferedIOBase, file_size: int) -> Claim:
    file.seek(0)
    order = "big" if file.read(4) == b".snd" else "little"
    start, size = (int.from_bytes(file.read(4), order) for _ in range(2))  # type: ignore[arg-type]
    if size == 0 and file_size > start:
        unknown = b"\xff" * 4
        said = f"the header says 0 bytes, {file_size - start:,} follow"
        return Claim(repair={8: unknown}, flags={"header-repaired": said})
    return Claim() if size == 2**32 - 1 else Claim(start + size)


def _sphere(file: io.BufferedIOBase, file_size: int) -> Claim:
    file.seek(0)
    head = file.read(SEARCHED_BYTES)
    start, sizes = head[8:16].strip(), dict(SPHERE_SIZES.findall(head))
    if not start.isdigit() or len(sizes) < 3 or b"shorten" in head:
        return Claim()
    return Claim(int(start) + math.prod(map(int, sizes.values())))


def _voc(file: io.BufferedIOBase, file_size: int) -> Claim:
    """Blocks: a byte for the type, three for the size, content; after them a byte of 0."""
    file.seek(20)
    start = int.from_bytes(file.read(2), "little")
    while start < file_size:
        file.seek(start)
        header = file.read(4)
        if not header[0]:
            return Claim(start + 1)
        start += 4 + int.from_bytes(header[1:], "little")
    return Claim(start + 1)


def _mp4(file: io.BufferedIOBase, file_size: int) -> Claim:
    """Boxes, ISO/IEC 14496-12, section 4.2."""
    start = 0
    while start + 8 <= file_size:
        file.seek(start)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        if size < 8:  # 0: to the end of the file
            return Claim()
        start += size
    return Claim(start)


def _matroska(file: io.BufferedIOBase, file_size: int) -> Claim:
    """The EBML header and the segment, RFC 8794 and RFC 9559: each an id, a size and content."""
    file.seek(4)
    start = 4 + sum(_ebml_number(file))
    file.seek(start + 4)
    num_bytes, size = _ebml_number(file)
    is_unknown = size == 2 ** (7 * num_bytes) - 1  # as live recordings have it
    return Claim() if is_unknown else Claim(start + 4 + num_bytes + size)


def _ebml_number(file: io.BufferedIOBase) -> tuple[int, int]:
    """Bytes of a number of variable length, and its value."""
    first = (file.read(1) or b"\1")[0]
    num_bytes = 9 - max(first, 1).bit_length()
    value = first & (0xFF >> num_bytes)
    return num_bytes, int.from_bytes(bytes([value]) + file.read(num_bytes - 1), "big")


def _asf(file: io.BufferedIOBase, file_size: int) -> Claim:
    file.seek(0)
    head = file.read(SEARCHED_BYTES)
    start = head.find(ASF_FILE_PROPERTIES)
    if start < 0 or len(head) < start + 92 or head[start + 88] & 1:  # a broadcast
        return Claim()
    return Claim(int.from_bytes(head[start + 40 : start + 48], "little"))


def _mp3(file: io.BufferedIOBase, file_size: int) -> Claim:
    """The header of a variable bit rate, in the first frame, states frames and bytes."""
    start = 0
    file.seek(0)
    tag = file.read(10)
    if tag[:3] == b"ID3" and len(tag) == 10:  # a size of four times seven bits, big end first
        start = 10 + sum(
            (byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True)
        )
    file.seek(start)
    frame = file.read(SEARCHED_BYTES)
    at = frame.find(b"\xff")
    side = frame[at + 4 : at + 64]
    found = [side.find(name) for name in (b"Xing", b"Info") if name in side]
    if at < 0 or not found or not side[found[0] + 7 : found[0] + 8] or not side[found[0] + 7] & 1:
        return Claim(is_estimate=True)
    if side[found[0] + 7] & 2:
        file.seek(start + at + int.from_bytes(side[found[0] + 12 : found[0] + 16], "big"))
        if (file.read(3) or b"TAG")[:1] in (b"\xff", b"I"):
            return Claim(is_estimate=True, flags={"chained": "several MP3 files in a row"})
    return Claim()


# Ogg: RFC 3533, section 6.


def ogg_streams(file: io.BufferedIOBase) -> list[OggStream]:
    """The streams of a file, one after another; one if several are interleaved, as in videos.

    The last one ends where a page is damaged or cut.
    """
    streams: list[OggStream] = []
    at_begin = False
    last: dict[bytes, _Page] = {}
    for page in _pages(file):
        if page.begins and not at_begin:
            streams.append(OggStream(page.start, page.end, False))
            last = {}
        if streams:
            streams[-1].end = page.end
            streams[-1].has_end = page.ends
            streams[-1].damage = streams[-1].damage or _damage(page, last.get(page.serial))
        at_begin = page.begins
        last[page.serial] = page
    return streams


def _damage(page: _Page, before: _Page | None) -> str:
    if not page.is_whole():
        return f"the page at byte {page.start:,} is damaged"
    # Who joins a broadcast gets its headers, then pages from there on.
    if before and before.has_sound and page.number != (before.number + 1) % 2**32:
        return f"pages before byte {page.start:,} are missing"
    return ""


def _pages(file: io.BufferedIOBase) -> Iterator[_Page]:
    """Pages up to the first that is cut or has another begin."""
    start, size = 0, file.seek(0, os.SEEK_END)
    while start + OGG_HEADER_BYTES <= size:
        file.seek(start)
        header = file.read(OGG_HEADER_BYTES + 255)
        segments = header[OGG_HEADER_BYTES : OGG_HEADER_BYTES + header[26]]
        end = start + OGG_HEADER_BYTES + header[26] + sum(segments)
        if header[:4] != b"OggS" or end > size:
            return
        file.seek(start)
        yield _Page(start, end, file.read(end - start))
        start = end


def _ogg(file: io.BufferedIOBase, size: int) -> Claim:
    streams = ogg_streams(file)
    if not streams:
        return Claim()
    damage = next((stream.damage for stream in streams if stream.damage), "")
    claim = replace(_end_of_ogg(file, streams[-1]), streams=tuple(streams))
    return replace(claim, damage=damage or claim.damage)


def _end_of_ogg(file: io.BufferedIOBase, last: OggStream) -> Claim:
    file.seek(last.end)
    after = file.read(SEARCHED_BYTES)
    if after[:4] == b"OggS":
        return Claim(problem="the last page is cut")
    if b"OggS" in after:
        return Claim(damage=f"there is no page at byte {last.end:,}, but more follow")
    if last.has_end:
        return Claim()
    file.seek(last.start)
    head = file.read(SEARCHED_BYTES)
    if any(name in head for name in MARKS_END):
        return Claim(problem="the last page is not marked as the last")
    return Claim(flags={"no-end-mark": "the last page is not marked as the last"})
