"""The tars as they are, in other readers: the same bytes and labels for every clip."""

import json
from pathlib import Path

import numpy as np
import pytest

from psla_wds.shards.index_files import read_index
from psla_wds.shards.tar import key_of

Clips = dict[str, tuple[bytes, tuple[str, ...]]]
"""Audio and mids, by key."""


@pytest.fixture(scope="module")
def clips(shards: Path) -> Clips:
    """What the index says, read from the tars by byte range."""
    index, found = read_index(shards), {}
    for row in range(len(index)):
        with index.shards[index.shard[row]].open("rb") as tar:
            tar.seek(index.offset[row])
            audio = tar.read(index.size[row])
        mids = tuple(index.classes.mids[label] for label in index.labels(row))
        found[key_of(index.clip_id(row))] = (audio, mids)
    return found


def mids_in(text: bytes) -> tuple[str, ...]:
    return tuple(json.loads(text)["labels"])


def tars(shards: Path) -> list[str]:
    return [str(tar) for tar in sorted(shards.glob("*.tar"))]


def test_webdataset_reads_them(shards: Path, clips: Clips):
    import webdataset

    samples = list(webdataset.WebDataset(tars(shards), shardshuffle=False))
    assert {s["__key__"]: (s["flac"], mids_in(s["json"])) for s in samples} == clips
    assert len(samples) == len(clips)


def test_hugging_face_streams_them(shards: Path, clips: Clips, tmp_path: Path):
    """With the type of the column given: as audio, it would need the package torchcodec too."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    text, number = datasets.Value("string"), datasets.Value("float64")
    metadata = dict.fromkeys(("clip_id", "split", "source"), text)
    metadata |= dict.fromkeys(("duration_s", "sample_rate_hz"), number)
    columns = {"__key__": text, "__url__": text, "flac": datasets.Value("binary")}
    features = datasets.Features(columns | {"json": metadata | {"labels": datasets.Sequence(text)}})
    stream = datasets.load_dataset(
        "webdataset",
        data_files={"train": tars(shards)},
        split="train",
        streaming=True,
        features=features,
        cache_dir=str(tmp_path),
    )
    samples = list(stream)
    found = {s["__key__"]: (s["flac"], tuple(s["json"]["labels"])) for s in samples}
    assert found == clips and len(samples) == len(clips)


def test_dali_reads_them(shards: Path, clips: Clips):
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=12, num_threads=1, device_id=None)
    def reader():
        audio, text = fn.readers.webdataset(
            paths=tars(shards), ext=["flac", "json"], dtypes=[types.UINT8, types.UINT8]
        )
        return audio, text

    pipeline, found = reader(), {}
    pipeline.build()
    for _ in range(len(clips) // 12):
        audio, text = pipeline.run()
        for row in range(12):
            metadata = np.array(text[row]).tobytes()
            key = key_of(json.loads(metadata)["clip_id"])
            found[key] = (np.array(audio[row]).tobytes(), mids_in(metadata))
    assert found == clips
