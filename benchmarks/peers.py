"""Loaders of others, each fed the same clips in the form that it wants.

All but DALI's hand batches over from the worker processes of a torch DataLoader. Each packs a batch
into one buffer there, which is the fastest hand-over that we found for any of them.
"""

import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import webdataset
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

from benchmarks.paper_way import NEVER_ENDS
from benchmarks.ways import Batch, Setting, Way
from psla_wds.sampling.plan import clip_weights
from psla_wds.shards.index import ShardIndex

logger = logging.getLogger("peers")

SETTINGS: tuple[Setting, ...] = (
    {"workers": 0, "prefetch": 0},
    {"workers": 1, "prefetch": 4},
    {"workers": 2, "prefetch": 2},
    {"workers": 2, "prefetch": 8},
)
SHUFFLE_BUFFER = 1000
MOSAICML_EPOCH = 500_000
"""Clips; more than are read while it is measured."""
Sample = tuple[str, Any, np.ndarray]
"""Clip id, encoded bytes, positions of its classes."""


@dataclass(frozen=True)
class Work:
    """What the peers are to deliver, from which clips."""

    index: ShardIndex
    paths: list[Path]
    """The clips as loose files, in the order of the index."""
    folder: Path
    """For the copies of the clips in the formats of others."""
    batch_size: int
    decode: bool


@dataclass(frozen=True)
class Collate:
    """Makes a batch of samples, in the worker process if there is one."""

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
    """The clips one after another, in memory that another process can map: written once."""
    dtype = torch.from_numpy(clips[0][:0].copy()).dtype
    if torch.utils.data.get_worker_info() is None:
        buffer = torch.empty(length, dtype=dtype)
    else:
        size = length * dtype.itemsize
        storage = torch.UntypedStorage._new_shared(size)
        buffer = torch.empty(0, dtype=dtype).set_(storage, 0, (length,))
    np.concatenate(clips, out=buffer.numpy())
    return buffer


@contextmanager
def torch_batches(
    samples: Dataset[Sample], work: Work, sampler: Any, setting: Setting
) -> Iterator[Iterator[Batch]]:
    """Batches of a torch DataLoader, whose workers end with the context."""
    workers = setting["workers"]
    loader: DataLoader[Any] = DataLoader(
        samples,
        work.batch_size,
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=setting["prefetch"] if workers else None,
        collate_fn=Collate(len(work.index.classes), work.decode),
        drop_last=True,
        worker_init_fn=_one_thread,
    )
    batches = iter(loader)
    yield (_unpack(*batch) for batch in batches)
    del batches, loader


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _unpack(keys: list[str], buffer: torch.Tensor, lengths: list[int], targets: Any) -> Batch:
    ends = np.cumsum(lengths)
    clips = [buffer.numpy()[end - n : end] for n, end in zip(lengths, ends, strict=True)]
    return Batch(keys, clips, targets)


class Endless(IterableDataset[Sample]):
    """The samples of an iterable over and over, each made by `convert`."""

    def __init__(self, samples: Iterable[Any], convert: Callable[[Any], Sample]) -> None:
        self._samples, self._convert = samples, convert

    def __iter__(self) -> Iterator[Sample]:
        while True:
            yield from map(self._convert, self._samples)


class LooseFiles(Dataset[Sample]):
    """A clip a file."""

    def __init__(self, work: Work) -> None:
        self._ids = [work.index.clip_id(row) for row in range(len(work.index))]
        self._labels = [work.index.labels(row) for row in range(len(work.index))]
        self._paths = work.paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> Sample:
        return self._ids[row], self._paths[row].read_bytes(), self._labels[row]


def loose_files(work: Work) -> Way:
    """The paper's way."""
    weights = clip_weights(work.index).tolist()

    def opened(**setting: int) -> Any:
        sampler = WeightedRandomSampler(weights, NEVER_ENDS, replacement=True)
        return torch_batches(LooseFiles(work), work, sampler, setting)

    return Way("paper's way: loose files", "exact weighted, with replacement", opened, SETTINGS)


