"""Builds of shards by the command, and what they leave in a folder."""

import json
import subprocess
from pathlib import Path

import numpy as np
from conftest import manifest_arguments, run_command
from data_sets import audio_of, write_class_labels

from psla_wds.audio.pcm import decode_pcm
from psla_wds.io.atomic_files import sha256_of
from psla_wds.reading.reader import Reader
from psla_wds.sampling.config import SamplerConfig
from psla_wds.sampling.plan import plan_epoch
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import read_index
from psla_wds.shards.merge import merge_sidecars
from psla_wds.shards.tar import PackedClip, Sidecar, write_sidecar, write_tar
from sharding.info import render, summarise

AUDIO = audio_of(0, "flac")
NUM_SAMPLES = len(decode_pcm(AUDIO)[0])


def build(
    corpus: Path, output: Path | str, *more: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Build shards of 12 clips from a corpus of `write_corpus`."""
    arguments = [*manifest_arguments(corpus, output), *more]
    return run_command("sharding.build", "manifest", *arguments, check=check)


def content(folder: Path) -> dict[str, bytes]:
    """Every file: tars, sidecars, index, list of the refused, plan."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def tars_of(folder: Path) -> dict[str, bytes]:
    return {tar.name: tar.read_bytes() for tar in sorted(folder.glob("*.tar"))}


def reasons(folder: Path) -> dict[str, str]:
    """Why each refused clip was refused."""
    lines = (folder / "rejected.jsonl").read_text().splitlines()
    return {row["clip_id"]: row["reason"] for row in map(json.loads, lines)}


def ids(folder: Path) -> list[str]:
    index = read_index(folder)
    return sorted(index.clip_id(row) for row in range(len(index)))


def own_shard(folder: Path, name: str = "a.tar") -> Path:
    """A folder of one shard in our own layout, with its index."""
    tar = folder / name
    write_sidecar(tar, own_sidecar(tar))
    write_class_labels(folder / "class_labels_indices.csv")
    merge_sidecars(folder)
    return tar


def packed_clip(clip_id: str, source: str = "x") -> PackedClip:
    return PackedClip(clip_id, AUDIO, "flac", NUM_SAMPLES, 16_000, ("/t/1",), "train", source)


def own_sidecar(tar: Path) -> Sidecar:
    """The sidecar of a tar of two clips, which is written."""
    columns = write_tar(tar, [packed_clip("a"), packed_clip("b")]).clips
    return Sidecar(
        shard=tar.name,
        task="task",
        size_bytes=tar.stat().st_size,
        sha256=sha256_of(tar),
        sample_rate_hz=16_000,
        clips=columns,
        rejected=[],
        versions={},
    )


def use_index(index: ShardIndex) -> None:
    """All that training and the commands ask of an index; what they refuse is refused."""
    index.check_shards()
    rows = np.arange(len(index))
    assert index.targets(rows).sum() <= len(index.label_values)
    assert all(index.where(row) and len(index.labels(row)) >= 0 for row in rows)
    render(summarise(index), Path("x"))
    index.select_random(len(index) // 2, seed=0)
    plan_epoch(index, SamplerConfig(), seed=0, epoch=1)
    reader = Reader(index, threads=1)
    try:
        reader.start(rows).wait()
    finally:
        reader.close()
