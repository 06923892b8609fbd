"""Make the index of a folder from the sidecars of its shards."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from psla_wds.errors import ShardError
from psla_wds.io.columns import save_column
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.progress import progress_bar
from psla_wds.shards.clip_ids import ClipIds
from psla_wds.shards.index import ShardIndex, check_number_of_splits, combined_fingerprint
from psla_wds.shards.index_files import (
    CLASS_LABELS,
    COLUMN_DTYPES,
    INDEX_FOLDER,
    LENGTHS_PLUS_ONE,
    META,
    read_index,
)
from psla_wds.shards.tar import FORMAT_VERSION, Sidecar, read_sidecars, tars_in


def merge_sidecars(
    shards: Location, compared: Callable[[Iterator[Sidecar]], Iterator[Sidecar]] = iter
) -> ShardIndex:
    """Make `SHARDS/index` from the sidecars of all tars in the folder, and return it.

    Sidecars are in memory one at a time, those behind a URL some at a time.

    Args:
        compared: hands the sidecars on, and raises unless they are those that were planned.
    """
    tars = tars_in(shards)
    if not tars:
        raise ShardError(
            "there are no shards here",
            where=shards,
            fix="check the path; psla-wds build makes shards",
        )
    sidecars = compared(_finished_sidecars(shards, tars))
    write_index(shards, sidecars, read_class_list(shards / CLASS_LABELS))
    return read_index(shards)


def _finished_sidecars(shards: Location, tars: list[Location]) -> Iterator[Sidecar]:
    sizes = at(shards).entries()
    for tar, sidecar in zip(tars, read_sidecars(tars), strict=True):
        if sidecar is None or sizes.get(tar.name) != sidecar.size_bytes:
            raise ShardError(
                "the shard is not finished: it has no sidecar, or another size",
                where=tar,
                fix="run the same psla-wds build command again: it makes what is missing",
            )
        if sidecar.shard != tar.name:
            raise ShardError(
                f"the sidecar is that of another shard, {sidecar.shard!r:.80}",
                where=tar,
                fix="delete the sidecar, and run the command that made it again",
            )
        yield sidecar


class _Table:
    """The columns of all shards, assembled shard by shard in unnamed temporary files."""

    def __init__(self, classes: ClassList) -> None:
        self.classes = classes
        self.shards: list[dict[str, Any]] = []
        self.sha256: list[str] = []
        self.num_clips = 0
        self._rates: dict[int, bool] = {}
        """Sample rate of the shards in Hz, and whether any shard with this rate has clips."""
        self._position = {mid: i for i, mid in enumerate(classes.mids)}
        self._splits: dict[str, int] = {}
        """Splits in the order of their first appearance."""
        self._files = {n: tempfile.TemporaryFile() for n in COLUMN_DTYPES}  # noqa: SIM115, kept open

    def add(self, sidecar: Sidecar) -> None:
        rate_hz = sidecar.sample_rate_hz
        self._rates[rate_hz] = self._rates.get(rate_hz, False) or bool(sidecar.clips.clip_id)
        for name, column in self._shard_columns(sidecar).items():
            self._files[name].write(column.data)
        self.shards.append({"name": sidecar.shard, "size_bytes": sidecar.size_bytes})
        self.sha256.append(sidecar.sha256)
        self.num_clips += len(sidecar.clips.clip_id)

    def _shard_columns(self, sidecar: Sidecar) -> dict[str, np.ndarray]:
        """Append the columns of one shard; columns of starts hold lengths until all are known."""
        clips, splits = sidecar.clips, self._splits
        ids = [clip_id.encode() for clip_id in clips.clip_id]
        names = ("offset", "size", "crc32", "num_samples")
        columns = {name: np.array(getattr(clips, name), COLUMN_DTYPES[name]) for name in names}
        return columns | {
            "shard": np.full(len(ids), len(self.shards), np.uint32),
            "split": np.array([splits.setdefault(s, len(splits)) for s in clips.split], np.int64),
            "label_starts": np.array([len(mids) for mids in clips.mids], np.int64),
            "label_values": np.array(self._labels(sidecar), np.uint16),
            "id_starts": np.array([len(clip_id) for clip_id in ids], np.int64),
            "id_bytes": np.frombuffer(b"".join(ids), np.uint8),
        }

    def _labels(self, sidecar: Sidecar) -> list[int]:
        try:
            return [self._position[mid] for mids in sidecar.clips.mids for mid in mids]
        except KeyError:
            unknown = {mid for mids in sidecar.clips.mids for mid in mids} - self._position.keys()
            names = ", ".join(sorted(unknown))
            raise ShardError(
                f"clips have classes that are missing from the class list: {names}",
                where=sidecar.shard,
                fix=f"put back the {CLASS_LABELS} that the shards were built with",
            ) from None

    def columns(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names and columns, one at a time."""
        ranks = np.argsort(np.argsort(list(self._splits)))
        for name, dtype in COLUMN_DTYPES.items():
            self._files[name].seek(0)
            counted = name == "split" or name in LENGTHS_PLUS_ONE
            column = np.fromfile(self._files[name], np.int64 if counted else dtype)
            if name in LENGTHS_PLUS_ONE:
                column = np.concatenate([[0], np.cumsum(column)])
            yield name, (ranks[column] if name == "split" else column).astype(dtype, copy=False)

    def check_ids(self, shards: Location) -> None:
        """`ShardError` if two clips have one id."""
        columns = {n: c for n, c in self.columns() if n in ("id_starts", "id_bytes", "shard")}
        ids = ClipIds(columns["id_starts"], columns["id_bytes"])
        repeated = ids.repeated()
        if len(repeated):
            row = repeated[0]
            raise ShardError(
                f"{len(repeated):,} clips are in the shards twice, such as {ids[row]!r}",
                where=shards / self.shards[columns["shard"][row]]["name"],
                fix="delete the tars that are not of this build, and run psla-wds build again",
            )

    def splits(self, shards: Location) -> list[str]:
        check_number_of_splits(len(self._splits), where=shards)
        return sorted(self._splits)

    def sample_rate_hz(self, shards: Location) -> int:
        """Sample rate of all clips; shards without clips may differ."""
        rates = [rate for rate, used in self._rates.items() if used] or list(self._rates)
        if len(rates) != 1:
            raise ShardError(
                f"the shards have several sample rates: {sorted(rates)}",
                where=shards,
                fix="build them with one --sample-rate-hz",
            )
        return rates[0]


def write_index(shards: Location, sidecars: Iterable[Sidecar], classes: ClassList) -> None:
    """Replace the index of a folder with one of these shards."""
    table = _Table(classes)
    with progress_bar(desc="indexing") as bar:
        for sidecar in sidecars:
            table.add(sidecar)
            bar.update(len(sidecar.clips.clip_id))
    table.check_ids(shards)
    meta = {
        "format_version": FORMAT_VERSION,
        "fingerprint": combined_fingerprint(table.sha256),
        "sample_rate_hz": table.sample_rate_hz(shards),
        "num_clips": table.num_clips,
        "shards": table.shards,
        "splits": table.splits(shards),
        "mids": table.classes.mids,
        "names": table.classes.names,
    }
    # An interruption at this point leaves no index; readers then report how to make one.
    with at(shards / INDEX_FOLDER).write_folder(last=META) as folder:
        for name, column in table.columns():
            save_column(folder / f"{name}.npy", column)
        text = json.dumps(meta, ensure_ascii=False, indent=1)
        (folder / META).write_text(text + "\n", encoding="utf-8")
