"""Other people's loaders of bytes or waveforms, each on the same clips in the format it needs.

All but DALI's get batches from the worker processes of a torch DataLoader. There clips are packed
into one buffer, the fastest way between processes that we found for any of these loaders.
"""

import io
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import soundfile
import torch
import webdataset
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from benchmarks.corpus import Corpus, wav_index
from benchmarks.papers_way import NEVER_ENDS, balanced_sampler, use_one_thread
from psla_wds.sampling.plan import clip_weights
from psla_wds.shards.index import ShardIndex
from sharding.packing.engines import num_cores

logger = logging.getLogger("peers")

Setting = dict[str, int]
WORKERS: tuple[Setting, ...] = (
    {"workers": 0},
    {"workers": 1, "prefetch": 4},
    {"workers": 2, "prefetch": 2},
    {"workers": 2, "prefetch": 8},
)
DALI_SETTINGS: tuple[Setting, ...] = tuple(
    {"threads": threads, "depth": depth}
    for threads in sorted({1, num_cores(), 2 * num_cores()})
    for depth in (2, 4)
)
WEIGHTED = "exact weighted, with replacement"
SHUFFLE_BUFFER, DALI_BUFFER = 1000, 500
CHUNK_BYTES = 64 * 2**20
SPDL_FORMAT = "aformat=sample_fmts=fltp:channel_layouts=mono"

Sample = tuple[str, Any, np.ndarray]
"""Clip id, encoded bytes, positions of its classes."""


@dataclass(frozen=True)
class Way:
    """A loader at one level of work."""

    name: str
    order: str
    """Order in which it delivers clips."""
    open: Callable[..., Any]
    """Opens endless batches (`harness.Open`) with a setting."""
    settings: tuple[Setting, ...] = ({},)
    """Settings to try; the fastest is measured."""


@dataclass(frozen=True)
class Work:
    """The clips that a loader delivers, as bytes or decoded."""

    corpus: Corpus
    batch_size: int
    decode: bool


@dataclass(frozen=True)
class Clips:
    """A batch of any loader."""

    keys: Any
    """Clip ids, or rows of the index."""
    clips: list[np.ndarray]
    """Encoded bytes, or float32 waveforms."""
    targets: np.ndarray | torch.Tensor
    """float32 (clips, classes), 1 where a clip has a class."""


@dataclass(frozen=True)
class Collate:
    """Turns samples into a batch, in the worker process if there is one."""

    num_classes: int
    decode: bool

    def __call__(self, samples: list[Sample]) -> tuple[list[str], torch.Tensor, list[int], Any]:
        """Clip ids, all clips in one buffer, the length of each, and targets."""
        targets = torch.zeros(len(samples), self.num_classes)
        for target, (_, _, labels) in zip(targets, samples, strict=True):
            target[torch.from_numpy(labels.astype(np.int64))] = 1.0
        clips = [self._clip(audio) for _, audio, _ in samples]
        lengths = [len(clip) for clip in clips]
        return [key for key, _, _ in samples], _shared(clips, sum(lengths)), lengths, targets

    def _clip(self, audio: Any) -> np.ndarray:
        if not self.decode:
            return np.frombuffer(audio, np.uint8)
        return soundfile.read(io.BytesIO(audio), dtype="float32")[0]


def _shared(clips: list[np.ndarray], length: int) -> torch.Tensor:
    """The clips one after another, written once, in memory that another process can map."""
    dtype = torch.from_numpy(clips[0][:0].copy()).dtype
    buffer = torch.empty(0, dtype=dtype)
    if get_worker_info() is None:
        buffer.resize_(length)
    else:
        storage = torch.UntypedStorage._new_shared(length * dtype.itemsize)
        buffer.set_(storage, 0, (length,))
    np.concatenate(clips, out=buffer.numpy())
    return buffer


