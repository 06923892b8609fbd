"""Indexes of labels alone, of any size: what the draws depend on."""

import csv
import gzip
from pathlib import Path

import numpy as np

from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.shards.index import ShardIndex

SEGMENTS = "unbalanced_train_segments_PARTIAL.csv.gz"
COUNTS = "audioset_label_counts.csv"


def label_index(starts: np.ndarray, values: np.ndarray, num_classes: int) -> ShardIndex:
    """An index of clips with the labels `values[starts[i]:starts[i + 1]]`, and nothing else."""
    zeros = np.zeros(len(starts) - 1, np.int64)
    names = tuple(f"class {number}" for number in range(num_classes))
    return ShardIndex(
        shards=(),
        shard_sizes=(),
        classes=ClassList(names, names),
        splits=("",),
        sample_rate_hz=16_000,
        fingerprint="labels",
        shard=zeros.astype(np.uint32),
        offset=zeros,
        size=zeros,
        crc32=zeros.astype(np.uint32),
        num_samples=zeros,
        split=zeros.astype(np.uint8),
        label_starts=starts,
        label_values=values,
        id_starts=np.zeros(len(starts), np.int64),
        id_bytes=np.zeros(0, np.uint8),
    )


def index_with_labels(labels: list[list[int]], num_classes: int = 4) -> ShardIndex:
    """An index of clips that carry these labels."""
    starts = np.cumsum([0, *map(len, labels)])
    values = np.array([label for clip in labels for label in clip], np.uint16)
    return label_index(starts, values, num_classes)


def index_by_counts(counts: np.ndarray, num_clips: int) -> ShardIndex:
    """An index where each class has its count of clips.

    Labels are dealt, class after class, round and round clips in random order: no clip gets a
    label twice, and all get equally many, but for one.
    """
    labels = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
    order = np.random.default_rng(0).permutation(num_clips)
    clips = order[np.arange(len(labels)) % num_clips]
    starts = np.concatenate([[0], np.cumsum(np.bincount(clips, minlength=num_clips))])
    return label_index(starts, labels[np.argsort(clips, kind="stable")], len(counts))


def audioset_counts(meta: Path) -> np.ndarray:
    """Clips of each class in the full AudioSet."""
    with (meta / COUNTS).open(encoding="utf-8", newline="") as file:
        return np.array([int(row["full_train_2M_panns"]) for row in csv.DictReader(file)])


def audioset_index(meta: Path) -> ShardIndex:
    """The labels of the 107,289 real rows of AudioSet's unbalanced set that lie in `meta`."""
    classes = read_class_list(meta / "audioset_class_labels_indices.csv")
    with gzip.open(meta / SEGMENTS, "rt", encoding="utf-8") as file:
        rows = csv.reader((line for line in file if line[0] != "#"), skipinitialspace=True)
        labels = [[classes.find(mid) for mid in row[3].split(",")] for row in rows]
    return index_with_labels(labels, len(classes))
