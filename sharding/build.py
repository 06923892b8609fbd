"""Pack labelled audio clips into tar shards with an index.

python -m sharding.build manifest CLIPS.csv --class-labels CLASSES.csv --output SHARDS
python -m sharding.build folder FOLDER --output SHARDS
python -m sharding.build audioset --segments CSV --audio-root DIR --class-labels CSV --output SHARDS

Any format that libsndfile reads, at any rate and number of channels, becomes one channel at one
rate. Interrupted and started again, it goes on; the same input and settings give the same bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg, subcommand

from psla_wds import cli
from psla_wds.audio import Codec
from psla_wds.errors import ConfigError, ManifestError
from psla_wds.manifest import checked
from psla_wds.merge import merge_sidecars
from psla_wds.progress import clip_bar
from sharding.dask_engine import run_dask, scheduler_address
from sharding.engines import Update, num_cores, run_local
from sharding.pack import Encoding, ShardResult, ShardTask
from sharding.plan import Layout, open_output, plan_shards, sweep
from sharding.rejects import REJECTED, check_rejected, write_rejected
from sharding.shares import Share, forget_reports, parse_share
from sharding.sources import AudioSetSource, FolderSource, ManifestSource


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How the shards are made."""

    output: Path
    """Folder of the shards; a new one, or one where this very build was interrupted."""
    workers: int = field(default_factory=num_cores)
    """Processes; as many as there are cores unless set. They do not change the result."""
    engine: Literal["local", "dask"] = "local"
    """local: --workers processes here. dask: the workers of --scheduler or --scheduler-file."""
    scheduler: str | None = None
    """Address of a Dask scheduler, such as tcp://host:8786."""
    scheduler_file: Path | None = None
    """File that a Dask scheduler wrote its address to."""
    task: str | None = None
    """I/N with I from 0 to N - 1, or slurm in a job of a Slurm array: make only every Nth shard,
    from the Ith on. When all tasks are done, python -m sharding.index joins them."""
    codec: Codec = "flac"
    """flac: about half the size. wav: ten times cheaper to decode."""
    sample_rate_hz: int = 16_000
    """Clips are resampled to this rate."""
    clips_per_shard: int = 1000
    min_clip_s: float = 0.1
    """Shorter clips are refused."""
    seed: int = 0
    """Of the order of the clips, and of --eval-share."""
    eval_share: float = 0.0
    """Share of the clips without a split that become split eval; the others become train."""
    max_rejected: float = 0.01
    """Share of the clips that may be refused before the build is an error."""

    def __post_init__(self) -> None:
        for name, valid, bounds in (
            ("workers", self.workers >= 1, "at least 1"),
            ("sample_rate_hz", self.sample_rate_hz >= 1000, "at least 1000"),
            ("clips_per_shard", self.clips_per_shard >= 1, "at least 1"),
            ("min_clip_s", self.min_clip_s >= 0, "at least 0"),
            ("eval_share", 0 <= self.eval_share < 1, "from 0 to below 1"),
            ("max_rejected", 0 <= self.max_rejected <= 1, "from 0 to 1"),
        ):
            if not valid:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{name}={getattr(self, name)} must be {bounds}", where=flag, fix=f"set {flag}"
                )
        schedulers = [self.scheduler, self.scheduler_file]
        if len(schedulers) - schedulers.count(None) != (self.engine == "dask"):
            raise ConfigError(
                "engine dask needs one scheduler, and engine local none",
                where="--engine",
                fix="--engine dask with --scheduler ADDRESS or --scheduler-file FILE",
            )

    @property
    def layout(self) -> Layout:
        return Layout(
            clips_per_shard=self.clips_per_shard, seed=self.seed, eval_share=self.eval_share
        )

    @property
    def encoding(self) -> Encoding:
        return Encoding(
            codec=self.codec, sample_rate_hz=self.sample_rate_hz, min_clip_s=self.min_clip_s
        )


Sources = (
    Annotated[ManifestSource, subcommand("manifest")]
    | Annotated[AudioSetSource, subcommand("audioset")]
    | Annotated[FolderSource, subcommand("folder")]
)


@dataclass(frozen=True, kw_only=True)
class Args:
    source: Annotated[Sources, arg(name="")]
    pack: Annotated[PackConfig, arg(name="")]


def build(source: Sources, config: PackConfig) -> None:
    """Read the source, make the shards that are missing, and publish them by their index."""
    classes, found = source.read()
    clips = checked(clip_bar(found, desc="reading the source"))
    if not clips:
        raise ManifestError(
            "the source lists no clip", where=source, fix="check the path and the file"
        )
    tasks = plan_shards(clips, classes, config.output, config.layout, config.encoding)
    open_output(config.output, tasks, classes, config.layout)
    if config.task is not None:
        _build_share(tasks, parse_share(config.task), config)
        return
    results = _run(tasks, config)
    rejected = [clip for result in results for clip in result.rejected]
    write_rejected(config.output / REJECTED, rejected)
    check_rejected(
        rejected,
        len(clips),
        config.max_rejected,
        where=config.output / REJECTED,
        fix="mend the files and build into another --output",
    )
    index = merge_sidecars(config.output)
    forget_reports(config.output)
    sweep(config.output)
    hours = index.num_samples.sum() / index.sample_rate_hz / 3600
    size_gb = sum(index.shard_sizes) / 1e9
    print(
        f"wrote {len(index):,} clips ({hours:,.1f} h, {len(classes)} classes) in "
        f"{len(index.shards):,} shards ({size_gb:,.2f} GB) to {config.output}; "
        f"{len(rejected):,} refused; next: python -m sharding.check {config.output}"
    )


def _build_share(tasks: Sequence[ShardTask], share: Share, config: PackConfig) -> None:
    """Make the shards of one task of an array; the index is made when all of them stand."""
    own = share.of(tasks)
    results = _run(own, config)
    rejected = [clip for result in results for clip in result.rejected]
    share.report(config.output, rejected)
    print(
        f"made {len(own):,} of {len(tasks):,} shards in {config.output} (task {share}); "
        f"{len(rejected):,} clips refused; next, when all tasks are done: "
        f"python -m sharding.index {config.output}"
    )


def _updates(tasks: Sequence[ShardTask], config: PackConfig) -> Iterator[Update]:
    if config.engine == "local":
        return run_local(tasks, config.workers)
    file = config.scheduler_file
    return run_dask(tasks, scheduler_address(file) if file else str(config.scheduler))


def _run(tasks: Sequence[ShardTask], config: PackConfig) -> list[ShardResult]:
    num_clips = sum(len(task.clips) for task in tasks)
    results: list[ShardResult] = []
    already_done = 0
    with clip_bar(desc="packing", total=num_clips) as bar:
        for update in _updates(tasks, config):
            done = update.results
            results += done
            already_done += sum(r.num_clips + len(r.rejected) for r in done if r.already_done)
            bar.update(already_done + update.packed + update.rejected - bar.n)
            shards = f"{len(results)}/{len(tasks)}"
            bar.set_postfix(shards=shards, rejected=update.rejected, refresh=False)
    return sorted(results, key=lambda result: result.number)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m sharding.build")
    build(args.source, args.pack)


if __name__ == "__main__":
    cli.run(main)
