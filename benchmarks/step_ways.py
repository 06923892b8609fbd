"""What feeds a training step in its benchmark, and what may differ between two such steps."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.harness import synchronize
from benchmarks.paper_way import LooseFiles, Recipe, data_loader
from benchmarks.ways import WARMUP_BATCHES
from psla_wds.loading.batches import LoaderConfig, training_batches
from psla_wds.loading.loader import Batch
from psla_wds.models.audio_tagger import build_model
from psla_wds.progress import DataTimer, Interval
from psla_wds.runtime.distributed import World
from psla_wds.sampling.plan import clip_weights
from psla_wds.shards.index import ShardIndex
from sharding.packing.engines import num_cores
from train.config import TrainConfig
from train.learner import Learner
from train.optimizer import Moment

NUM_CLASSES = 527
RESIDENT_BATCHES = 4
RESIDENT_WARMUP = 4
"""Steps; a captured graph is replayed from the third on."""
CHECKED_BATCHES = 16
LARGEST_DEVIATION = 5.0
"""Standard errors by which the means of two sources may differ."""

Open = Callable[[], AbstractContextManager[Iterator[Batch]]]
Change = Literal[
    "float32", "bfloat16", "float16", "contiguous", "compile", "cuda-graphs", "default-adam"
]


@dataclass(frozen=True)
class Sources:
    """Clips and recipe of all ways to feed a step, and the device that it is done on."""

    index: ShardIndex
    paths: list[Path]
    config: TrainConfig
    device: torch.device

    @contextmanager
    def loader(self) -> Iterator[Iterator[Batch]]:
        """As in training."""
        config = LoaderConfig(
            augment=self.config.augment, features=self.config.features, device=self.device
        )
        size = self.config.batch_size
        with training_batches(self.index, batch_size=size, config=config) as epochs:
            yield map(_widened, itertools.chain.from_iterable(itertools.repeat(epochs)))

    @contextmanager
    def resident(self) -> Iterator[Iterator[Batch]]:
        """A few batches of the loader that lie on the device already: nothing is waited for."""
        with self.loader() as batches:
            some = [
                replace(batch, log_mel=batch.log_mel.clone())
                for batch in itertools.islice(batches, RESIDENT_BATCHES)
            ]
        yield itertools.cycle(some)

    @contextmanager
    def papers_way(self) -> Iterator[Iterator[Batch]]:
        """Features by torchaudio in the workers of a DataLoader, one for each core."""
        config, rows = self.config, np.arange(len(self.index))
        files = LooseFiles(
            self.paths,
            torch.from_numpy(self.index.targets(rows)),
            Recipe(config.features, config.augment),
        )
        batches = iter(
            data_loader(
                files,
                clip_weights(self.index),
                batch_size=config.batch_size,
                workers=num_cores(),
            )
        )
        numbers = np.arange(config.batch_size)
        yield (
            _widened(Batch(log_mel.to(self.device), targets.to(self.device), numbers))
            for log_mel, targets in batches
        )
        del batches  # its workers end with it


def _widened(batch: Batch) -> Batch:
    """With the paper's number of classes; no clip carries those that are added."""
    missing = NUM_CLASSES - batch.targets.shape[1]
    return replace(batch, targets=F.pad(batch.targets, (0, missing)))


def check_same_work(sources: dict[str, Open]) -> None:
    """All feed batches of one shape, and but for chance the same targets, mixes and features."""
    found = {}
    for name, opened in sources.items():
        with opened() as batches:
            some = list(itertools.islice(batches, CHECKED_BATCHES))
        shapes = {
            (b.log_mel.shape, b.log_mel.dtype, b.targets.shape, b.targets.dtype) for b in some
        }
        found[name] = shapes, torch.cat([_of_clips(b) for b in some])
    (first_name, (first_shapes, first)), *others = found.items()
    for name, (shapes, clips) in others:
        if shapes != first_shapes or len(shapes) != 1:
            raise AssertionError(f"{name} feeds {shapes}, {first_name} {first_shapes}")
        error = (clips.var(0) / len(clips) + first.var(0) / len(first)).sqrt()
        deviation = (clips.mean(0) - first.mean(0)).abs() / error
        if float(deviation.max()) > LARGEST_DEVIATION:
            raise AssertionError(
                f"{name} differs from {first_name} by {deviation.tolist()} standard errors "
                "in the mean of targets, share of mixed clips, or mean of features"
            )


def _of_clips(batch: Batch) -> torch.Tensor:
    """(clips, 3): sum of targets, whether a clip is mixed, mean of its features."""
    targets = batch.targets
    mixed = ((targets > 0) & (targets < 1)).any(dim=1).float()
    return torch.stack([targets.sum(1), mixed, batch.log_mel.mean((1, 2))], 1).double().cpu()


def new_learner(config: TrainConfig, device: torch.device, change: Change | None = None) -> Learner:
    """A learner of random weights, with at most one thing changed."""
    config = changed(config, change)
    torch.manual_seed(config.seed)
    world = World(rank=0, size=1, device=device)
    learner = Learner(config, world, build_model(config.model, NUM_CLASSES))
    if change == "contiguous":
        learner.model.to(memory_format=torch.contiguous_format)
    if change == "default-adam":
        unfuse(learner)
    return learner


def changed(config: TrainConfig, change: Change | None) -> TrainConfig:
    match change:
        case "float32" | "bfloat16" | "float16":
            return replace(config, precision=change)
        case "compile":
            return replace(config, compile="default")
        case "cuda-graphs":
            return replace(config, compile="reduce-overhead")
    return config


def unfuse(learner: Learner) -> None:
    """Let torch choose Adam's implementation, as it does for who does not ask for a fused one."""
    for group in learner.optimizer.param_groups:
        group["fused"] = None


def official_learner(config: TrainConfig, device: torch.device) -> Learner:
    """float32, eager, torch's own memory format and Adam."""
    learner = new_learner(replace(config, precision="float32", compile="off"), device, "contiguous")
    unfuse(learner)
    return learner


@dataclass
class Steps:
    """Steps of one learner on the batches of one source."""

    learner: Learner
    open: Open
    batch_size: int
    seconds: float
    warmup: int = WARMUP_BATCHES
    """Steps before the clock starts: what was read ahead is used up."""
    data_waits: list[float] = field(default_factory=list)
    """Share of the time that the step waited for batches, of each measurement."""
    step: int = 0

    def rate(self) -> float:
        """Clips per second, once it runs steadily."""
        with self.open() as batches:
            timer = DataTimer(batches)
            for _ in range(self.warmup):
                self._step(timer)
            synchronize()
            interval = Interval(timer)
            while interval.elapsed_s < self.seconds:
                interval.clips += self._step(timer)
            synchronize()
            clips_per_s, data_wait = interval.clips_per_s, interval.data_wait
        self.data_waits.append(data_wait)
        return clips_per_s

    def _step(self, batches: Iterator[Batch]) -> int:
        self.learner.step(batches, Moment(self.step, epoch=1, total_steps=10**9))
        self.step += 1
        return self.batch_size
