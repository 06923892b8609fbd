"""The whole loader against the paper's way: balanced draws, mixup, features, masks.

    python -m benchmarks.bench_loader [--clips 1000]

Both draw by the same weights, mix half of the draws with a uniform partner, and give the same
features for the same draws, which is checked first. Both use all cores.
"""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.corpus import make_corpus
from benchmarks.harness import RESULTS, compare, record, show, timed, write
from benchmarks.paper_way import LooseFiles, Recipe, check_same, clip_features, data_loader
from psla_wds import cli
from psla_wds.augment import AugmentConfig
from psla_wds.encoded_batch import NULL_WAV, EncodedBatch
from psla_wds.features import FeatureConfig, normalise
from psla_wds.loader import Loader
from psla_wds.pipeline import FrontEnd
from psla_wds.reader import Reader, ReaderConfig
from psla_wds.sampler import SamplerConfig, clip_weights
from psla_wds.schedule import BatchLayout, Plans, TrainingSchedule
from psla_wds.shard_index import ShardIndex
from sharding.engines import num_cores

FEATURES = FeatureConfig()
AUGMENT = AugmentConfig()
WARMUP_BATCHES = 10
"""More than any loader here reads ahead: from then on it is as fast as it can be for long."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""Log-mel and targets of a batch."""


@dataclass(frozen=True)
class Args:
    clips: int = 1000
    """Clips of ten seconds."""
    batches: int = 20
    """Batches that are timed, after those that warm up; together at most an epoch."""
    batch_size: int = 32
    repeats: int = 5
    corpus: Path = Path("data/bench")
    """Folder of the clips; made if it is not there."""
    output: Path = RESULTS / "bench_loader.json"


def measure(args: Args) -> dict[str, Any]:
    """Compare the loaders; the record for the results folder."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cores = num_cores()
    index, paths = make_corpus(args.corpus, num_clips=args.clips)
    check_equal(index, paths, device)
    files = LooseFiles(
        paths, torch.from_numpy(index.targets(np.arange(len(index)))), Recipe(FEATURES, AUGMENT)
    )
    loose = data_loader(files, clip_weights(index), batch_size=args.batch_size, workers=cores)

    @contextmanager
    def papers_way() -> Iterator[Iterator[Pair]]:
        batches = iter(loose)
        yield batches
        del batches  # its workers end with it

    @contextmanager
    def our_way() -> Iterator[Iterator[Pair]]:
        with open_loader(index, args.batch_size, device, threads=cores) as batches:
            yield ((batch.log_mel, batch.targets) for batch in batches)

    results = compare(
        {
            f"paper's way, {cores} workers": lambda: steady_rate(papers_way(), args, device),
            f"psla-wds, {cores} decode threads": lambda: steady_rate(our_way(), args, device),
        },
        repeats=args.repeats,
    )
    return record(
        "Loader: balanced draws of 10 s clips, 50 % mixed, features, masks",
        results,
        device=device.type,
        codec="flac",
        clips=args.clips,
        batch_size=args.batch_size,
        page_cache="warm",
        repeats=args.repeats,
    )


def open_loader(
    index: ShardIndex, batch_size: int, device: torch.device, *, threads: int
) -> Loader:
    schedule = TrainingSchedule(
        Plans(index, SamplerConfig(), seed=0),
        AUGMENT,
        BatchLayout(batch_size=batch_size),
        log_mel_shape=(FEATURES.num_frames, FEATURES.num_mels),
    )
    return Loader(
        index,
        schedule,
        clips_per_pass=batch_size,
        features=FEATURES,
        config=ReaderConfig(decode_threads=threads),
        device=device,
    )


def steady_rate(
    opened: AbstractContextManager[Iterator[Pair]], args: Args, device: torch.device
) -> float:
    """Clips per second on the device of training, once what was read ahead is used up.

    Each loader is opened for its own measurement only: one that reads ahead while another is
    measured would gain what that one loses.
    """
    with opened as batches:
        _take(batches, WARMUP_BATCHES, device)
        return timed(lambda: _take(batches, args.batches, device) * args.batch_size)()


def _take(batches: Iterator[Pair], count: int, device: torch.device) -> int:
    for log_mel, targets in itertools.islice(batches, count):
        log_mel.to(device, non_blocking=True)
        targets.to(device, non_blocking=True)
    return count


def check_equal(index: ShardIndex, paths: list[Path], device: torch.device) -> None:
    """For the same clips, partners and weights, both ways give the same features."""
    rows = np.arange(8)
    lam = np.linspace(0.2, 0.8, 8).astype(np.float32)
    reader = Reader(index, threads=2)
    clips, partners = reader.start(rows).wait(), reader.start(rows + 8).wait()
    reader.close()
    partners[:2], lam[:2] = [NULL_WAV] * 2, 1.0
    batch = EncodedBatch(clips, partners, lam, np.zeros((8, 4), np.int32))
    front_end = FrontEnd(lambda _: batch, FEATURES, batch_size=8, num_threads=1, device=device)
    ours = front_end.run().cpu()
    for row in rows:
        partner = paths[row + 8] if row >= 2 else None
        theirs = clip_features(paths[row], partner, float(lam[row]), FEATURES)
        check_same(f"clip {row}", ours[row], normalise(theirs, FEATURES), FEATURES)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_loader")
    content = measure(args)
    show(content)
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
