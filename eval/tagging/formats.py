"""Results of tagging as text: for people, for programs, for Audacity."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from eval.tagging.results import Result, ResultWriter, Source
from psla_wds.errors import ConfigError, PslaError
from psla_wds.io.atomic_files import atomic_open

Format = Literal["text", "json", "csv", "audacity"]

CSV_HEADER = ("kind", "recording", "start_s", "end_s", "mid", "name", "score")


@contextmanager
def open_writer(form: Format, output: Path | None, sources: list[Source]) -> Iterator[ResultWriter]:
    """Where to write results of these recordings: stdout, or a file, which appears whole when the
    block ends well; labels for Audacity, of several recordings, to a folder.
    """
    try:
        if output is None:
            if form == "audacity" and len(sources) > 1:
                raise ConfigError(
                    "a track of labels is of one recording",
                    where=f"--format {form}",
                    fix="set --output to a folder, or tag one recording",
                )
            yield _TextWriter(form, print_result)
        elif form == "audacity":
            yield _LabelTracks(output, sources)
        else:
            output.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(output, "w") as file:
                yield _TextWriter(form, file.write)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise PslaError(
            f"the results cannot be written: {error.strerror}",
            where=output,
            fix="--output names a place that can be written",
        ) from None


def print_result(text: str) -> None:
    """To stdout at once, above the progress bar where both are a terminal."""
    tqdm.write(text, end="")
    sys.stdout.flush()


class _TextWriter:
    """One text of all results."""

    def __init__(self, form: Format, put: Callable[[str], object]) -> None:
        self._form = form
        self._put = put
        self._recording: str | None = None
        if form == "csv":
            put(_csv_line(CSV_HEADER))

    def write(self, result: Result) -> None:
        if self._form == "text" and result.recording != self._recording:
            self._put(f"{result.recording}\n")
        self._recording = result.recording
        self._put(RENDER[self._form](result))

    def end(self, source: Source) -> None:
        self._recording = None


class _LabelTracks:
    """A file for each recording, in a folder, by the name of the recording."""

    def __init__(self, folder: Path, sources: list[Source]) -> None:
        self._folder = folder
        self._lines: list[str] = []
        seen: dict[Path, str] = {}
        for source in sources:
            if source.below in seen:
                raise ConfigError(
                    f"{seen[source.below]} and {source.name} would have one file of labels",
                    where=folder / source.below,
                    fix="give the folder that holds both, or tag them one after the other",
                )
            seen[source.below] = source.name

    def write(self, result: Result) -> None:
        self._lines.append(RENDER["audacity"](result))

    def end(self, source: Source) -> None:
        path = self._folder / source.below.with_name(f"{source.below.name}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_open(path, "w") as file:
            file.writelines(self._lines)
        self._lines = []


def _as_text(result: Result) -> str:
    tags = "  ".join(f"{tag.name} {tag.score:.3f}" for tag in result.tags)
    return f"  {result.kind:<10}{result.start_s:>10.2f}{result.end_s:>10.2f} s  {tags}\n"


def _as_json(result: Result) -> str:
    return json.dumps(asdict(result), ensure_ascii=False, allow_nan=False) + "\n"


def _as_csv(result: Result) -> str:
    stretch = (result.kind, result.recording, f"{result.start_s:.3f}", f"{result.end_s:.3f}")
    rows = ((*stretch, tag.mid, tag.name, f"{tag.score:.6f}") for tag in result.tags)
    return "".join(_csv_line(row) for row in rows)


def _csv_line(row: tuple[str, ...]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(row)
    return buffer.getvalue()


def _as_labels(result: Result) -> str:
    """Lines of Audacity's label tracks: start, end, text, between tabs."""
    if result.kind != "event":
        return ""
    name = " ".join(result.tags[0].name.split())
    return f"{result.start_s:.6f}\t{result.end_s:.6f}\t{name}\n"


RENDER: dict[Format, Callable[[Result], str]] = {
    "text": _as_text,
    "json": _as_json,
    "csv": _as_csv,
    "audacity": _as_labels,
}
