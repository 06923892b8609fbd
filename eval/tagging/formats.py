"""Results of tagging as text: for people, programs and Audacity."""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tqdm import tqdm

from psla_wds.errors import ConfigError, PslaError
from psla_wds.io.atomic_files import atomic_open
from psla_wds.printable import csv_cell, printable

Format = Literal["text", "json", "csv", "audacity"]

CSV_HEADER = ("kind", "recording", "start_s", "end_s", "mid", "name", "score", "present", "flags")
PRESENT = {None: "", False: "0", True: "1"}


@dataclass(frozen=True)
class Recording:
    """A recording to tag."""

    name: str
    """Name in results."""
    source: Path | int
    """File, or descriptor of a pipe."""
    below: Path
    """Path relative to the folder that it was found in."""


@dataclass(frozen=True)
class Tag:
    """A class with its score."""

    mid: str
    name: str
    score: float
    present: bool | None = None
    """Whether its score is at least its threshold; None for a model without thresholds, and for
    events."""


@dataclass(frozen=True)
class Result:
    """Tags of a stretch of a recording."""

    kind: Literal["window", "event", "recording"]
    recording: str
    start_s: float
    end_s: float
    tags: tuple[Tag, ...]
    """Highest scores of the window or the recording; for an event, its class alone."""
    flags: tuple[str, ...] | None = None
    """What is odd about the recording; None for its windows and events."""


Writer: TypeAlias = Callable[[Recording, Iterable[Result]], None]
"""Writes all results of a recording, one by one as they come."""


@contextmanager
def open_writer(form: Format, output: Path | None, recordings: list[Recording]) -> Iterator[Writer]:
    """A writer of results to stdout or to a file, which appears as a whole when the block ends
    well. Labels for Audacity go to a folder, with one file for each recording.

    Raises `ConfigError` if two recordings would have the same file, `PslaError` if writing fails.
    """
    if form == "audacity":
        _check_tracks(output, recordings)
    try:
        if output is None:
            yield _text_writer(form, print_result)
        elif form == "audacity":
            yield partial(_write_track, output)
        else:
            with atomic_open(output, "w") as file:
                yield _text_writer(form, file.write)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise PslaError(
            f"the results cannot be written: {error.strerror}",
            where=output,
            fix="set --output to a place that can be written",
        ) from None


def print_result(text: str) -> None:
    """Print to stdout at once, above the progress bar where both are a terminal."""
    tqdm.write(text, end="")
    sys.stdout.flush()


def _text_writer(form: Format, put: Callable[[str], object]) -> Writer:
    if form == "csv":
        put(",".join(CSV_HEADER) + "\n")

    def write(recording: Recording, results: Iterable[Result]) -> None:
        for number, result in enumerate(results):
            if form == "text" and number == 0:
                put(f"{printable(recording.name)}\n")
            put(RENDER[form](result))

    return write


def _write_track(folder: Path, recording: Recording, results: Iterable[Result]) -> None:
    path = folder / recording.below.with_name(f"{recording.below.name}.txt")
    with atomic_open(path, "w") as file:
        file.writelines(map(_as_labels, results))


def _check_tracks(output: Path | None, recordings: list[Recording]) -> None:
    if output is None and len(recordings) > 1:
        raise ConfigError(
            "a track of labels holds one recording",
            where="--format audacity",
            fix="set --output to a folder, or tag one recording",
        )
    [(below, count)] = Counter(recording.below for recording in recordings).most_common(1)
    if count > 1:
        raise ConfigError(
            f"{count} recordings would have one file of labels, {below}.txt",
            where=output,
            fix="give the folder that holds them all, or tag them one after the other",
        )


def _as_text(result: Result) -> str:
    tags = "  ".join(f"{t.name} {t.score:.3f}{'*' if t.present else ''}" for t in result.tags)
    flags = f"  [{', '.join(result.flags)}]" if result.flags else ""
    return f"  {result.kind:<10}{result.start_s:>10.2f}{result.end_s:>10.2f} s  {tags}{flags}\n"


def _as_json(result: Result) -> str:
    def known(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in pairs if value is not None}

    content = asdict(result, dict_factory=known)
    return printable(json.dumps(content, ensure_ascii=False, allow_nan=False)) + "\n"


def _as_csv(result: Result) -> str:
    name = csv_cell(result.recording)
    stretch = (result.kind, name, f"{result.start_s:.3f}", f"{result.end_s:.3f}")
    flags = "|".join(result.flags or ())
    rows = (
        (*stretch, *map(csv_cell, (t.mid, t.name)), f"{t.score:.6f}", PRESENT[t.present], flags)
        for t in result.tags
    )
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _as_labels(result: Result) -> str:
    """A line of Audacity's label tracks: start, end, text, between tabs; one for an event, and one
    for the flags of a recording that has any."""
    if result.kind == "event":
        name = " ".join(result.tags[0].name.split())
    elif result.flags:
        name = f"[{', '.join(result.flags)}]"
    else:
        return ""
    return f"{result.start_s:.6f}\t{result.end_s:.6f}\t{name}\n"


RENDER: dict[Format, Callable[[Result], str]] = {
    "text": _as_text,
    "json": _as_json,
    "csv": _as_csv,
    "audacity": _as_labels,
}
