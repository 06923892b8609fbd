"""Small ontologies, and indexes whose clips have names."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from label_index import index_with_labels

from psla_wds.labels.class_list import ClassList
from psla_wds.shards.index import ShardIndex


def write_ontology(path: Path, children: dict[str, list[str]], abstract: set[str]) -> Path:
    """An ontology of these nodes; those that are only children have none themselves."""
    mids = dict.fromkeys([*children, *(c for below in children.values() for c in below)])
    nodes = [
        {
            "id": mid,
            "name": mid,
            "child_ids": children.get(mid, []),
            "restrictions": ["abstract"] if mid in abstract else [],
        }
        for mid in mids
    ]
    path.write_text(json.dumps(nodes))
    return path


def named_index(labels: dict[str, list[int]], mids: tuple[str, ...]) -> ShardIndex:
    """An index of clips by id, each with its classes."""
    ids = [clip_id.encode() for clip_id in labels]
    return replace(
        index_with_labels(list(labels.values()), len(mids)),
        classes=ClassList(mids, mids),
        id_starts=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        id_bytes=np.frombuffer(b"".join(ids), np.uint8),
    )
