"""Indexes of labels alone, of any size: what the draws depend on."""

import csv
import gzip
from pathlib import Path

import numpy as np

from benchmarks.bench_plan import label_index
from psla_wds.labels.class_list import read_class_list
from psla_wds.shards.index import ShardIndex

SEGMENTS = "unbalanced_train_segments_PARTIAL.csv.gz"


def index_with_labels(labels: list[list[int]], num_classes: int = 4) -> ShardIndex:
    """An index of clips that carry these labels."""
    starts = np.cumsum([0, *map(len, labels)])
    values = np.array([label for clip in labels for label in clip], np.uint16)
    return label_index(starts, values, num_classes)


def audioset_index(meta: Path) -> ShardIndex:
    """The labels of the 107,289 real rows of AudioSet's unbalanced set that lie in `meta`."""
    classes = read_class_list(meta / "audioset_class_labels_indices.csv")
    with gzip.open(meta / SEGMENTS, "rt", encoding="utf-8") as file:
        rows = csv.reader((line for line in file if line[0] != "#"), skipinitialspace=True)
        labels = [[classes.find(mid) for mid in row[3].split(",")] for row in rows]
    return index_with_labels(labels, len(classes))