@contextmanager
def _worker_batches(
    samples: Dataset[Sample], work: Work, setting: Setting, sampler: Any = None
) -> Iterator[Iterator[Clips]]:
    """Batches of a torch DataLoader, whose workers end with the context."""
    loader: DataLoader[Any] = DataLoader(
        samples,
        work.batch_size,
        sampler=sampler,
        num_workers=setting["workers"],
        prefetch_factor=setting.get("prefetch"),
        collate_fn=Collate(len(work.corpus.index.classes), work.decode),
        drop_last=True,
        worker_init_fn=use_one_thread,
    )
    batches = iter(loader)
    yield (_unpacked(*batch) for batch in batches)
    del batches, loader


def _unpacked(keys: list[str], buffer: torch.Tensor, lengths: list[int], targets: Any) -> Clips:
    clips = np.split(buffer.numpy(), np.cumsum(lengths)[:-1])
    return Clips(keys, clips, targets)


class LooseFiles(Dataset[Sample]):
    """Clips as files, read on request."""

    def __init__(self, corpus: Corpus) -> None:
        rows = range(len(corpus.index))
        self._ids = [corpus.index.clip_id(row) for row in rows]
        self._labels = [corpus.index.labels(row) for row in rows]
        self._paths = corpus.paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> Sample:
        return self._ids[row], self._paths[row].read_bytes(), self._labels[row]


def loose_files_way(work: Work) -> Way:
    def opened(**setting: int) -> Any:
        sampler = balanced_sampler(work.corpus)
        return _worker_batches(LooseFiles(work.corpus), work, setting, sampler)

    return Way("paper's way: loose files", WEIGHTED, opened, WORKERS)


class Endless(IterableDataset[Sample]):
    """The samples of an iterable over and over, each passed through `convert`."""

    def __init__(self, samples: Iterable[Any], convert: Callable[[Any], Sample]) -> None:
        self._samples, self._convert = samples, convert

    def __iter__(self) -> Iterator[Sample]:
        while True:
            yield from map(self._convert, self._samples)


def webdataset_way(work: Work, *, shuffled: bool) -> Way:
    """Shards in order, or in random order through a shuffle buffer."""
    position = {mid: i for i, mid in enumerate(work.corpus.index.classes.mids)}
    urls = [str(path) for path in work.corpus.index.shards]

    def convert(sample: dict[str, Any]) -> Sample:
        clip = json.loads(sample["json"])
        labels = np.array([position[mid] for mid in clip["labels"]])
        return clip["clip_id"], sample["flac"], labels

    def opened(**setting: int) -> Any:
        shard_order = len(urls) if shuffled else False
        samples = webdataset.WebDataset(urls, shardshuffle=shard_order, empty_check=False)
        if shuffled:
            samples = samples.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER // 10)
        return _worker_batches(Endless(samples, convert), work, setting)

    order = f"shuffled shards, buffer of {SHUFFLE_BUFFER}" if shuffled else "sequential"
    return Way(f"webdataset, {order.split()[0]}", order, opened, WORKERS)


def mosaicml_way(work: Work) -> Way:
    from streaming import MDSWriter, StreamingDataset

    folder = work.corpus.folder / "mds"
    if not (folder / "index.json").exists():
        columns = {"clip_id": "str", "audio": "bytes", "labels": "bytes"}
        with MDSWriter(out=str(folder), columns=columns, size_limit=CHUNK_BYTES) as writer:
            for sample in _records(work.corpus):
                writer.write(sample)

    def opened(**setting: int) -> Any:
        samples = StreamingDataset(
            local=str(folder),
            shuffle=True,
            batch_size=work.batch_size,
            num_canonical_nodes=1,
            # Large, since workers wait for each other at the end of an epoch: a deadlock if the
            # others have batches that nobody takes.
            epoch_size=500_000,
        )
        return _worker_batches(Endless(samples, _from_record), work, setting)

    return Way("MosaicML StreamingDataset", "shuffled (py1e)", opened, WORKERS)


