"""Audio files, bytes and pipes, opened by the decoder that their content needs."""

import io
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soundfile
from jaxtyping import Float32

from psla_wds.audio.containers import UNKNOWN_BYTES, Claim, OggStream, claim_of, lacks, repaired
from psla_wds.audio.encode import from_pcm
from psla_wds.audio.flac import MOST_BYTES, MOST_VALUES, decode_flac
from psla_wds.audio.kinds import kind_of, misnamed
from psla_wds.audio.libav import LibavAudio
from psla_wds.errors import ClipRefusedError

ENDLESS = sys.maxsize
BLOCK_SAMPLES = 2**16
"""Samples of all channels to decode at a time; at most a second, since low rates grow in
resampling."""
TRAILER_BYTES = 2**20
"""Size of notes and tags that may follow the sound in a pipe."""
LIBAV_KINDS = ("mp4", "matroska", "asf", "aac", "amr")
"""Kinds of files that libsndfile does not read."""


@dataclass
class Notes:
    """What is odd about audio that can be used, for a report."""

    flags: dict[str, str] = field(default_factory=dict)
    """Flag, one word for counting, and detail."""
    by_libav: bool = False
    """Whether FFmpeg's libraries decoded it."""


def reason_of(error: Exception) -> str:
    """The reason why reading failed, without a file name or address in memory, so that it is the
    same wherever a clip lies."""
    if isinstance(error, soundfile.LibsndfileError):
        return error.error_string
    return getattr(error, "strerror", None) or str(error)


class _Unseekable(soundfile.SoundFile):
    """A file without seeking: soundfile seeks after each read where it can, which leaves a gap in
    MP3."""

    def seekable(self) -> bool:
        return False


class _SoundFile:
    """What libsndfile reads."""

    def __init__(self, source: io.BufferedIOBase | int) -> None:
        self._file = _Unseekable(source, closefd=False)
        self.rate_hz, self.num_channels = self._file.samplerate, self._file.channels
        is_pipe = isinstance(source, int) and not stat.S_ISREG(os.fstat(source).st_mode)
        if is_pipe and self._file.format == "MP3":  # libsndfile gives noise, then an error
            raise RuntimeError("MP3 cannot be read from a pipe; WAV can: ffmpeg -i - -f wav -")
        known = not is_pipe or self._file.frames * self.num_channels < UNKNOWN_BYTES // 8
        self.num_samples = self._file.frames if known else None

    def length_s(self) -> float:
        return (self.num_samples or 0) / self.rate_hz

    def blocks(
        self, start: int, stop: int, size: int
    ) -> Iterator[Float32[np.ndarray, "samples channels"]]:
        position = self._go_to(start)
        while position < stop:
            wanted = min(size, stop - position)
            block = self._read(wanted)
            position += len(block)
            if position > start:
                yield block[max(len(block) - (position - start), 0) :]
            if len(block) < wanted:  # reading on would skip a damaged part
                return

    def _read(self, num_samples: int) -> Float32[np.ndarray, "samples channels"]:
        if self._file.subtype != "PCM_16":
            return self._file.read(num_samples, dtype="float32", always_2d=True)
        return from_pcm(self._file.read(num_samples, dtype="int16", always_2d=True))

    def _go_to(self, start: int) -> int:
        """Seek where the codec can; the position from which reading goes on."""
        try:
            return self._file.seek(start) if start else 0
        except soundfile.LibsndfileError:  # GSM 6.10, G.721
            return 0


class _Flac(_SoundFile):
    """A FLAC file, decoded as a whole where most of it is wanted, which is faster."""

    def __init__(self, source: io.BufferedIOBase | int) -> None:
        super().__init__(source)
        self._source = source

    def blocks(
        self, start: int, stop: int, size: int
    ) -> Iterator[Float32[np.ndarray, "samples channels"]]:
        length = self.num_samples or 0
        stop = min(stop, length)
        decoded = None
        if 2 * (stop - start) >= length and length * self.num_channels <= MOST_VALUES:
            decoded = decode_flac(_content_of(self._source))
        if decoded is None:
            yield from super().blocks(start, stop, size)
        else:
            for begin in range(start, stop, size):
                yield decoded[0][begin : min(begin + size, stop)]


