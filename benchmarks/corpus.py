"""The clips of the benchmarks: ten seconds of 16 kHz FLAC, as shards and as loose files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import BatchSize, Clips, Repeats, Seconds, run_module
from psla_wds import ShardIndex, open_indexes
from psla_wds.errors import ConfigError

CLIP_S = 10.0
RATE_HZ = 16_000


@dataclass(frozen=True)
class CorpusArgs:
    """Arguments of benchmarks that read clips."""

    clips: Clips = 1000
    """Number of clips, each ten seconds long."""
    batch_size: BatchSize = 100
    """Clips of a batch; the default is the paper's for the full AudioSet."""
    repeats: Repeats = 5
    seconds: Seconds = 1.0
    """Seconds that each way is measured in each round, once it runs steadily."""
    corpus: Path = Path("data/bench")
    """Folder of the clips; made if it does not exist, and used as it is if it does."""


@dataclass(frozen=True)
class Corpus:
    """The same clips twice, as shards and as files."""

    folder: Path
    index: ShardIndex
    paths: list[Path]
    """A loose file for each row of the index, with the same bytes."""


def make_corpus(folder: Path, num_clips: int) -> Corpus:
    """Synthetic clips as shards and as loose files; `ConfigError` if the folder has others."""
    if not (folder / "source" / "segments.csv").exists():
        settings = ("--clips", num_clips, "--seed", 0, "--clip-s", CLIP_S)
        run_module("sharding.synthesize", folder / "source", *settings)
    index = make_shards(folder, folder / "shards", num_clips, "flac")
    if len(index) != num_clips:
        raise ConfigError(
            f"the corpus has {len(index)} clips, not {num_clips}",
            where=folder,
            fix=f"set --clips {len(index)}, or another folder by --corpus",
        )
    return Corpus(folder, index, loose_files(index, folder / "loose"))


def make_shards(folder: Path, shards: Path, num_clips: int, codec: str) -> ShardIndex:
    """The clips of a corpus in shards, unless they are there."""
    source = folder / "source"
    if not (shards / "index").exists():
        per_shard = min(500, max(1, num_clips // 4))  # a shard for each worker of a peer
        run_module(
            *("sharding.build", "audioset", "--segments", source / "segments.csv"),
            *("--audio-root", source / "audio", "--output", shards, "--clips-per-shard", per_shard),
            *("--class-labels", source / "class_labels_indices.csv", "--codec", codec),
        )
    return open_indexes([str(shards)])


def wav_index(corpus: Corpus) -> ShardIndex:
    """The same clips in the same order, in shards of WAV."""
    return make_shards(corpus.folder, corpus.folder / "wav", len(corpus.index), "wav")


def loose_files(index: ShardIndex, folder: Path) -> list[Path]:
    """Copy the clips out of the shards, unless that was done before."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index.clip_id(row)}.flac" for row in range(len(index))]
    for row, path in enumerate(paths):
        if not path.exists():
            with open(str(index.shards[index.shard[row]]), "rb") as tar:
                tar.seek(int(index.offset[row]))
                path.write_bytes(tar.read(int(index.size[row])))
    return paths


def read_clips(corpus: Corpus, batch_size: int) -> list[list[np.ndarray]]:
    """Whole batches of encoded clips in memory, each uint8 (bytes,)."""
    clips = [np.fromfile(path, np.uint8) for path in corpus.paths]
    starts = range(0, len(clips) - batch_size + 1, batch_size)
    return [clips[start : start + batch_size] for start in starts]
