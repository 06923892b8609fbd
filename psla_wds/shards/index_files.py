"""The index on disk: `SHARDS/index/`, one .npy per column and meta.json. Format: docs/format.md."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from psla_wds.errors import DAMAGE, ConfigError, StaleIndexError
from psla_wds.io.columns import check_ragged, map_column
from psla_wds.io.locations import Location, is_http, member, parse_location, split_spec
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList
from psla_wds.printable import typed
from psla_wds.shards.index import ShardIndex, concatenate
from psla_wds.shards.tar import FORMAT_VERSION, MAX_SAMPLE_RATE_HZ
from psla_wds.text_table import counted

INDEX_FOLDER = "index"
MOST_NAMED = 5
"""Most folders that an error names."""
META = "meta.json"
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


MAX_BYTES_PER_CLIP = {"label_values": 64 * 2, "id_bytes": 256}
"""Mean limits behind a URL: 64 labels a clip (AudioSet has 2), and ids of 256 bytes (AudioSet has
11)."""
META_BYTES = 2**26
"""Limit of meta.json, which names classes and shards (64 MiB)."""
NPY_HEADER_BYTES = 4096
"""Upper bound of the header of a column."""


def open_indexes(specs: Iterable[str]) -> ShardIndex:
    """The index of all clips of one or more `SHARDS[:split,...]`.

    SHARDS is a folder, or its URL; `ConfigError` where no shards are named.
    """
    specs = (specs,) if isinstance(specs, str) else tuple(specs)
    if not specs:
        raise ConfigError("no shards are named", where="--index", fix="set --index SHARDS")
    return concatenate([_open_spec(spec) for spec in specs])


def _open_spec(spec: str) -> ShardIndex:
    shards, splits = split_spec(spec)
    index = read_index(shards)
    return index if splits is None else index.select_splits(splits, where=spec)


def read_index(shards: Location | str) -> ShardIndex:
    """Index of the shards in a folder; its bounds are checked.

    Large columns of a local index are memory-mapped; others are read into memory.
    """
    if isinstance(shards, str):
        shards = parse_location(shards)
    folder = member(shards, INDEX_FOLDER)
    rebuild = f"psla-wds index {typed(shards)}"
    if is_http(folder):
        rebuild = "make the index where the shards are on a disk, and copy it here with them"
    meta_text = _read_meta(shards, folder, rebuild)
    try:
        meta = json.loads(meta_text)
        columns = {n: _read_column(folder, n, int(meta["num_clips"])) for n in COLUMN_DTYPES}
        index = _from_meta(shards, meta, columns)
        _check_bounds(index)
    except DAMAGE as error:
        raise StaleIndexError(f"the index is damaged: {error}", where=folder, fix=rebuild) from None
    return index


def _read_meta(shards: Location, folder: Location, rebuild: str) -> bytes:
    try:
        return at(folder / META).read(max_bytes=META_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        if not at(shards).is_folder():
            splits = split_spec(str(shards))[1]
            fix = f"name the folder without :{','.join(splits)}" if splits else "check the path"
            raise StaleIndexError("there is no such folder", where=shards, fix=fix) from None
        if builds := _builds_in(shards):
            raise StaleIndexError(
                f"there is no index here, but in {counted(len(builds), 'folder')} of it",
                where=shards,
                fix=f"name one of them: {typed(*builds[:MOST_NAMED])}",
            ) from None
        raise StaleIndexError(
            "there is no index here", where=shards, fix=f"for a folder of shards: {rebuild}"
        ) from None
    except (OSError, ValueError) as error:
        raise StaleIndexError(f"the index is damaged: {error}", where=folder, fix=rebuild) from None


def _builds_in(folder: Location) -> list[Location]:
    """Folders in a folder that have an index; the web cannot be listed."""
    entries = {} if is_http(folder) else at(folder).entries()
    found = (folder / name for name, size in sorted(entries.items()) if size is None)
    return [shards for shards in found if at(shards / INDEX_FOLDER / META).size() is not None]


def _read_column(folder: Location, name: str, num_clips: int) -> np.ndarray:
    dtype = COLUMN_DTYPES[name]
    bytes_per_clip = MAX_BYTES_PER_CLIP.get(name, np.dtype(dtype).itemsize)
    most = NPY_HEADER_BYTES + bytes_per_clip * (num_clips + 1)
    return map_column(folder / f"{name}.npy", dtype, max_bytes=most)


def _from_meta(shards: Location, meta: dict[str, Any], columns: dict[str, Any]) -> ShardIndex:
    if meta["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format {meta['format_version']}, this version reads {FORMAT_VERSION}")
    names = _texts([shard["name"] for shard in meta["shards"]])
    if any(Path(name).name != name or not name.endswith(".tar") or "\0" in name for name in names):
        raise ValueError("a shard lies outside its folder")
    if meta["num_clips"] != len(columns["offset"]):
        raise ValueError(f"{meta['num_clips']} clips, where the columns have others")
    return ShardIndex(
        shards=tuple(member(shards, name) for name in names),
        shard_sizes=tuple(int(shard["size_bytes"]) for shard in meta["shards"]),
        classes=ClassList(_texts(meta["mids"]), _texts(meta["names"])),
        splits=_texts(meta["splits"]),
        sample_rate_hz=int(meta["sample_rate_hz"]),
        fingerprint=_texts([meta["fingerprint"]])[0],
        **columns,
    )


def _texts(values: list[str]) -> tuple[str, ...]:
    """The values, if they are a list of UTF-8 text."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{values!r:.80} is not a list of texts")
    "".join(values).encode()
    return tuple(values)


def _check_bounds(index: ShardIndex) -> None:
    """Raise ValueError if a row points outside its shard, the class list, or the columns."""
    if not 1 <= index.sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
        raise ValueError(f"the sample rate is {index.sample_rate_hz} Hz")
    for name in COLUMN_DTYPES.keys() - {*LENGTHS_PLUS_ONE, "label_values", "id_bytes"}:
        if len(getattr(index, name)) != len(index):
            raise ValueError(f"{name} differs in length from the other columns")
    check_ragged(index.label_starts, index.label_values, len(index), "labels")
    check_ragged(index.id_starts, index.id_bytes, len(index), "clip ids")
    _check_ids(index)
    if not len(index):
        return
    if index.num_samples.min() < 0:
        raise ValueError("a clip has a negative number of samples")
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


def _check_ids(index: ShardIndex) -> None:
    """Raise ValueError unless every clip id is UTF-8: all ids together are, and no id begins inside
    a character."""
    str(index.id_bytes.data, "utf-8")
    starts = index.id_starts[index.id_starts < len(index.id_bytes)]
    if (index.id_bytes[starts] & 0xC0 == 0x80).any():
        raise ValueError("a clip id is not UTF-8")
