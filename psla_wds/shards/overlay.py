"""Label overlays: other labels for the clips of an index, as columns in a folder (docs/format.md).

The same as JSON lines, {"clip_id": ..., "labels": [mids]}, for people and other programs.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psla_wds.config import SEAL, check_seal, read_json, to_json, write_sealed
from psla_wds.errors import DAMAGE, ConfigError, LabelError
from psla_wds.io.atomic_files import atomic_folder, atomic_open, disk_errors
from psla_wds.io.columns import check_ragged, map_column, save_column
from psla_wds.io.regular import open_regular
from psla_wds.printable import typed
from psla_wds.shards.index import ShardIndex

OVERLAY_VERSION = 1
META = "overlay.json"
LINE = '{"clip_id": "...", "labels": ["/m/..."]}'
COLUMN_DTYPES: dict[str, type[np.generic]] = {
    "label_starts": np.int64,
    "label_values": np.uint16,
}


@dataclass(frozen=True)
class _Meta:
    """Content of overlay.json, beside its check sums."""

    format_version: int
    index_fingerprint: str
    num_clips: int
    mids: tuple[str, ...]


def publish_overlay(
    output: Path,
    labelled: tuple[ShardIndex, ShardIndex],
    report: dict[str, Any],
    text: str,
    *,
    export: Path | None,
) -> None:
    """Write a new overlay with its report, whole or not at all.

    Args:
        labelled: an index as its shards have it, and with the labels of the overlay.
        text: the report for people.
        export: file for the labels as JSON lines.
    """
    errors = disk_errors(output, "write the labels", then="run the command again")
    with errors, atomic_folder(output) as folder:
        _write_columns(folder, *labelled)
        as_json = json.dumps(report, indent=1, ensure_ascii=False)
        (folder / "report.json").write_text(as_json + "\n")
        (folder / "report.txt").write_text(text)
        if export:
            write_label_rows(labelled[1], export)


def next_step(output: Path, specs: Iterable[str]) -> str:
    """The line that ends a command which wrote an overlay for these shards."""
    shards = typed(*(word for spec in specs for word in ("--index", spec)))
    return (
        f"wrote {output} (report.json, report.txt); next: "
        f"psla-wds train RECIPE {shards} --labels {typed(output)}"
    )


def _write_columns(folder: Path, index: ShardIndex, labelled: ShardIndex) -> None:
    meta = _Meta(OVERLAY_VERSION, index.fingerprint, len(index), index.classes.mids)
    for name, dtype in COLUMN_DTYPES.items():
        column = np.asarray(getattr(labelled, name), dtype)
        save_column(folder / f"{name}.npy", column)
    write_sealed(to_json(meta), folder / META, files=[f"{name}.npy" for name in COLUMN_DTYPES])


def apply_overlay(index: ShardIndex, folder: Path) -> ShardIndex:
    """Index with an overlay's labels; `LabelError` if the overlay belongs to other clips.

    The fingerprint covers the labels: a run does not resume with others.
    """
    if not (folder / META).is_file():
        raise LabelError(
            "there is no label overlay here",
            where=folder,
            fix="--labels names the --output of psla-wds enhance or psla-wds overlay",
        )
    try:
        meta = read_json(_Meta, folder / META, besides=SEAL)
        if meta.format_version != OVERLAY_VERSION:
            raise ValueError(f"it has format {meta.format_version}, not {OVERLAY_VERSION}")
        starts, values = (map_column(folder / f"{n}.npy", d) for n, d in COLUMN_DTYPES.items())
        check_ragged(starts, values, meta.num_clips, "labels")
        if len(values) and values.max() >= len(meta.mids):
            raise ValueError("a row names a class that is not listed")
        check_seal(folder / META)
    except (*DAMAGE, ConfigError) as error:
        raise LabelError(
            f"the label overlay is damaged: {str(error).splitlines()[0]}",
            where=folder,
            fix="make it again with the command that made it, psla-wds enhance or psla-wds overlay",
        ) from None
    found = (meta.index_fingerprint, meta.num_clips, meta.mids)
    if found != (index.fingerprint, len(index), index.classes.mids):
        raise LabelError(
            f"this label overlay belongs to another index: it has {meta.num_clips:,} clips and "
            f"{len(meta.mids)} classes, this index {len(index):,} and {len(index.classes)}",
            where=folder,
            fix="give the shards and splits that the overlay was made for, in the same order",
        )
    return index.with_labels(starts, values)


def write_label_rows(index: ShardIndex, path: Path) -> None:
    mids = index.classes.mids
    with atomic_open(path, "w") as file:
        for row in range(len(index)):
            labels = [mids[label] for label in index.labels(row)]
            line = {"clip_id": index.clip_id(row), "labels": labels}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_label_rows(path: Path, index: ShardIndex) -> ShardIndex:
    """Index with the labels of a file, which has a line for each of its clips and may have more."""
    labels = dict(_lines(path))
    position = {mid: i for i, mid in enumerate(index.classes.mids)}
    clip_ids = [index.clip_id(row) for row in range(len(index))]
    missing = [clip_id for clip_id in clip_ids if clip_id not in labels]
    unknown = {mid for clip_id in clip_ids for mid in labels.get(clip_id, ())} - position.keys()
    if missing or unknown:
        fault = f"no clip {missing[0]}" if missing else f"an unknown label: {sorted(unknown)[0]}"
        raise LabelError(f"the list of labels has {fault}", where=path, fix="check the file")
    rows = [sorted({position[mid] for mid in labels[clip_id]}) for clip_id in clip_ids]
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return index.with_labels(starts, np.array([k for row in rows for k in row], np.uint16))


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    number = 0
    try:
        with open_regular(path) as file:
            for number, line in enumerate(file, 1):  # noqa: B007
                row = json.loads(line)
                yield str(row["clip_id"]), [str(mid) for mid in row["labels"]]
    except OSError as error:
        raise LabelError(
            f"the list of labels cannot be read: {error.strerror}", where=path, fix="check the path"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise LabelError(
            f"this is not a line of labels: {error!r}",
            where=f"{path}, line {number}",
            fix=f"write lines such as {LINE}",
        ) from None
