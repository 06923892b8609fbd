"""Settings of a build, for any source."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from psla_wds.audio.encode import OPUS_RATES_HZ, Codec, takes_rate
from psla_wds.cli import LocationArg
from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError
from psla_wds.io.stores import at
from sharding.packing.engines import num_cores
from sharding.packing.plan import Layout
from sharding.packing.shard import Encoding


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Settings for making shards."""

    output: LocationArg
    """Folder of the shards, or its URL (s3://, gs://): a new one, or one where the same build was
    interrupted."""
    eval_share: Annotated[float, Within(0, 1, without=(1,))] = 0.0
    """Share of the clips without a split that go to the split eval, of each class as nearly as it
    can be; the rest go to train."""
    sample_rate_hz: Annotated[int, Within(1000, 768_000)] = 16_000
    """Sample rate to which clips are resampled."""
    codec: Codec = "flac"
    """flac is about half the size of wav, whose decoding is ten times cheaper. opus and vorbis are
    lossy and take a sixth to a tenth of wav."""
    clips_per_shard: Annotated[int, Within(1, 10**7)] = 1000
    """Clips in a shard; the last one may have fewer."""
    shard_mib: Annotated[int | None, Within(1, 2**24)] = None
    """Size of a shard in MiB, approximately, in place of --clips-per-shard."""
    min_clip_s: Annotated[float, Within(0, 86_400)] = 0.1
    """Length below which clips are refused."""
    max_clip_s: Annotated[float | None, Within(0, 86_400, without=(0,))] = None
    """Length to which longer clips are cut. Default: none are cut."""
    keep_unlabelled: bool = False
    """Pack clips without a label instead of refusing them."""
    refuse_silent: bool = False
    """Refuse clips below -70 dBFS; they are counted in any case."""
    refuse_duplicates: bool = False
    """Refuse clips with the same audio as an earlier clip; they are counted in any case."""
    max_rejected: Annotated[float, Within(0, 1)] = 0.01
    """Share of the clips that may be refused before the build fails."""
    retry_rejected: bool = False
    """Try the clips in rejected.jsonl again, into new shards; existing shards stay as they are."""
    seed: Annotated[int, Within(-(2**63), 2**63 - 1)] = 0
    """Seed for the order of the clips and for --eval-share."""
    workers: Annotated[int, Within(1, 1024)] = field(default_factory=num_cores)
    """Processes; they do not change the result. Default: one a core."""
    engine: Literal["local", "dask"] = "local"
    """local runs --workers processes here; dask uses the workers of --scheduler or
    --scheduler-file."""
    scheduler: str | None = None
    """Address of a Dask scheduler, such as tcp://host:8786."""
    scheduler_file: Path | None = None
    """File to which a Dask scheduler wrote its address."""
    task: str | None = None
    """I/N, with I from 0 to N - 1, makes only every Nth shard from the Ith on; slurm takes both
    from a Slurm array. When all tasks are done, psla-wds index joins the shards."""
    dry_run: bool = False
    """Print clips, classes, shards, size and time, estimated from 64 clips; write nothing."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not takes_rate(self.codec, self.sample_rate_hz):
            rates = OPUS_RATES_HZ if self.codec == "opus" else (16_000,)
            nearest_hz = min(rates, key=lambda rate_hz: abs(rate_hz - self.sample_rate_hz))
            raise ConfigError(
                f"{self.codec} has no sample rate of {self.sample_rate_hz:,} Hz",
                where=f"--codec {self.codec}",
                fix=f"--sample-rate-hz {nearest_hz}, or another --codec",
            )
        at(self.output).require_writable()
        self._check_engine()

    def _check_engine(self) -> None:
        schedulers = [self.scheduler, self.scheduler_file]
        if len(schedulers) - schedulers.count(None) != (self.engine == "dask"):
            raise ConfigError(
                "engine dask needs exactly one scheduler, engine local none",
                where="--engine",
                fix="--engine dask with --scheduler ADDRESS or --scheduler-file FILE",
            )
        if self.task is not None and (self.retry_rejected or self.refuse_duplicates):
            raise ConfigError(
                "refused clips are retried, and duplicates found, only once all shards are made",
                where="--task with --retry-rejected or --refuse-duplicates",
                fix="retry without --task, after psla-wds index; refuse duplicates in a "
                "build without --task, on a cluster with --engine dask",
            )

    @property
    def split_by_class(self) -> bool:
        """Rule for splits of a build that is begun now."""
        return self.eval_share > 0

    @property
    def layout(self) -> Layout:
        return Layout(**self._settings_of(Layout))

    @property
    def encoding(self) -> Encoding:
        return Encoding(**self._settings_of(Encoding))

    def _settings_of(self, part: type) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(part)}