def _content_of(source: io.BufferedIOBase | int) -> bytes:
    """The bytes of a file, up to a limit; the place where libsndfile reads on stays."""
    if isinstance(source, int):
        return os.pread(source, min(os.fstat(source).st_size, MOST_BYTES), 0)
    place = source.tell()
    source.seek(0)
    content = source.read(MOST_BYTES)
    source.seek(place)
    return content


class _OggChain:
    """Streams of an Ogg file that follow one another, of which libsndfile reads the first."""

    def __init__(self, file: io.BufferedIOBase, streams: Sequence[OggStream]) -> None:
        self._file, self._streams = file, streams
        first = self._opened(0)
        self.rate_hz, self.num_channels, self.num_samples = first.rate_hz, first.num_channels, None

    def _opened(self, number: int) -> _SoundFile:
        stream = self._streams[number]
        self._file.seek(stream.start)
        return _SoundFile(io.BytesIO(self._file.read(stream.end - stream.start)))

    def length_s(self) -> float:
        return sum(self._opened(number).length_s() for number in range(len(self._streams)))

    def blocks(
        self, start: int, stop: int, size: int
    ) -> Iterator[Float32[np.ndarray, "samples channels"]]:
        before = 0
        for number in range(len(self._streams)):
            stream = self._opened(number)
            if (stream.rate_hz, stream.num_channels) != (self.rate_hz, self.num_channels):
                raise ClipRefusedError("chained", "streams of several rates or channels in a row")
            length = stream.num_samples or 0
            if before + length > start and before < stop:
                yield from stream.blocks(max(start - before, 0), min(stop - before, length), size)
            before += length


_Decoder: TypeAlias = _SoundFile | _OggChain | LibavAudio
"""An open file or pipe: `blocks(start, stop, size)` gives its samples, to its end at most, and
`num_samples` is None where its header does not state them."""


class Audio:
    """A decoder whose samples are compared with what the container claims."""

    def __init__(self, decoder: _Decoder, claim: Claim, source: io.BufferedIOBase | int) -> None:
        self._decoder, self._claim, self._source = decoder, claim, source
        self.rate_hz, self.num_channels = decoder.rate_hz, decoder.num_channels
        self.length_s = decoder.length_s
        known = [n for n in (decoder.num_samples, claim.num_samples) if n is not None]
        self.num_samples = min(known, default=ENDLESS)
        """Samples of a channel, as the header says; `ENDLESS` if it does not know."""

    def blocks(
        self, start: int = 0, stop: int = ENDLESS, *, size: int | None = None
    ) -> Iterator[Float32[np.ndarray, "samples channels"]]:
        """The samples from `start` to before `stop`, `size` at a time; `ClipRefusedError` at the
        end of a file that is shorter than its header says."""
        stop, position = min(stop, self.num_samples), start
        size = size or block_samples(self.rate_hz, self.num_channels)
        for block in self._decoder.blocks(start, stop, size):
            position += len(block)
            yield block
        if self.num_samples < ENDLESS and position < stop:
            raise ClipRefusedError(
                "truncated", f"{position - start} of {stop - start} samples are there"
            )
        if position < stop or stop == self.num_samples:
            self.check_end()

    def check_end(self) -> None:
        """Raise `ClipRefusedError` if the file is shorter than its header says."""
        if not isinstance(self._source, int):
            if problem := lacks(self._source, self._claim):
                raise ClipRefusedError("truncated", problem)
            return
        num_bytes = 0  # after the sound; a WAV header cannot state more than 4 GiB
        while part := os.read(self._source, 2**16):
            num_bytes += len(part)
            if num_bytes > TRAILER_BYTES:
                raise RuntimeError("more follows than its header says; AU has no such limit")


