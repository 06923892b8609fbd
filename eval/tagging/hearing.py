"""Results of recordings, one by one while the recordings are read."""

import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby, takewhile
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32
from tqdm import tqdm

from eval.tagging.embeddings import EmbeddingFile
from eval.tagging.formats import Recording, Result, Tag, Writer
from psla_wds.audio.decode import Block, decode
from psla_wds.audio.files import Notes
from psla_wds.errors import AudioError
from psla_wds.printable import printable
from psla_wds.progress import AUDIO_S, progress_bar
from psla_wds.tagging.config import EventConfig
from psla_wds.tagging.events import EventFinder, in_order
from psla_wds.tagging.tagger import Tagger, WindowTags


@dataclass
class Heard:
    """What showed about recordings while they were read, by number."""

    failures: dict[int, AudioError] = field(default_factory=dict)
    """Errors of recordings that could not be read to their end."""
    flagged: Counter[str] = field(default_factory=Counter)
    """Number of recordings with each flag: read, though something about their audio is odd."""


def tag_recordings(
    tagger: Tagger,
    recordings: list[Recording],
    write: Writer,
    *,
    top_k: int,
    events: EventConfig,
    embeddings: EmbeddingFile | None = None,
) -> Heard:
    """Tag recordings in order, and write each result as soon as it is known."""
    heard, rate_hz = Heard(), tagger.features.sample_rate_hz
    noted: list[Notes] = []

    def blocks(number: int, bar: tqdm) -> Iterator[Block]:
        """A recording as far as it can be read."""
        name = recordings[number].name
        noted.append(notes := Notes())
        decoded = decode(recordings[number].source, rate_hz, notes)
        try:
            for block in tagger.layout.noting_length(decoded, notes):
                yield block
                length_s = len(block) / rate_hz  # headers can state a little less
                bar.update(min(length_s, bar.total - bar.n) if bar.total else length_s)
        except AudioError as error:
            heard.failures[number] = error
            if len(recordings) > 1:  # else it ends the command
                tqdm.write(f"error: {error}", file=sys.stderr)
            return
        heard.flagged.update(notes.flags.keys())
        for detail in notes.flags.values():
            tqdm.write(printable(f"warning: {name}: {detail}"), file=sys.stderr)

    with progress_bar(desc="tagging", total=_total_s(recordings), unit=AUDIO_S) as bar:
        numbers = range(len(recordings))
        pooling = embeddings.pooling if embeddings else None
        windows = tagger.stream((blocks(number, bar) for number in numbers), pooling)
        for number, found in groupby(windows, key=lambda window: window.recording):
            # Where reading failed, the end of the last window is not known.
            whole = takewhile(lambda w: not (w.is_last and w.recording in heard.failures), found)
            name = recordings[number].name
            stored = embeddings.follow(name, whole) if embeddings else whole
            results = results_of(name, stored, tagger, top_k=top_k, events=events)
            write(recordings[number], (_with_flags(result, noted[number]) for result in results))
        bar.update((bar.total or bar.n) - bar.n)  # lengths are estimates
    return heard


def results_of(
    name: str, windows: Iterable[WindowTags], tagger: Tagger, *, top_k: int, events: EventConfig
) -> Iterator[Result]:
    """Results of one recording: for each window its tags, then the events that ended by then, and
    last the tags of the whole recording. A recording of a single window has no window results."""
    finder = EventFinder(events, tagger.layout.cell_s, tagger.thresholds)
    highest = np.full(len(tagger.classes), -np.inf, np.float32)

    def tag(label: int, score: float, present: bool | None = None) -> Tag:
        return Tag(tagger.classes.mids[label], tagger.classes.names[label], score, present)

    def top(scores: Float32[np.ndarray, " classes"]) -> tuple[Tag, ...]:
        best = np.argsort(-scores, kind="stable")
        if tagger.thresholds is None:
            return tuple(map(tag, best[:top_k].tolist(), scores[best[:top_k]].tolist()))
        present = scores >= tagger.thresholds
        best = best[present[best] | (np.arange(len(best)) < top_k)]
        return tuple(map(tag, best.tolist(), scores[best].tolist(), present[best].tolist()))

    for window in windows:
        highest = np.maximum(highest, window.scores)
        if not window.is_last or window.start_s > 0:
            yield Result("window", name, window.start_s, window.end_s, top(window.scores))
        found = finder.add(window.frame_scores)
        if window.is_last:
            found += finder.finish(window.end_s)
        for event in in_order(found):
            tags = (tag(event.label, event.score),)
            yield Result("event", name, event.start_s, event.end_s, tags)
        if window.is_last:
            yield Result("recording", name, 0.0, window.end_s, top(highest))


def _with_flags(result: Result, notes: Notes) -> Result:
    """The result of a recording with what was odd about it, known when it has been read."""
    return replace(result, flags=tuple(notes.flags)) if result.kind == "recording" else result


def _total_s(recordings: list[Recording]) -> int | None:
    """Length of all recordings in whole seconds, rounded up; None if that of one is not known."""
    files = [r.source for r in recordings if isinstance(r.source, Path) and r.source.is_file()]
    try:
        lengths_s = [soundfile.info(os.fsencode(file)).duration for file in files]
    except (RuntimeError, OSError):  # FFmpeg's libraries read it, or nothing does
        return None
    return math.ceil(sum(lengths_s)) if len(files) == len(recordings) else None
