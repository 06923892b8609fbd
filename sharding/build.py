"""Pack labelled audio clips into tar shards with an index.

    psla-wds build folder FOLDER --output SHARDS
    psla-wds build manifest CLIPS.csv --class-labels CSV --output SHARDS
    psla-wds build audioset --segments CSV --audio-root DIR --class-labels CSV \\
        --output SHARDS
    psla-wds build fsd50k|esc50 FOLDER --output SHARDS
    psla-wds build psla-json JSON --class-labels CSV --output SHARDS
    psla-wds build hdf5 FILE ... --class-labels CSV --output SHARDS
    psla-wds build parquet FILE|FOLDER ... --output SHARDS
    psla-wds build tars FOLDER --class-labels CSV --output SHARDS

Audio of any usual format (wav, flac, mp3, ogg, m4a, webm, mp4, mov, wma, ...), at any rate and
number of channels, becomes one channel at one rate. Interrupted and started again, it goes on; the
same input and settings give the same bytes. Clips that cannot be used are listed in rejected.jsonl,
odd ones in flagged.jsonl, and coverage.json counts what is missing of each split and class.
docs/data_sets.md has the commands from each published data set to its shards.
"""

import inspect
import logging
import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from psla_wds import cli
from psla_wds.commands import called_as
from psla_wds.errors import ConfigError, ManifestError
from psla_wds.features.windows import mismatch_by_default
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.class_list import check_number_of_classes, joined_classes
from psla_wds.labels.manifest import checked
from psla_wds.printable import typed
from psla_wds.progress import progress_bar
from psla_wds.runtime.array_tasks import parse_task
from psla_wds.shards.index import check_number_of_splits
from psla_wds.text_table import counted, of_bytes, of_seconds
from sharding.packing.config import PackConfig
from sharding.packing.forecast import forecast
from sharding.packing.pack_all import pack_all, pack_share, retry_rejected
from sharding.packing.plan import as_begun
from sharding.packing.reports import FLAGGED
from sharding.packing.split import in_order
from sharding.sources import (
    AudioSetSource,
    Esc50Source,
    FolderSource,
    Fsd50kSource,
    Hdf5Source,
    ManifestSource,
    ParquetSource,
    PslaJsonSource,
    Source,
    TarsSource,
)

logger = logging.getLogger("sharding.build")

SOURCES: dict[str, type] = {
    "folder": FolderSource,
    "manifest": ManifestSource,
    "audioset": AudioSetSource,
    "fsd50k": Fsd50kSource,
    "esc50": Esc50Source,
    "psla-json": PslaJsonSource,
    "hdf5": Hdf5Source,
    "parquet": ParquetSource,
    "tars": TarsSource,
}

BY_SUFFIX = {
    ".csv": "manifest",
    ".jsonl": "manifest",
    ".json": "psla-json",
    ".parquet": "parquet",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
}
"""Sources of files."""

PLACES = ("folder", "file", "files", "segments")
"""Fields that name what a source reads; each source has one of them."""


def build(source: Source, config: PackConfig) -> None:
    """Read the source, make the shards that are missing, and publish them by their index."""
    _check_output(source, config.output)
    if getattr(source, "group_column", None) and not config.eval_share:
        raise ConfigError(
            "groups are kept together only where --eval-share makes the splits",
            where="--group-column",
            fix="add --eval-share 0.2, or leave --group-column out",
        )
    classes, found = source.read()
    if hasattr(source, "separator") and (seems := joined_classes(classes)):
        logger.warning("%s", seems)
    found = checked(iter(progress_bar(found, desc="reading the source")))
    clips = in_order(found, as_begun(config.layout, config.output), classes)
    if not clips:
        raise ManifestError(
            "the source lists no clip", where=_place(source), fix="check the path and the file"
        )
    check_number_of_classes(len(classes), where=_place(source))
    check_number_of_splits(clips.num_splits(), where=_place(source))
    if config.dry_run:
        try:
            print(forecast(clips, classes, config))
        finally:
            _clean_up(source)
        return
    if config.task is not None:
        print(pack_share(clips, classes, config, parse_task(config.task)))
        return
    outcome = (retry_rejected if config.retry_rejected else pack_all)(clips, classes, config)
    _clean_up(source)
    index = outcome.index
    length = of_seconds(index.num_samples.sum() / index.sample_rate_hz)
    if lengths := mismatch_by_default(index.num_samples, index.sample_rate_hz):
        print(lengths)
    flagged = f"flagged: {outcome.flagged} ({FLAGGED}); " if outcome.flagged else ""
    print(
        f"wrote {counted(len(index), 'clip')} ({length}, {len(classes):,} classes) in "
        f"{counted(len(index.shards), 'shard')} ({of_bytes(sum(index.shard_sizes))}) to "
        f"{config.output}; {len(outcome.rejected):,} refused; {flagged}"
        f"next: psla-wds check {typed(config.output)}"
    )


def _check_output(source: Source, output: Location) -> None:
    """`ConfigError` if the shards would lie in a folder in which the source looks for clips."""
    if isinstance(source, FolderSource | TarsSource):
        folder = at(source.folder).address().rstrip("/")
        if f"{at(output).address()}/".startswith(f"{folder}/"):
            raise ConfigError(
                "the output is in the folder of the source, where it would be taken for content",
                where=output,
                fix=f"choose an --output outside of {source.folder}",
            )


def _place(source: Source) -> str:
    """What the source reads, for messages."""
    (place,) = (vars(source)[name] for name in PLACES if name in vars(source))
    return ", ".join(map(str, place)) if isinstance(place, tuple) else str(place)


def _clean_up(source: Source) -> None:
    if isinstance(source, ParquetSource):
        source.clean_up()


def main() -> None:
    words, prog = sys.argv[1:], called_as("build")
    name = next((word for word in words if word in SOURCES), "")
    if not name and {"-h", "--help"} & {*words}:
        summaries = {name: _summary(kind) for name, kind in SOURCES.items()}
        cli.show_choices(prog, "SOURCE", __doc__, summaries)
    if not name:
        raise _no_source(words, prog)
    words.remove(name)
    fields = {"source": SOURCES[name], "pack": PackConfig}
    flat = [(field, Annotated[kind, arg(name="")]) for field, kind in fields.items()]
    kind, description = make_dataclass("Args", flat), inspect.getdoc(SOURCES[name])
    args: Any = cli.parse(kind, description, prog=f"{prog} {name}", args=words)
    build(args.source, args.pack)


def _no_source(words: Sequence[str], prog: str) -> ConfigError:
    """The error of a command that names no source, with the one that seems to be meant."""
    first = words[0] if words else "-"
    given = "a source is missing" if first.startswith("-") else f"there is no source {first}"
    fix = f"type {prog} SOURCE ...: {', '.join(SOURCES)}"
    found = next(filter(None, map(_source_of, words)), None)
    close = [] if Path(first).exists() else get_close_matches(first, SOURCES, 1)
    if close or found:
        fix = f"type {prog} {typed(*([*close, *words[1:]] if close else [found, *words]))}"
    return ConfigError(given, where=prog, fix=fix)


def _source_of(word: str) -> str | None:
    """The source for a file or folder of this name."""
    path = Path(word)
    if path.is_dir():
        return "tars" if any(path.glob("*.tar")) else "folder"
    if path.is_file():
        return BY_SUFFIX.get(path.suffix)
    return None


def _summary(source: type) -> str:
    """The first paragraph of the docstring."""
    return " ".join((inspect.getdoc(source) or "").partition("\n\n")[0].split())


if __name__ == "__main__":
    cli.run(main)