@contextmanager
def opened(
    source: Path | io.BufferedIOBase | int, notes: Notes, *, suffix: str = ""
) -> Iterator[Audio]:
    """A file, bytes or pipe to read, by the decoder that its content needs; `ClipRefusedError`.

    Args:
        suffix: that of the name of bytes, which a note says to be wrong where it is.
    """
    try:
        with ExitStack() as stack:
            raw: io.BufferedIOBase | int
            if not isinstance(source, Path):
                raw = source
            else:
                raw = stack.enter_context(source.open("rb"))
                if not source.is_file():
                    raw = raw.fileno()
            if isinstance(raw, int):
                yield Audio(_SoundFile(raw), Claim(), raw)
                return
            kind = kind_of(raw)
            claim = claim_of(raw, kind)
            if said := misnamed(source.suffix if isinstance(source, Path) else suffix, kind):
                notes.flags["misnamed"] = said
            notes.flags |= claim.flags
            if claim.damage:
                raise ClipRefusedError("damaged", claim.damage)
            with _cut_explains(raw, claim):
                decoder = _decoder(raw, kind, claim, notes)
                yield Audio(decoder, claim, raw)
                _keep(raw, decoder)
    except (RuntimeError, OSError) as error:
        raise ClipRefusedError("unreadable", reason_of(error)) from None


@contextmanager
def _cut_explains(file: io.BufferedIOBase, claim: Claim) -> Iterator[None]:
    """Give the cut of a file as the reason why it cannot be read, where there is one."""
    try:
        yield
    except (RuntimeError, ClipRefusedError) as error:
        problem = lacks(file, claim)
        if problem and getattr(error, "reason", "unreadable") == "unreadable":
            raise ClipRefusedError("truncated", problem) from None
        raise


def _decoder(file: io.BufferedIOBase, kind: str, claim: Claim, notes: Notes) -> _Decoder:
    notes.by_libav = kind in LIBAV_KINDS or claim.is_estimate
    if notes.by_libav:
        return _libav(file)
    if len(claim.streams) > 1:
        notes.flags["chained"] = "several streams in a row"
        return _OggChain(file, claim.streams)
    file.seek(0)
    source: io.BufferedIOBase | int = repaired(file, claim)
    if source is file and isinstance(file, io.BufferedReader):
        source = file.fileno()  # libsndfile reads it without calls of Python
        os.lseek(source, 0, os.SEEK_SET)
    try:
        return _Flac(source) if kind == "flac" else _SoundFile(source)
    except RuntimeError:
        if kind:
            raise
        with suppress(ClipRefusedError):
            decoder = _libav(file)
            notes.by_libav = True
            return decoder
        raise


_kept: dict[tuple[object, ...], LibavAudio] = {}
"""The file that FFmpeg's libraries read last, still open: what follows may be its next excerpt, and
many formats can only be decoded from the begin."""


def _libav(file: io.BufferedIOBase) -> LibavAudio:
    if not isinstance(file, io.BufferedReader):
        return LibavAudio(file)
    decoder = _kept.pop(_identity(file), None)
    if decoder is not None:
        decoder.start_clock()
    _kept.clear()
    return decoder or LibavAudio(Path(file.name).open("rb"))


def _keep(file: io.BufferedIOBase, decoder: _Decoder) -> None:
    if isinstance(file, io.BufferedReader) and isinstance(decoder, LibavAudio):
        _kept[_identity(file)] = decoder


def _identity(file: io.BufferedReader) -> tuple[object, ...]:
    status = os.fstat(file.fileno())
    return file.name, status.st_ino, status.st_size, status.st_mtime_ns


def block_samples(rate_hz: int | float, num_channels: int) -> int:
    """Samples of a channel to decode at a time."""
    return max(1, min(int(rate_hz), BLOCK_SAMPLES // num_channels))
