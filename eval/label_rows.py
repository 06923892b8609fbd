"""Labels as JSON lines, {"clip_id": ..., "labels": [mids]}: for people, and for other programs."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from psla_wds.errors import LabelError
from psla_wds.io.atomic_files import atomic_open
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.overlay import with_labels

LINE = '{"clip_id": "...", "labels": ["/m/..."]}'


def write_label_rows(index: ShardIndex, path: Path) -> None:
    mids = index.classes.mids
    with atomic_open(path, "w") as file:
        for row in range(len(index)):
            labels = [mids[label] for label in index.labels(row)]
            line = {"clip_id": index.clip_id(row), "labels": labels}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_label_rows(path: Path, index: ShardIndex) -> ShardIndex:
    """The index with the labels in a file, which has a line for each of its clips and may have
    others."""
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
    return with_labels(index, starts, np.array([k for row in rows for k in row], np.uint16))


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    number = 0
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):  # noqa: B007
            row = json.loads(line)
            yield str(row["clip_id"]), [str(mid) for mid in row["labels"]]
    except OSError as error:
        raise LabelError(
            f"the list of labels cannot be read: {error.strerror}", where=path, fix="check the path"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise LabelError(
            f"this is no line of labels: {error!r}",
            where=f"{path}, line {number}",
            fix=f"write lines such as {LINE}",
        ) from None