def litdata_way(work: Work) -> Way:
    import litdata
    from litdata.streaming.writer import BinaryWriter

    folder = work.corpus.folder / "litdata"
    if not (folder / "index.json").exists():
        folder.mkdir(exist_ok=True)
        writer = BinaryWriter(str(folder), chunk_bytes=CHUNK_BYTES)
        for row, sample in enumerate(_records(work.corpus)):
            writer[row] = sample
        writer.done()
        writer.merge()

    def opened(**setting: int) -> Any:
        samples = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=False)
        return _worker_batches(Endless(samples, _from_record), work, setting)

    return Way("LitData StreamingDataset", "shuffled chunks", opened, WORKERS)


def spdl_way(work: Work) -> Way:
    """Threads of SPDL over the same index, with its decoder, which is FFmpeg's."""
    import spdl.io

    def clip(encoded: np.ndarray) -> np.ndarray:
        if not work.decode:
            return encoded
        return spdl.io.to_numpy(spdl.io.load_audio(encoded.tobytes(), filter_desc=SPDL_FORMAT))[0]

    opened = _spdl_batches(work.corpus.index, work.batch_size, clip)
    return Way("SPDL, pread in threads", WEIGHTED, opened, DALI_SETTINGS)


def torchcodec_way(work: Work) -> Way:
    """Threads of SPDL over shards of WAV, with torchcodec's decoder of WAV."""
    from torchcodec.decoders import WavDecoder

    def clip(encoded: np.ndarray) -> np.ndarray:
        return WavDecoder(encoded.tobytes()).get_all_samples().data[0].numpy()

    opened = _spdl_batches(wav_index(work.corpus), work.batch_size, clip)
    return Way("SPDL, torchcodec WavDecoder, of WAV", WEIGHTED, opened, DALI_SETTINGS)


def _spdl_batches(
    index: ShardIndex, batch_size: int, clip: Callable[[np.ndarray], np.ndarray]
) -> Callable[..., Any]:
    """SPDL's weighted sampler, and in each thread a pread and `clip` for each clip of a batch."""
    from spdl.pipeline import PipelineBuilder
    from spdl.source import DistributedRandomSampler

    weights = clip_weights(index).tolist()

    @contextmanager
    def opened(threads: int, depth: int) -> Iterator[Iterator[Clips]]:
        files = [os.open(str(path), os.O_RDONLY) for path in index.shards]

        def batch(rows: list[int]) -> Clips:
            clips = [np.empty(index.size[row], np.uint8) for row in rows]
            for row, encoded in zip(rows, clips, strict=True):
                os.preadv(files[index.shard[row]], [encoded.data], int(index.offset[row]))
            return Clips(rows, list(map(clip, clips)), index.targets(np.array(rows)))

        draws = DistributedRandomSampler(
            len(index), rank=0, world_size=1, num_draws=NEVER_ENDS, weights=weights
        )
        builder = PipelineBuilder().add_source(draws).aggregate(batch_size)
        builder = builder.pipe(batch, concurrency=threads, output_order="input").add_sink(depth)
        pipeline = builder.build(num_threads=threads)
        try:
            with pipeline.auto_stop():
                yield iter(pipeline)
        finally:
            for file in files:
                os.close(file)

    return opened


def _records(corpus: Corpus) -> Iterator[dict[str, Any]]:
    """The clips to pack; positions of classes as bytes, the fastest form to read."""
    files = LooseFiles(corpus)
    for clip_id, audio, labels in map(files.__getitem__, range(len(files))):
        yield {"clip_id": clip_id, "audio": audio, "labels": labels.tobytes()}


def _from_record(sample: dict[str, Any]) -> Sample:
    return sample["clip_id"], sample["audio"], np.frombuffer(sample["labels"], np.uint16)


