"""Ways to decode by DALI: ours, its own reader of WebDataset shards, and bytes in memory alone."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType

from benchmarks.our_ways import OUR_ORDER, open_ahead
from benchmarks.ways import Batch, Setting, Way
from psla_wds.features.encoded_batch import EncodedBatch
from psla_wds.labels.class_list import ClassList
from psla_wds.shards.index import ShardIndex
from sharding.packing.engines import num_cores

DEPTHS = (2, 4)
SETTINGS: tuple[Setting, ...] = tuple(
    {"threads": threads, "depth": depth}
    for threads in sorted({1, num_cores(), 2 * num_cores()})
    for depth in DEPTHS
)
SHUFFLE_BUFFER = 500


def decode_way(index: ShardIndex, batch_size: int) -> Way:
    """Our draws, read by our threads, decoded by DALI's."""

    @contextmanager
    def opened(threads: int, depth: int) -> Iterator[Iterator[Batch]]:
        with open_ahead(index, batch_size, threads=2, prefetch_batches=4) as ahead:
            fed: deque[EncodedBatch] = deque()  # DALI reads the clips of these where they lie

            def source(iteration: int) -> list[np.ndarray]:
                fed.append(ahead.batch(iteration))
                return fed[-1].audio

            def labels() -> tuple[np.ndarray, np.ndarray]:
                rows = fed.popleft().draws.rows
                return rows, index.targets(rows)

            pipeline = _decoder(source, batch_size, threads=threads, depth=depth)
            yield _decoded(pipeline, labels)
            del pipeline

    return Way("psla-wds", OUR_ORDER, opened, SETTINGS)


def memory_way(clips: list[np.ndarray], index: ShardIndex, batch_size: int) -> Way:
    """DALI's decoder on bytes that lie in memory: the limit of every way that decodes by it."""

    @contextmanager
    def opened(threads: int, depth: int) -> Iterator[Iterator[Batch]]:
        starts = range(0, len(clips) - batch_size + 1, batch_size)

        def source(iteration: int) -> list[np.ndarray]:
            start = starts[iteration % len(starts)]
            return clips[start : start + batch_size]

        rows = np.arange(batch_size)
        pipeline = _decoder(source, batch_size, threads=threads, depth=depth)
        yield _decoded(pipeline, lambda: (rows, index.targets(rows)))
        del pipeline

    return Way("limit: DALI decode of bytes in memory", "none", opened, SETTINGS)


def _decoder(
    source: Callable[[int], list[np.ndarray]], batch_size: int, *, threads: int, depth: int
) -> Pipeline:
    iterations = iter(range(2**62))
    pipeline = Pipeline(batch_size, threads, None, prefetch_queue_depth=depth)
    with pipeline:
        audio = fn.external_source(
            source=lambda: source(next(iterations)),
            batch=True,
            no_copy=True,
            dtype=DALIDataType.UINT8,
            ndim=1,
        )
        pipeline.set_outputs(_waveforms(audio))
    return pipeline


def _waveforms(audio: Any) -> Any:
    return fn.decoders.audio(audio, dtype=DALIDataType.FLOAT, downmix=True)[0]


def _decoded(
    pipeline: Pipeline, labels: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> Iterator[Batch]:
    while True:
        (waveforms,) = pipeline.run()
        keys, targets = labels()
        yield Batch(keys, _views(waveforms), targets)


def _views(clips: Any) -> list[np.ndarray]:
    """The clips of a batch where they lie, until the next one is asked for."""
    return [np.asarray(clips[i]) for i in range(len(clips))]


def shard_reader_way(
    index: ShardIndex, batch_size: int, *, decode: bool, mapped: bool = True
) -> Way:
    """`fn.readers.webdataset`, with a shuffle buffer; labels are parsed from the JSON member.

    Args:
        mapped: as it is by default, views of mapped files; unless they are decoded their bytes
            are then never touched.
    """
    paths = [str(path) for path in index.shards]

    @contextmanager
    def opened(threads: int, depth: int) -> Iterator[Iterator[Batch]]:
        pipeline = Pipeline(batch_size, threads, None, prefetch_queue_depth=depth)
        with pipeline:
            audio, metadata = fn.readers.webdataset(
                paths=paths,
                ext=["flac", "json"],
                random_shuffle=True,
                initial_fill=SHUFFLE_BUFFER,
                prefetch_queue_depth=depth,
                dont_use_mmap=not mapped,
            )
            pipeline.set_outputs(_waveforms(audio) if decode else audio, metadata)
        yield _read_by_dali(pipeline, index.classes)
        del pipeline

    untouched = ", bytes untouched" if mapped and not decode else ""
    return Way(
        f"DALI readers.webdataset{untouched}", f"buffer of {SHUFFLE_BUFFER}", opened, SETTINGS
    )


def _read_by_dali(pipeline: Pipeline, classes: ClassList) -> Iterator[Batch]:
    position = {mid: i for i, mid in enumerate(classes.mids)}
    while True:
        clips, metadata = pipeline.run()
        parsed = [json.loads(np.asarray(metadata[i]).tobytes()) for i in range(len(metadata))]
        targets = np.zeros((len(parsed), len(classes)), np.float32)
        for target, clip in zip(targets, parsed, strict=True):
            target[[position[mid] for mid in clip["labels"]]] = 1.0
        yield Batch([clip["clip_id"] for clip in parsed], _views(clips), targets)
