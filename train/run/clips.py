"""The clips that a run learns from. Without torch, for pages."""

from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import apply_overlay
from train.config import TrainConfig


def open_training_index(config: TrainConfig) -> ShardIndex:
    """The clips of a run with the labels it learns, without a teacher's scores."""
    index = open_indexes(config.index)
    if config.labels:
        index = apply_overlay(index, config.labels)
    if config.subset is not None:
        index = index.select_random(config.subset, seed=config.subset_seed)
    return index
