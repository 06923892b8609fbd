"""Time the training step: with data on the device, through the loader, and the paper's way.

On a GPU it has the paper's size (EfficientNet-B2, 1056 frames, batch 100), also with one setting
after another changed; on a CPU a small size. All steps have 527 classes and balanced draws of 10 s
clips with masks, half of them mixed, which is checked first. The paper's way is float32 and eager,
with features by torchaudio in the workers of a DataLoader.

    python -m benchmarks.bench_step
"""

import itertools
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import torch.nn.functional as F

from benchmarks import harness
from benchmarks.corpus import Corpus, CorpusArgs, make_corpus
from benchmarks.harness import RATES, RESULTS, WARMUP_BATCHES, BatchSize, Column, Open, Seconds
from benchmarks.papers_way import check_same_work, papers_batches
from benchmarks.tables import run_benchmark
from psla_wds import Batch, FeatureConfig, LoaderConfig, training_batches
from psla_wds.config import Within
from psla_wds.models.config import ModelConfig
from psla_wds.models.initial_weights import build_model
from psla_wds.progress import DataTimer, Interval
from psla_wds.runtime.distributed import World
from sharding.packing.engines import num_cores
from train.config import TrainConfig
from train.learner import Learner
from train.optimizer import Moment
from train.recipes import AUDIOSET_FULL

NUM_CLASSES = 527
RESIDENT, LOADER, PAPER = "data on the device: the limit", "psla-wds loader", "paper's way"
RESIDENT_BATCHES = 4
RESIDENT_WARMUP = 4
"""Steps before the clock starts; a captured graph is replayed from the third on."""
COLUMNS = (
    Column("", "name"),
    Column("clips/s", "clips_per_s", "{:,.1f}", "spread"),
    Column("of the limit", "speed_up", "{:.0%}", "speed_up_spread"),
    Column("data_wait", "data_wait", "{:.1%}"),
    RATES[2],
)

ON_GPU = torch.cuda.is_available()
Change = Literal["float32", "float16", "contiguous", "compile", "cuda-graphs", "default-adam"]


@dataclass(frozen=True)
class Args(CorpusArgs):
    """Defaults are the paper's size on a GPU, and a small one on a CPU."""

    backbone: str = "efficientnet-b2" if ON_GPU else "efficientnet-b0"
    """Network, with the paper's four heads."""
    num_frames: Annotated[int, Within(1, 2**16)] = 1056 if ON_GPU else 256
    batch_size: BatchSize = 100 if ON_GPU else 16
    changes: tuple[Change, ...] = get_args(Change) if ON_GPU else ()
    """Settings to change one by one, with data on the device. contiguous: not channels_last.
    default-adam: torch's choice, not the fused one."""
    seconds: Seconds = 5.0
    """Seconds that each way is measured in each round, once it runs steadily."""
    output: Path = RESULTS / "bench_step.json"


@dataclass(frozen=True)
class Sources:
    """The ways to feed a step, which share clips, recipe and device."""

    corpus: Corpus
    config: TrainConfig
    device: torch.device

    @property
    def _loader_config(self) -> LoaderConfig:
        return LoaderConfig(
            augment=self.config.augment, features=self.config.features, device=self.device
        )

    @contextmanager
    def loader(self) -> Iterator[Iterator[Batch]]:
        """The loader of training."""
        index, size = self.corpus.index, self.config.batch_size
        with training_batches(index, batch_size=size, config=self._loader_config) as epochs:
            yield map(_widened, harness.endless(epochs))

    @contextmanager
    def resident(self) -> Iterator[Iterator[Batch]]:
        """A few batches of the loader, on the device already: nothing is waited for."""
        with self.loader() as batches:
            some = [
                replace(batch, log_mel=batch.log_mel.clone())
                for batch in itertools.islice(batches, RESIDENT_BATCHES)
            ]
        yield itertools.cycle(some)

    @contextmanager
    def papers_way(self) -> Iterator[Iterator[Batch]]:
        """Features by torchaudio in the workers of a DataLoader, one for each core."""
        size, config = self.config.batch_size, self._loader_config
        with papers_batches(self.corpus, size, config, workers=num_cores()) as batches:
            yield map(_widened, batches)


def _widened(batch: Batch) -> Batch:
    """The batch with the paper's number of classes; no clip has those that are added."""
    missing = NUM_CLASSES - batch.targets.shape[1]
    return replace(batch, targets=F.pad(batch.targets, (0, missing)))


