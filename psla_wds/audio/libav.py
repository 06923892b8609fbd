"""Audio that libsndfile does not read (m4a, webm, mp4, wma, ...), by FFmpeg's libraries in PyAV.

Only files that are open already are read, through Python: no name, address or playlist in a file is
followed. Decoders of other tracks are not opened.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float32

from psla_wds.errors import ClipRefusedError

DEMUXERS = "aac,amr,asf,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3"
DECODERS = (
    "aac,ac3,alac,amrnb,amrwb,eac3,flac,mp2,mp2float,mp3,mp3float,opus,pcm_alaw,pcm_f32le,"
    "pcm_mulaw,pcm_s16be,pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32le,pcm_u8,vorbis,wmalossless,wmapro,"
    "wmav1,wmav2,wmavoice"
)
RUN_UP_S = 1.0
"""Time before an excerpt that is decoded as well, since a decoder needs what came before: after it,
AAC and Opus give the samples that they give from the beginning, bit by bit."""
MAX_CPU_S = 600.0
"""Limit of decoding one file, in seconds of CPU time."""
MOST_DAMAGED = 2
"""Packets in a row that may be damaged in MP3: the first frames of a part that was cut out need
what came before."""
PACKETS_A_LOOK = 256
"""Packets between two looks at the time, which cost more than a packet does."""
FIXED_FRAMES = ("aac", "mp3", "mp3float", "opus")
"""Codecs whose frames have one length, so that a time in milliseconds gives the exact sample."""
ROUNDING_S = 0.0025
"""Largest error of such a time."""

Samples = Float32[np.ndarray, "samples channels"]


def version() -> str:
    """Versions of PyAV and of the decoders that it brings."""
    import av  # here and below, since many users have no file that needs it

    return f"{av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


class LibavAudio:
    """The first audio track of an open file; raises `ClipRefusedError`."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.start_clock()
        self._frames = self._from_begin()
        """Frames that were not read yet, each with the position of its first sample."""
        first, second = next(self._frames, None), next(self._frames, None)
        if first is None:
            raise ClipRefusedError("empty", "the audio track has no samples")
        self._base_pts, self._second = first[1].pts, second or first
        self._last: tuple[int, Any] | None = first
        """Frame that was read last: the next excerpt may begin in it."""
        self._frames = chain([second] if second else [], self._frames)
        self.rate_hz: int = first[1].sample_rate
        self.num_channels: int = first[1].layout.nb_channels

    def start_clock(self) -> None:
        """Begin to count the time that decoding may take."""
        self._end_s = time.process_time() + MAX_CPU_S

    @property
    def num_samples(self) -> int | None:
        """Samples of a channel without the encoder's padding, where the format states them."""
        stream = self._stream
        is_exact = "mov" in self._container.format.name and stream.duration
        return round(stream.duration * stream.time_base * self.rate_hz) if is_exact else None

    def length_s(self) -> float:
        """Length in seconds, to some milliseconds; where no header states it, frames are counted
        without decoding them."""
        container = self._container
        if self.num_samples is not None:
            return self.num_samples / self.rate_hz
        if "matroska" in container.format.name and container.duration:
            return container.duration / 1e6
        counted, stream = self._open()
        with _errors():
            num_frames = sum(1 for packet in counted.demux(stream) if packet.size)
        self._frames, self._last = self._from_begin(), None
        return num_frames * self._second[1].samples / self.rate_hz

    def blocks(self, start: int, stop: int, size: int) -> Iterator[Samples]:
        """The samples from `start` to before `stop`, or to the end, about `size` at a time."""
        from av import AudioFifo

        fifo, fifo_begins = AudioFifo(), -1
        for position, frame in self._from(start):
            self._last, end = (position, frame), position + frame.samples
            if (frame.sample_rate, frame.layout.nb_channels) != (self.rate_hz, self.num_channels):
                raise ClipRefusedError("unreadable", "the rate or the channels change on the way")
            if end <= start:
                continue
            if fifo_begins < 0:
                fifo_begins = position
            frame.pts = None  # it is no longer needed, and the queue would check it
            fifo.write(frame)
            if fifo.samples >= size or end >= stop:
                yield _as_float(fifo.read())[max(start - fifo_begins, 0) : stop - fifo_begins]
                fifo_begins = end
            if end >= stop:
                return
        if fifo.samples:
            yield _as_float(fifo.read())[max(start - fifo_begins, 0) :]

    def _from(self, start: int) -> Iterator[tuple[int, Any]]:
        """Frames from one before this sample on: the next ones, if they are near."""
        run_up, last = round(RUN_UP_S * self.rate_hz), self._last
        if last and last[0] <= start and (start - last[0] <= run_up or not self._can_seek()):
            return chain([last], self._frames)
        if start > 2 * run_up and self._can_seek():
            self._frames = self._after_seek(start - run_up)
        else:
            self._frames = self._from_begin()
        return self._frames

    def _can_seek(self) -> bool:
        """Whether the time of a frame gives its exact position."""
        stream, frame = self._stream, self._second[1]
        if "mov" in self._container.format.name:
            stated = stream.duration and stream.duration * stream.time_base * self.rate_hz
            has_gap = (
                stream.frames and abs(stream.frames * frame.samples - stated) > 4 * frame.samples
            )
            return stream.time_base * self.rate_hz <= 1 and not has_gap
        name = stream.codec_context.name
        return "matroska" in self._container.format.name and name in FIXED_FRAMES

    def _after_seek(self, target: int) -> Iterator[tuple[int, Any]]:
        stream, (offset, second) = self._stream, self._second
        base, rate_hz = self._base_pts, self.rate_hz
        with _errors():
            place = base + int(target / rate_hz / stream.time_base)
            self._container.seek(place, stream=stream, backward=True)
        position: int | None = None
        for frame in self._decoded(self._container, stream):
            by_time = float((frame.pts - base) * stream.time_base * rate_hz)
            if position is None:
                position = round(by_time)
                if stream.time_base * rate_hz > 1:
                    position = offset + round((by_time - offset) / second.samples) * second.samples
            if abs(by_time - position) > max(ROUNDING_S * rate_hz, 1) or position < offset:
                yield from self._from_begin()  # times have gaps: only counting helps
                return
            yield position, frame
            position += frame.samples

    def _from_begin(self) -> Iterator[tuple[int, Any]]:
        self._container, self._stream = self._open()
        return _counted(self._decoded(self._container, self._stream))

    def _open(self) -> tuple[Any, Any]:
        import av

        self._file.seek(0)
        options = {
            "format_whitelist": DEMUXERS,
            "codec_whitelist": DECODERS,
            "protocol_whitelist": "none",  # for what a file could name
        }
        # Titles may be in any encoding; from PyAV 19 on they are no error.
        is_before_19 = int(av.__version__.split(".")[0]) < 19
        odd_text: dict[str, Any] = {"metadata_errors": "ignore"} if is_before_19 else {}
        with _errors():
            container = av.open(self._file, options=options, **odd_text)
        if not container.streams.audio:
            raise ClipRefusedError("no-audio-track", "the file has pictures but not sound")
        stream = container.streams.audio[0]
        name = stream.codec_context.name if stream.codec_context else "unknown"
        if name not in DECODERS.split(","):
            raise ClipRefusedError("unreadable", f"audio of the codec {name} is not decoded")
        stream.codec_context.thread_count = 1
        for other in container.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        return container, stream

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        from av.error import InvalidDataError

        num_damaged, is_mp3 = 0, container.format.name == "mp3"
        with _errors():
            for number, packet in enumerate(container.demux(stream)):
                if packet.is_corrupt:
                    raise ClipRefusedError("truncated", "a part of the audio track is missing")
                if number % PACKETS_A_LOOK == 0 and time.process_time() > self._end_s:
                    raise ClipRefusedError("too-slow", f"decoding took over {MAX_CPU_S:g} s")
                try:
                    frames = packet.decode()
                except InvalidDataError:
                    num_damaged += 1
                    if num_damaged > (MOST_DAMAGED if is_mp3 else 0):
                        raise
                    continue
                num_damaged *= not frames
                yield from frames


def _counted(frames: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    position = 0
    for frame in frames:
        yield position, frame
        position += frame.samples


def _as_float(frame: Any) -> Samples:
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / np.float32(128)
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / np.float32(-float(np.iinfo(samples.dtype).min))
    return samples.astype(np.float32, copy=False).T


@contextmanager
def _errors() -> Iterator[None]:
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        raise ClipRefusedError("unreadable", f"FFmpeg: {error.strerror}") from None
