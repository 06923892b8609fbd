"""The settings of a build, whatever its source."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from psla_wds.audio.encode import OPUS_RATES_HZ, Codec
from psla_wds.cli import LocationArg
from psla_wds.errors import ConfigError
from psla_wds.io.url_files import require_writable
from sharding.packing.engines import num_cores
from sharding.packing.plan import Layout
from sharding.packing.shard import Encoding


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How the shards are made."""

    output: LocationArg
    """Folder of the shards, or its URL (s3://, gs://); a new one, or one where this very build was
    interrupted."""
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
    """flac: about half the size of wav, which is ten times cheaper to decode. opus and vorbis
    lose something, and take a tenth to a sixth of wav."""
    sample_rate_hz: int = 16_000
    """Clips are resampled to this rate."""
    clips_per_shard: int = 1000
    """The last shard may have fewer."""
    shard_mib: int | None = None
    """Shards of about so many MiB, by a sample of the clips, instead of --clips-per-shard."""
    min_clip_s: float = 0.1
    """Shorter clips are refused."""
    max_clip_s: float | None = None
    """Of longer clips the first so many seconds are kept; all of them unless set."""
    seed: int = 0
    """Of the order of the clips, and of --eval-share."""
    eval_share: float = 0.0
    """Share of the clips without a split that become split eval; the others become train."""
    max_rejected: float = 0.01
    """Share of the clips that may be refused before the build is an error."""
    keep_unlabelled: bool = False
    """Pack clips without a label too, instead of refusing them."""
    refuse_silent: bool = False
    """Refuse clips below -70 dBFS; they are counted in any case."""
    refuse_duplicates: bool = False
    """Refuse clips whose audio an earlier clip has; they are counted in any case."""
    retry_rejected: bool = False
    """Try the clips in rejected.jsonl again, into new shards; the old ones stay as they are."""
    dry_run: bool = False
    """Print clips, classes, shards, size and time, from a sample of 64 clips; write nothing."""

    def __post_init__(self) -> None:
        for name, valid, bounds in (
            ("workers", self.workers >= 1, "at least 1"),
            ("sample_rate_hz", self.sample_rate_hz >= 1000, "at least 1000"),
            ("clips_per_shard", self.clips_per_shard >= 1, "at least 1"),
            ("shard_mib", self.shard_mib is None or self.shard_mib >= 1, "at least 1"),
            ("min_clip_s", self.min_clip_s >= 0, "at least 0"),
            ("max_clip_s", self.max_clip_s is None or self.max_clip_s > 0, "above 0"),
            ("eval_share", 0 <= self.eval_share < 1, "from 0 to below 1"),
            ("max_rejected", 0 <= self.max_rejected <= 1, "from 0 to 1"),
        ):
            if not valid:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{name}={getattr(self, name)} must be {bounds}", where=flag, fix=f"set {flag}"
                )
        if self.codec == "opus" and self.sample_rate_hz not in OPUS_RATES_HZ:
            raise ConfigError(
                f"Opus has no {self.sample_rate_hz:,} Hz",
                where="--codec opus",
                fix=f"--sample-rate-hz {', '.join(map(str, OPUS_RATES_HZ))}, or another --codec",
            )

        require_writable(self.output)
        self._check_engine()

    def _check_engine(self) -> None:
        schedulers = [self.scheduler, self.scheduler_file]
        if len(schedulers) - schedulers.count(None) != (self.engine == "dask"):
            raise ConfigError(
                "engine dask needs one scheduler, and engine local none",
                where="--engine",
                fix="--engine dask with --scheduler ADDRESS or --scheduler-file FILE",
            )
        if self.task is not None and self.retry_rejected:
            raise ConfigError(
                "refused clips are tried again when all shards stand, which one task cannot know",
                where="--task, --retry-rejected",
                fix="run all tasks, python -m sharding.index, then this without --task",
            )
        if self.task is not None and self.refuse_duplicates:
            raise ConfigError(
                "duplicates show only when all shards stand, which one task cannot know",
                where="--task, --refuse-duplicates",
                fix="run it without --task, on a cluster by --engine dask",
            )

    @property
    def layout(self) -> Layout:
        return Layout(
            clips_per_shard=self.clips_per_shard,
            shard_mib=self.shard_mib,
            seed=self.seed,
            eval_share=self.eval_share,
            refuse_duplicates=self.refuse_duplicates,
        )

    @property
    def encoding(self) -> Encoding:
        return Encoding(
            codec=self.codec,
            sample_rate_hz=self.sample_rate_hz,
            min_clip_s=self.min_clip_s,
            max_clip_s=self.max_clip_s,
            keep_unlabelled=self.keep_unlabelled,
            refuse_silent=self.refuse_silent,
        )