def webdataset_way(work: Work, *, shuffled: bool) -> Way:
    """Shards in sequence, or in random order through a shuffle buffer."""
    position = {mid: i for i, mid in enumerate(work.index.classes.mids)}
    urls = [str(path) for path in work.index.shards]

    def convert(sample: dict[str, Any]) -> Sample:
        clip = json.loads(sample["json"])
        labels = np.array([position[mid] for mid in clip["labels"]])
        return clip["clip_id"], sample["flac"], labels

    def opened(**setting: int) -> Any:
        samples = webdataset.WebDataset(
            urls, shardshuffle=len(urls) if shuffled else False, empty_check=False
        )
        if shuffled:
            samples = samples.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER // 10)
        return torch_batches(Endless(samples, convert), work, None, setting)

    if shuffled:
        order = f"shuffled shards, buffer of {SHUFFLE_BUFFER}"
        return Way("webdataset, shuffled", order, opened, SETTINGS)
    return Way("webdataset, sequential", "sequential", opened, SETTINGS)


def mosaicml(work: Work) -> Way:
    from streaming import MDSWriter, StreamingDataset

    folder = work.folder / "mds"
    if not (folder / "index.json").exists():
        columns = {"clip_id": "str", "audio": "bytes", "labels": "bytes"}
        with MDSWriter(out=str(folder), columns=columns, size_limit="64mb") as writer:
            for row in range(len(work.index)):
                writer.write(_record(work, row))

    def opened(**setting: int) -> Any:
        samples = StreamingDataset(
            local=str(folder),
            shuffle=True,
            batch_size=work.batch_size,
            num_canonical_nodes=1,
            # At the end of an epoch a worker waits for the others, which wait to be asked for a
            # batch: for ever, when they are not asked in turn.
            epoch_size=MOSAICML_EPOCH,
        )
        return torch_batches(Endless(samples, _from_record), work, None, setting)

    return Way("MosaicML StreamingDataset", "shuffled (py1e)", opened, SETTINGS)


def litdata(work: Work) -> Way:
    import litdata

    folder = work.folder / "litdata"
    if not (folder / "index.json").exists():
        from litdata.streaming.writer import BinaryWriter

        folder.mkdir(exist_ok=True)
        writer = BinaryWriter(str(folder), chunk_bytes=64 * 2**20)
        for row in range(len(work.index)):
            writer[row] = _record(work, row)
        writer.done()
        writer.merge()

    def opened(**setting: int) -> Any:
        samples = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=False)
        return torch_batches(Endless(samples, _from_record), work, None, setting)

    return Way("LitData StreamingDataset", "shuffled chunks", opened, SETTINGS)


def _record(work: Work, row: int) -> dict[str, Any]:
    """A clip as others pack it; positions of classes as bytes, which is fastest to read."""
    return {
        "clip_id": work.index.clip_id(row),
        "audio": work.paths[row].read_bytes(),
        "labels": work.index.labels(row).tobytes(),
    }


def _from_record(record: dict[str, Any]) -> Sample:
    return record["clip_id"], record["audio"], np.frombuffer(record["labels"], np.uint16)


NEEDS: dict[str, Callable[[Work], Way]] = {"streaming": mosaicml, "litdata": litdata}
"""Peers that are not installed with the project, by the module that they need."""


def peer_ways(work: Work) -> list[Way]:
    """All peers that are installed; the others are told."""
    missing = [module for module in NEEDS if find_spec(module) is None]
    if missing:
        logger.warning(
            "not compared, since not installed: %s; pip install -e '.[bench]'", ", ".join(missing)
        )
    installed = [way(work) for module, way in NEEDS.items() if module not in missing]
    return [
        loose_files(work),
        webdataset_way(work, shuffled=False),
        webdataset_way(work, shuffled=True),
        *installed,
    ]
