"""The index on disk: `SHARDS/index/`, one .npy a column and meta.json. Format: docs/format.md."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from psla_wds.errors import StaleIndexError
from psla_wds.labels import ClassList
from psla_wds.shard_index import ShardIndex, concatenate
from psla_wds.shards import FORMAT_VERSION

INDEX_FOLDER = "index"
CLASS_LABELS = "class_labels_indices.csv"

COLUMN_DTYPES: dict[str, type[np.generic]] = {
    "shard": np.uint32,
    "offset": np.int64,
    "size": np.int64,
    "crc32": np.uint32,
    "num_samples": np.int64,
    "split": np.uint8,
    "label_starts": np.int64,
    "label_values": np.uint16,
    "id_starts": np.int64,
    "id_bytes": np.uint8,
}
LENGTHS_PLUS_ONE = ("label_starts", "id_starts")


def open_indexes(specs: Iterable[str]) -> ShardIndex:
    """The index of all clips of `SHARDS[:split,...]`, given any number of times."""
    return concatenate([_open_spec(spec) for spec in specs])


def _open_spec(spec: str) -> ShardIndex:
    folder, colon, splits = spec.rpartition(":")
    if not colon or Path(spec).exists():
        return read_index(Path(spec))
    return read_index(Path(folder)).select_splits(splits.split(","), where=spec)


def read_index(shards: Path) -> ShardIndex:
    """The index of the shards in a folder; columns are memory-mapped, and their bounds checked."""
    folder = shards / INDEX_FOLDER
    rebuild = f"python -m sharding.index {shards}"
    if not shards.is_dir():
        raise StaleIndexError("there is no such folder", where=shards, fix="check the path")
    if not (folder / "meta.json").is_file():
        raise StaleIndexError(
            "there is no index here", where=shards, fix=f"for a folder of shards: {rebuild}"
        )
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        columns = {name: _read_column(folder, name, dtype) for name, dtype in COLUMN_DTYPES.items()}
        index = _from_meta(shards, meta, columns)
        _check_bounds(index)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise StaleIndexError(f"the index is damaged: {error}", where=folder, fix=rebuild) from None
    return index


def _read_column(folder: Path, name: str, dtype: type[np.generic]) -> np.ndarray:
    path = folder / f"{name}.npy"
    column = np.load(path, mmap_mode="r", allow_pickle=False)
    if column.dtype != dtype or column.ndim != 1:
        raise ValueError(f"{path.name} has {column.dtype} of {column.ndim} dimensions")
    return column


def _from_meta(shards: Path, meta: dict[str, Any], columns: dict[str, np.ndarray]) -> ShardIndex:
    if meta["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format {meta['format_version']}, where {FORMAT_VERSION} is read")
    names = [str(shard["name"]) for shard in meta["shards"]]
    if any(Path(name).name != name for name in names):
        raise ValueError("a shard lies outside its folder")
    return ShardIndex(
        shards=tuple(shards / name for name in names),
        shard_sizes=tuple(int(shard["size_bytes"]) for shard in meta["shards"]),
        classes=ClassList(tuple(meta["mids"]), tuple(meta["names"])),
        splits=tuple(meta["splits"]),
        sample_rate_hz=int(meta["sample_rate_hz"]),
        fingerprint=str(meta["fingerprint"]),
        **columns,
    )


def _check_bounds(index: ShardIndex) -> None:
    """No row may point outside its shard, the class list, or the columns."""
    for name in COLUMN_DTYPES.keys() - {"label_values", "id_bytes"}:
        expected = len(index) + (name in LENGTHS_PLUS_ONE)
        if len(getattr(index, name)) != expected:
            raise ValueError(f"{name} has not the length of the other columns")
    for starts, values in (
        (index.label_starts, index.label_values),
        (index.id_starts, index.id_bytes),
    ):
        if starts[0] != 0 or starts[-1] != len(values) or (np.diff(starts) < 0).any():
            raise ValueError("the starts of labels or clip ids do not ascend to their end")
    if not len(index):
        return
    if index.shard.max() >= len(index.shards) or index.split.max() >= len(index.splits):
        raise ValueError("a row names a shard or a split that is not listed")
    if len(index.label_values) and index.label_values.max() >= len(index.classes):
        raise ValueError("a row names a class that is not listed")
    ends = np.array(index.shard_sizes)[index.shard]
    if (
        (index.offset < 0).any()
        or (index.size <= 0).any()
        or (index.offset > ends - index.size).any()
    ):
        raise ValueError("a row points outside its shard")
