"""Label overlays: other labels for the clips of an index. Format: docs/format.md."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt16

from psla_wds.errors import DAMAGE, LabelError
from psla_wds.io.columns import check_ragged, map_column
from psla_wds.shards.index import ShardIndex, combined_fingerprint

OVERLAY_VERSION = 1
META = "overlay.json"
COLUMN_DTYPES: dict[str, type[np.generic]] = {
    "label_starts": np.int64,
    "label_values": np.uint16,
}


def write_overlay(folder: Path, index: ShardIndex, labelled: ShardIndex) -> None:
    """Write the labels of `labelled`, the same clips as `index`, into an empty folder."""
    meta = {
        "format_version": OVERLAY_VERSION,
        "index_fingerprint": index.fingerprint,
        "num_clips": len(index),
        "mids": index.classes.mids,
    }
    for name, dtype in COLUMN_DTYPES.items():
        column = np.asarray(getattr(labelled, name), dtype)
        np.save(folder / f"{name}.npy", column, allow_pickle=False)
    (folder / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def apply_overlay(index: ShardIndex, folder: Path) -> ShardIndex:
    """The index with an overlay's labels; `LabelError` if that is of another choice of clips.

    Its fingerprint says so: a run does not resume with other labels.
    """
    if not (folder / META).is_file():
        raise LabelError(
            "there is no label overlay here",
            where=folder,
            fix="--labels names the --output of python -m eval.enhance",
        )
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta["format_version"] != OVERLAY_VERSION:
            raise ValueError(f"format {meta['format_version']}, where {OVERLAY_VERSION} is read")
        found = (meta["index_fingerprint"], meta["num_clips"], tuple(meta["mids"]))
        starts, values = (map_column(folder / f"{n}.npy", d) for n, d in COLUMN_DTYPES.items())
        check_ragged(starts, values, int(meta["num_clips"]), "labels")
        if len(values) and values.max() >= len(meta["mids"]):
            raise ValueError("a row names a class that is not listed")
    except DAMAGE as error:
        raise LabelError(
            f"the label overlay is damaged: {error}",
            where=folder,
            fix="make it again: python -m eval.enhance",
        ) from None
    if found != (index.fingerprint, len(index), index.classes.mids):
        raise LabelError(
            f"this label overlay is of another index: of {found[1]:,} clips and "
            f"{len(found[2])} classes, and here are {len(index):,} and {len(index.classes)}",
            where=folder,
            fix="give the very --index options, in their order, that eval.enhance was given",
        )
    return with_labels(index, starts, values)


def with_labels(
    index: ShardIndex,
    label_starts: Int64[np.ndarray, " starts"],
    label_values: UInt16[np.ndarray, " labels"],
) -> ShardIndex:
    """The index of the same clips with other labels, and a fingerprint of both."""
    digest = hashlib.sha256(label_starts.astype("<i8").tobytes())
    digest.update(label_values.astype("<u2").tobytes())
    return replace(
        index,
        label_starts=label_starts,
        label_values=label_values,
        fingerprint=combined_fingerprint([index.fingerprint, f"labels {digest.hexdigest()}"]),
    )