def dali_reader_way(work: Work, *, mapped: bool = True) -> Way:
    """`fn.readers.webdataset` with a shuffle buffer; labels are parsed from the JSON member.

    `mapped` is its default: views of mapped files, whose bytes are not read unless decoded.
    """
    index = work.corpus.index
    position = {mid: i for i, mid in enumerate(index.classes.mids)}

    def labels(metadata: Any) -> tuple[list[str], np.ndarray]:
        parsed = [json.loads(np.asarray(metadata[i]).tobytes()) for i in range(len(metadata))]
        targets = np.zeros((len(parsed), len(position)), np.float32)
        for target, clip in zip(targets, parsed, strict=True):
            target[[position[mid] for mid in clip["labels"]]] = 1.0
        return [clip["clip_id"] for clip in parsed], targets

    @contextmanager
    def opened(threads: int, depth: int) -> Iterator[Iterator[Clips]]:
        pipeline = Pipeline(work.batch_size, threads, None, prefetch_queue_depth=depth)
        with pipeline:
            audio, metadata = fn.readers.webdataset(
                paths=[str(path) for path in index.shards],
                ext=["flac", "json"],
                random_shuffle=True,
                initial_fill=DALI_BUFFER,
                prefetch_queue_depth=depth,
                dont_use_mmap=not mapped,
            )
            pipeline.set_outputs(_waveforms(audio) if work.decode else audio, metadata)
        yield _dali_batches(pipeline, labels)
        del pipeline

    untouched = ", bytes untouched" if mapped and not work.decode else ""
    order = f"buffer of {DALI_BUFFER}"
    return Way(f"DALI readers.webdataset{untouched}", order, opened, DALI_SETTINGS)


@contextmanager
def dali_decoder(
    source: Callable[[int], list[np.ndarray]],
    labels: Callable[[], tuple[Any, Any]],
    batch_size: int,
    setting: Setting,
) -> Iterator[Iterator[Clips]]:
    """DALI's decoder on the encoded clips that `source` gives for 0, 1, 2, ..., read in place.
    `labels` gives keys and targets of one batch after another."""
    iterations = itertools.count()
    depth = setting["depth"]
    pipeline = Pipeline(batch_size, setting["threads"], None, prefetch_queue_depth=depth)
    with pipeline:
        audio = fn.external_source(
            source=lambda: source(next(iterations)),
            batch=True,
            no_copy=True,
            dtype=DALIDataType.UINT8,
            ndim=1,
        )
        pipeline.set_outputs(_waveforms(audio))
    yield _dali_batches(pipeline, labels)
    del pipeline


def _waveforms(audio: Any) -> Any:
    return fn.decoders.audio(audio, dtype=DALIDataType.FLOAT, downmix=True)[0]


def _dali_batches(pipeline: Pipeline, labels: Callable[..., tuple[Any, Any]]) -> Iterator[Clips]:
    """Batches as views of DALI's memory, valid until the next one."""
    while True:
        clips, *metadata = pipeline.run()
        keys, targets = labels(*metadata)
        yield Clips(keys, [np.asarray(clips[i]) for i in range(len(clips))], targets)


NEEDS: dict[Callable[[Work], Way], tuple[str, ...]] = {
    mosaicml_way: ("streaming",),
    litdata_way: ("litdata",),
    spdl_way: ("spdl",),
    torchcodec_way: ("spdl", "torchcodec"),
}
"""Peers that are not installed with the project, and the modules that they need."""


def peer_ways(work: Work) -> list[Way]:
    """All peers that are installed; logs a warning that names the others."""
    modules = sorted({module for needed in NEEDS.values() for module in needed})
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        names = ", ".join(missing)
        logger.warning("left out, not installed: %s; pip install -e '.[bench]' adds them", names)
    others = [way for way, needed in NEEDS.items() if not set(needed) & set(missing)]
    return [
        loose_files_way(work),
        webdataset_way(work, shuffled=False),
        webdataset_way(work, shuffled=True),
        *(way(work) for way in others if work.decode or way is not torchcodec_way),
        dali_reader_way(work),
        *([] if work.decode else [dali_reader_way(work, mapped=False)]),
    ]
