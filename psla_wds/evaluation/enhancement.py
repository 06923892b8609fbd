"""Label enhancement (PSLA III-D): labels that annotators missed, found by a teacher's scores.

A clip gets class c if it carries a class that c may go with (a parent: type I; a class below it:
type II) and its score of c is above the threshold of c, a statistic of the scores of the clips
that carry c. All rests on the original labels: what is added brings nothing further.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.sparse import csr_array

from psla_wds.evaluation.score_folder import row_blocks
from psla_wds.labels.ontology import Pairs
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.overlay import with_labels

Threshold = Literal["mean", "median"] | float
"""A statistic of scores; a number is a percentile."""


@dataclass(frozen=True)
class Enhancement:
    """An index with the labels it lacked, and where they came from."""

    before: ShardIndex
    after: ShardIndex
    thresholds: Float64[np.ndarray, " classes"]
    """NaN for a class that no clip carries, which is never added."""
    pairs: dict[str, Int64[np.ndarray, "classes classes"]]
    """By type: [k, c] counts the clips that carried k and were given c for it."""
    added: dict[str, Int64[np.ndarray, " classes"]]
    """By type: clips that were given each class. A label can be of both types."""


@dataclass(frozen=True)
class Teacher:
    """Scores of the clips of an index; they may be memory-mapped, and are read block by block."""

    scores: Float[np.ndarray, "clips classes"]
    rows: Int64[np.ndarray, " clips"]
    """Row i of the index is row `rows[i]` of the scores."""


def enhance(
    index: ShardIndex, teacher: Teacher, pairs: dict[str, Pairs], threshold: Threshold
) -> Enhancement:
    """Add the labels that `pairs`, by type, allow and the teacher's scores call for."""
    thresholds = class_thresholds(index, teacher, threshold)
    num_classes = len(index.classes)
    allowed = {kind: csr_array(matrix.astype(np.int32)) for kind, matrix in pairs.items()}
    pair_counts = {kind: np.zeros((num_classes, num_classes), np.int64) for kind in pairs}
    counts = {kind: np.zeros(num_classes, np.int64) for kind in pairs}
    parts = []
    for labels, block in _labelled_blocks(index, teacher):
        enhanced = labels
        for kind, matrix in allowed.items():
            added = _added(labels, matrix, block, thresholds)
            pair_counts[kind] += (labels.T @ added).toarray() * pairs[kind]
            counts[kind] += added.sum(axis=0)
            enhanced = enhanced + added
        enhanced.sort_indices()
        parts.append((np.diff(enhanced.indptr), enhanced.indices.astype(np.uint16)))
    lengths, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Enhancement(index, with_labels(index, starts, values), thresholds, pair_counts, counts)


def class_thresholds(
    index: ShardIndex, teacher: Teacher, threshold: Threshold
) -> Float64[np.ndarray, " classes"]:
    """Of each class, the statistic over the scores of the clips that carry it; NaN for none."""
    carried = [block[labels.nonzero()] for labels, block in _labelled_blocks(index, teacher)]
    label_scores = np.concatenate(carried).astype(np.float64)
    order = np.argsort(index.label_values, kind="stable")
    ends = np.cumsum(index.class_counts())
    by_class = np.split(label_scores[order], ends[:-1])
    return np.array(
        [_statistic(values, threshold) if len(values) else np.nan for values in by_class]
    )


def _statistic(values: Float64[np.ndarray, " labels"], threshold: Threshold) -> float:
    if threshold == "mean":
        return float(values.mean())
    return float(np.percentile(values, 50 if threshold == "median" else threshold))


def _labelled_blocks(index: ShardIndex, teacher: Teacher) -> Iterator[tuple[csr_array, np.ndarray]]:
    """The labels of some clips, as a sparse matrix, beside their scores."""
    for rows, block in row_blocks(teacher.scores, teacher.rows):
        starts = index.label_starts[rows.start : rows.stop + 1]
        values = index.label_values[starts[0] : starts[-1]]
        columns = (np.ones(len(values), np.int32), values.astype(np.int32), starts - starts[0])
        yield csr_array(columns, shape=block.shape), block


def _added(
    labels: csr_array,
    allowed: csr_array,
    scores: Float[np.ndarray, "clips classes"],
    thresholds: Float64[np.ndarray, " classes"],
) -> csr_array:
    """1 where a clip gets a class, by one type."""
    clips, classes = (labels @ allowed).nonzero()
    wanted = scores[clips, classes] > thresholds[classes]
    wanted &= labels.toarray()[clips, classes] == 0
    places = (clips[wanted], classes[wanted])
    return csr_array((np.ones(wanted.sum(), np.int32), places), shape=labels.shape)
