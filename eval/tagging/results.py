"""What is heard in recordings, result by result, while they are read."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from psla_wds.audio.recordings import Block, decode, length_s
from psla_wds.errors import AudioError
from psla_wds.progress import AUDIO_S, progress_bar
from psla_wds.tagging.events import EventConfig, EventFinder
from psla_wds.tagging.tagger import Tagger, WindowTags


@dataclass(frozen=True)
class Source:
    """A recording to tag."""

    name: str
    """As results call it."""
    file: Path | int
    """Or the descriptor of a pipe."""
    below: Path
    """The same from the folder on that it was found in."""


@dataclass(frozen=True)
class Tag:
    """A class that is heard."""

    mid: str
    name: str
    score: float


@dataclass(frozen=True)
class Result:
    """What is heard in a stretch of a recording."""

    kind: Literal["window", "event", "recording"]
    """Windows are told of where there are several; the recording comes last."""
    recording: str
    start_s: float
    end_s: float
    tags: tuple[Tag, ...]
    """The highest of the window or the recording; of an event, the one that it is of."""


@runtime_checkable
class ResultWriter(Protocol):
    """Where results go."""

    def write(self, result: Result) -> None: ...

    def end(self, source: Source) -> None:
        """There is no further result of this recording."""


class Tagging:
    """Recordings through a tagger, one after another; their windows share its batches."""

    def __init__(
        self, tagger: Tagger, sources: list[Source], *, top_k: int, events: EventConfig
    ) -> None:
        self.failures: dict[int, AudioError] = {}
        """Of recordings that could not be read to their end, by number."""
        self._tagger = tagger
        self._sources = sources
        self._top_k = top_k
        self._events = events

    def write(self, writer: ResultWriter) -> None:
        """Tag all of them, and write each result as soon as it is there."""
        hearing: Hearing | None = None
        with self._bar() as bar:
            for window in self._tagger.stream(self._streams(bar)):
                source = self._sources[window.recording]
                hearing = hearing or Hearing(source.name, self._tagger, self._top_k, self._events)
                if not (window.is_last and window.recording in self.failures):
                    for result in hearing.add(window):
                        writer.write(result)
                if window.is_last:
                    writer.end(source)
                    hearing = None

    def _bar(self) -> tqdm:
        lengths_s = [
            length_s(source.file) if isinstance(source.file, Path) else None
            for source in self._sources
        ]
        known_s = [length for length in lengths_s if length is not None]
        total_s = round(sum(known_s)) if len(known_s) == len(lengths_s) else None
        return progress_bar(desc="tagging", total=total_s, unit=AUDIO_S)

    def _streams(self, bar: tqdm) -> Iterator[Iterator[Block]]:
        for number in range(len(self._sources)):
            yield self._blocks(number, bar)

    def _blocks(self, number: int, bar: tqdm) -> Iterator[Block]:
        """A recording as far as it can be read."""
        rate_hz = self._tagger.features.sample_rate_hz
        try:
            for block in decode(self._sources[number].file, rate_hz):
                yield block
                bar.update(len(block) / rate_hz)
        except AudioError as error:
            self.failures[number] = error
            tqdm.write(f"error: {error}", file=sys.stderr)


class Hearing:
    """What is heard in one recording, window by window."""

    def __init__(self, name: str, tagger: Tagger, top_k: int, events: EventConfig) -> None:
        self._name = name
        self._classes = tagger.classes
        self._top_k = top_k
        self._finder = EventFinder(events, tagger.layout.cell_s)
        self._highest = np.full(len(tagger.classes), -np.inf, np.float32)

    def add(self, window: WindowTags) -> list[Result]:
        """The results that this window brings."""
        self._highest = np.maximum(self._highest, window.scores)
        is_whole = window.is_last and window.start_s == 0
        results = [] if is_whole else [self._result("window", window.start_s, window)]
        events = self._finder.add(window.frame_scores)
        if window.is_last:
            events += self._finder.finish(window.end_s)
        for event in sorted(events, key=lambda event: event.start_s):
            tag = self._tag(event.label, event.score)
            results.append(Result("event", self._name, event.start_s, event.end_s, (tag,)))
        if window.is_last:
            results.append(self._result("recording", 0.0, window))
        return results

    def _result(
        self, kind: Literal["window", "recording"], start_s: float, window: WindowTags
    ) -> Result:
        scores = window.scores if kind == "window" else self._highest
        best = np.argsort(-scores, kind="stable")[: self._top_k]
        tags = tuple(self._tag(int(label), float(scores[label])) for label in best)
        return Result(kind, self._name, start_s, window.end_s, tags)

    def _tag(self, label: int, score: float) -> Tag:
        return Tag(self._classes.mids[label], self._classes.names[label], score)
