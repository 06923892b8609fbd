"""Time eval.predict on a CPU: one process against two, by the size of batches.

Whole commands, from the start of their processes, with EfficientNet-B0 and clips of 256 frames.
Two processes are torchrun's way to use two cores; a second table has both beside a program that
takes a core, as on a shared machine. Weights are random, which takes as long.

    python -m benchmarks.bench_predict --clips 600
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from benchmarks.corpus import CorpusArgs, make_corpus
from benchmarks.harness import RATES, RESULTS, Clips, Column, Repeats
from benchmarks.tables import run_benchmark
from psla_wds import FeatureConfig
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.checkpoint import Checkpoint, save_checkpoint
from psla_wds.models.config import ModelConfig

BATCH_SIZES = (1, 8, 32)
FRAMES = 256
BUSY = "import numpy as np; a = np.ones((256, 256)); exec('while True: a @ a')"
"""A program that takes a core."""


@dataclass(frozen=True)
class Args(CorpusArgs):
    clips: Clips = 600
    repeats: Repeats = 5
    output: Path = RESULTS / "bench_predict.json"


def measure(args: Args) -> dict[str, Any]:
    """Compare one process with two, quiet and busy; the record for the results folder."""
    corpus = make_corpus(args.corpus, args.clips)
    shards = args.corpus / "shards"
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.pt"
        config = ModelConfig(backbone="efficientnet-b0", initial_weights="none")
        torch.manual_seed(0)
        weights = AudioTagger(config, len(corpus.index.classes)).state_dict()
        features = replace(FeatureConfig(), num_frames=FRAMES)
        save_checkpoint(Checkpoint(weights, config, features, corpus.index.classes, epoch=0), model)
        ways = {"2 processes, batches of 8 each": partial(predict, model, shards, args.clips, 8, 2)}
        ways |= {
            f"1 process, batches of {size}": partial(predict, model, shards, args.clips, size, 1)
            for size in BATCH_SIZES
        }
        tables = []
        for title, around in (("quiet", nullcontext), ("beside a busy program", busy_program)):
            with around():
                rates = {name: harness.timed(way) for name, way in ways.items()}
                rows = harness.compare(rates, warmup=0, repeats=args.repeats)
            tables.append(harness.table([Column(title, "name"), *RATES], rows))
    return harness.record("eval.predict on a CPU", tables, args)


def predict(model: Path, shards: Path, num_clips: int, batch_size: int, processes: int) -> int:
    """The command; its number of clips."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = ["-m", "eval.predict", str(model), "--index", str(shards)]
    words += ["--output", str(model.with_name("scores.npz")), "--batch-size", str(batch_size)]
    words += ["--overwrite"]
    command = [sys.executable, *(start if processes > 1 else []), *words]
    subprocess.run(command, check=True, capture_output=True)
    return num_clips


@contextmanager
def busy_program() -> Iterator[None]:
    """A program that takes one core until the end of the block."""
    program = subprocess.Popen([sys.executable, "-c", BUSY], env={"OPENBLAS_NUM_THREADS": "1"})
    try:
        yield
    finally:
        program.kill()
        program.wait()


if __name__ == "__main__":
    run_benchmark("benchmarks.bench_predict", __doc__, Args, measure)