@dataclass
class Steps:
    """Steps of one learner on the batches of one source."""

    learner: Learner
    open: Open
    batch_size: int
    seconds: float
    warmup: int = WARMUP_BATCHES
    """Steps before the clock starts: they use up what was read ahead."""
    data_waits: list[float] = field(default_factory=list)
    """Share of the time spent waiting for batches, for each measurement."""
    step: int = 0

    def rate(self) -> float:
        """Clips per second, once it runs steadily."""
        with self.open() as batches:
            timer = DataTimer(batches)
            for _ in range(self.warmup):
                self._step(timer)
            harness.synchronize()
            interval = Interval(timer)
            while interval.elapsed_s < self.seconds:
                interval.clips += self._step(timer)
            harness.synchronize()
            clips_per_s, data_wait = interval.clips_per_s, interval.data_wait
        self.data_waits.append(data_wait)
        return clips_per_s

    def _step(self, batches: Iterator[Batch]) -> int:
        self.learner.step(batches, Moment(self.step, epoch=1, total_steps=10**9))
        self.step += 1
        return self.batch_size


def new_learner(config: TrainConfig, device: torch.device, change: Change | None = None) -> Learner:
    """A learner with random weights and at most one thing changed."""
    compiles = {"compile": "default", "cuda-graphs": "reduce-overhead"}
    if change in ("float32", "float16"):
        config = replace(config, precision=change)
    config = replace(config, compile=compiles.get(change, config.compile))
    torch.manual_seed(config.seed)
    world = World(rank=0, size=1, device=device)
    learner = Learner(config, world, build_model(config.model, NUM_CLASSES))
    if change == "contiguous":
        learner.model.to(memory_format=torch.contiguous_format)
    if change == "default-adam":
        unfuse(learner)
    return learner


def unfuse(learner: Learner) -> None:
    """Let torch choose Adam's implementation, as it does by default."""
    for group in learner.optimizer.param_groups:
        group["fused"] = None


def papers_learner(config: TrainConfig, device: torch.device) -> Learner:
    """A learner in float32, eager, with torch's own memory format and Adam."""
    learner = new_learner(replace(config, precision="float32", compile="off"), device, "contiguous")
    unfuse(learner)
    return learner


def measure(args: Args) -> dict[str, Any]:
    """Check and measure; the record for the results folder."""
    device = torch.device("cuda" if ON_GPU else "cpu")
    config = step_config(args)
    sources = Sources(make_corpus(args.corpus, args.clips), config, device)
    check_same_work({LOADER: sources.loader, RESIDENT: sources.resident, PAPER: sources.papers_way})
    ways = ways_to_train(sources, args)
    rows = harness.compare({name: steps.rate for name, steps in ways.items()}, repeats=args.repeats)
    for row in rows:
        row["data_wait"] = statistics.median(ways[row["name"]].data_waits[1:])
    size = f"{args.num_frames} frames, batch {args.batch_size}, {config.precision}"
    return harness.record(f"Steps of {args.backbone}, {size}", [harness.table(COLUMNS, rows)], args)


def step_config(args: Args) -> TrainConfig:
    """The recipe of the full AudioSet at the size that is measured, from random weights."""
    paper = AUDIOSET_FULL
    time_mask = paper.augment.time_mask * args.num_frames // paper.features.num_frames
    return replace(
        paper,
        precision="bfloat16" if ON_GPU else "float32",
        batch_size=args.batch_size,
        features=FeatureConfig(num_frames=args.num_frames),
        augment=replace(paper.augment, time_mask=time_mask, crop="start"),
        model=ModelConfig(backbone=args.backbone, initial_weights="none"),
    )


def ways_to_train(sources: Sources, args: Args) -> dict[str, Steps]:
    """All ways; the first is the limit, with which the others are compared."""
    config, device = sources.config, sources.device
    timing = {"batch_size": config.batch_size, "seconds": args.seconds}
    on_device = timing | {"open": sources.resident, "warmup": RESIDENT_WARMUP}
    learner = new_learner(config, device)
    ways = {
        RESIDENT: Steps(learner, **on_device),
        LOADER: Steps(learner, open=sources.loader, **timing),
        PAPER: Steps(papers_learner(config, device), open=sources.papers_way, **timing),
    }
    for change in args.changes:
        ways[f"limit, {change}"] = Steps(new_learner(config, device, change), **on_device)
    return ways


if __name__ == "__main__":
    run_benchmark("benchmarks.bench_step", __doc__, Args, measure)
