"""Decode and log-mel features: the DALI graph, torch, and torchaudio clip by clip.

    python -m benchmarks.bench_features [--clips 1000]

Every way starts from the same FLAC bytes in memory and ends with the same normalised log-mel on
the device of training; that they are equal is checked first.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType

from benchmarks.corpus import make_corpus
from benchmarks.harness import RESULTS, compare, record, show, timed, write
from benchmarks.paper_way import check_same, clip_features
from psla_wds import cli
from psla_wds.encoded_batch import NULL_WAV, EncodedBatch
from psla_wds.features import FeatureConfig, LogMel, fit, normalise
from psla_wds.pipeline import FrontEnd
from psla_wds.reader import Reader
from sharding.engines import num_cores

FEATURES = FeatureConfig()


@dataclass(frozen=True)
class Args:
    clips: int = 1000
    """Clips of ten seconds, each processed once a round."""
    batch_size: int = 32
    repeats: int = 5
    corpus: Path = Path("data/bench")
    """Folder of the clips; made if it is not there."""
    output: Path = RESULTS / "bench_features.json"


def measure(args: Args) -> dict[str, Any]:
    """Compare the ways; the record for the results folder."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index, paths = make_corpus(args.corpus, num_clips=args.clips)
    reader = Reader(index, threads=2)
    clips = [clip.copy() for clip in reader.start(np.arange(args.clips)).wait()]
    reader.close()
    cores = num_cores()
    ways = {
        "torchaudio, clip by clip, 1 thread": lambda: torchaudio_way(paths[: args.clips]),
        "torch, batched": lambda: torch_way(clips, args.batch_size, device),
        "DALI graph, 1 thread": lambda: dali_way(clips, args.batch_size, device, threads=1),
        f"DALI graph, {cores} threads": lambda: dali_way(
            clips, args.batch_size, device, threads=cores
        ),
    }
    check_equal(ways)
    bodies: dict[str, Callable[[], int]] = {
        name: lambda way=way: sum(len(batch) for batch in way()) for name, way in ways.items()
    }
    bodies[f"limit: DALI decode alone, {cores} threads"] = lambda: decode_only(
        clips, args.batch_size, threads=cores
    )
    torch.set_num_threads(1)  # of torchaudio, as in a DataLoader worker
    results = compare({n: timed(b) for n, b in bodies.items()}, repeats=args.repeats)
    return record(
        "Decode and log-mel features of 10 s clips",
        results,
        device=device.type,
        codec="flac",
        clips=args.clips,
        batch_size=args.batch_size,
        page_cache="warm",
        repeats=args.repeats,
    )


Batches = list[torch.Tensor]


def torchaudio_way(paths: list[Path]) -> Batches:
    return [normalise(clip_features(path, None, 1.0, FEATURES), FEATURES)[None] for path in paths]


def torch_way(clips: list[np.ndarray], batch_size: int, device: torch.device) -> Batches:
    log_mel = LogMel(FEATURES).to(device)
    batches = []
    for start in range(0, len(clips), batch_size):
        waveforms = [_decode(clip) for clip in clips[start : start + batch_size]]
        features = fit(log_mel(torch.stack(waveforms).to(device)), FEATURES.num_frames)
        batches.append(normalise(features, FEATURES))
    return batches


def _decode(clip: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(soundfile.read(io.BytesIO(clip.data), dtype="float32")[0])


def dali_way(
    clips: list[np.ndarray], batch_size: int, device: torch.device, *, threads: int
) -> Batches:
    def source(iteration: int) -> EncodedBatch:
        audio = clips[iteration * batch_size : (iteration + 1) * batch_size]
        if not audio:
            raise StopIteration
        count = len(audio)
        return EncodedBatch(
            audio, [NULL_WAV] * count, np.ones(count, np.float32), np.zeros((count, 4), np.int32)
        )

    front_end = FrontEnd(
        source, FEATURES, batch_size=batch_size, num_threads=threads, device=device
    )
    return list(iter(lambda: _run_or_none(front_end), None))


def _run_or_none(front_end: FrontEnd) -> torch.Tensor | None:
    try:
        return front_end.run()
    except StopIteration:
        return None


def decode_only(clips: list[np.ndarray], batch_size: int, *, threads: int) -> int:
    """The work that stays on the CPU whatever computes the features."""
    starts = iter(range(0, len(clips), batch_size))
    pipeline = Pipeline(batch_size, threads, None)
    with pipeline:
        audio = fn.external_source(
            source=lambda: clips[(start := next(starts)) : start + batch_size],
            batch=True,
            no_copy=True,
            dtype=DALIDataType.UINT8,
            ndim=1,
        )
        pipeline.set_outputs(fn.decoders.audio(audio, dtype=DALIDataType.FLOAT, downmix=True)[0])
    decoded = 0
    while True:
        try:
            decoded += len(pipeline.run()[0])
        except StopIteration:
            return decoded


def check_equal(ways: dict[str, Callable[[], Batches]]) -> None:
    """All ways give the features of the first."""
    reference, *others = (torch.cat([b.cpu() for b in way()]) for way in ways.values())
    for name, features in zip(list(ways)[1:], others, strict=True):
        check_same(name, features, reference, FEATURES)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_features")
    content = measure(args)
    show(content)
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
