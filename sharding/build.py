"""Pack labelled audio clips into tar shards with an index.

python -m sharding.build manifest CLIPS.csv --class-labels CLASSES.csv --output SHARDS
python -m sharding.build folder FOLDER --output SHARDS
python -m sharding.build audioset --segments CSV --audio-root DIR --class-labels CSV --output SHARDS
python -m sharding.build fsd50k|esc50 FOLDER --output SHARDS
python -m sharding.build psla-json JSON --class-labels CSV --output SHARDS
python -m sharding.build hdf5 FILE ... --class-labels CSV --output SHARDS
python -m sharding.build parquet FILE|FOLDER ... --output SHARDS
python -m sharding.build tars FOLDER --class-labels CSV --output SHARDS

Audio of any usual format (wav, flac, mp3, ogg, m4a, webm, mp4, mov, wma, ...), at any rate and
number of channels, becomes one channel at one rate. Interrupted and started again, it goes on; the
same input and settings give the same bytes. Clips that cannot be used are listed in rejected.jsonl,
odd ones in flagged.jsonl, and coverage.json counts what is missing of each split and class.
docs/data_sets.md has the commands from each published data set to its shards.
"""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg, subcommand

from psla_wds import cli
from psla_wds.errors import ConfigError, ManifestError
from psla_wds.features.windows import mismatch_by_default
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.manifest import checked
from psla_wds.progress import progress_bar
from psla_wds.runtime.array_tasks import parse_task
from sharding.packing.config import PackConfig
from sharding.packing.forecast import forecast
from sharding.packing.pack_all import pack_all, pack_share, retry_rejected
from sharding.packing.plan import in_order
from sharding.packing.reports import FLAGGED
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

Sources = (
    Annotated[ManifestSource, subcommand("manifest")]
    | Annotated[AudioSetSource, subcommand("audioset")]
    | Annotated[FolderSource, subcommand("folder")]
    | Annotated[Fsd50kSource, subcommand("fsd50k")]
    | Annotated[Esc50Source, subcommand("esc50")]
    | Annotated[PslaJsonSource, subcommand("psla-json")]
    | Annotated[Hdf5Source, subcommand("hdf5")]
    | Annotated[ParquetSource, subcommand("parquet")]
    | Annotated[TarsSource, subcommand("tars")]
)


@dataclass(frozen=True, kw_only=True)
class Args:
    source: Annotated[Sources, arg(name="")]
    pack: Annotated[PackConfig, arg(name="")]


def build(source: Source, config: PackConfig) -> None:
    """Read the source, make the shards that are missing, and publish them by their index."""
    _check_output(source, config.output)
    classes, found = source.read()
    clips = in_order(checked(iter(progress_bar(found, desc="reading the source"))), config.layout)
    if not clips:
        raise ManifestError(
            "the source lists no clip", where=source, fix="check the path and the file"
        )
    if config.dry_run:
        print(forecast(clips, classes, config))
        _clean_up(source)
        print("nothing was written; next: the same command without --dry-run")
        return
    if config.task is not None:
        print(pack_share(clips, classes, config, parse_task(config.task)))
        return
    outcome = (retry_rejected if config.retry_rejected else pack_all)(clips, classes, config)
    _clean_up(source)
    index = outcome.index
    hours = index.num_samples.sum() / index.sample_rate_hz / 3600
    size_gb = sum(index.shard_sizes) / 1e9
    if lengths := mismatch_by_default(index.num_samples, index.sample_rate_hz):
        print(lengths)
    flagged = f"flagged: {outcome.flagged} ({FLAGGED}); " if outcome.flagged else ""
    print(
        f"wrote {len(index):,} clips ({hours:,.1f} h, {len(classes)} classes) in "
        f"{len(index.shards):,} shards ({size_gb:,.2f} GB) to {config.output}; "
        f"{len(outcome.rejected):,} refused; {flagged}"
        f"next: python -m sharding.check {config.output}"
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


def _clean_up(source: Source) -> None:
    if isinstance(source, ParquetSource):
        source.clean_up()


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m sharding.build")
    build(args.source, args.pack)


if __name__ == "__main__":
    cli.run(main)
