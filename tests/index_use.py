"""All that training and the commands ask of an index."""

from pathlib import Path

import numpy as np

from psla_wds.reading.reader import Reader
from psla_wds.sampling.plan import SamplerConfig, plan_epoch
from psla_wds.shards.index import ShardIndex
from sharding.info import render, summarise


def use(index: ShardIndex) -> None:
    """Check, describe, draw from and read an index; what is wrong with it is refused."""
    index.check_shards()
    rows = np.arange(len(index))
    assert index.targets(rows).sum() <= len(index.label_values)
    assert all(index.where(row) and len(index.labels(row)) >= 0 for row in rows)
    render(summarise(index), Path("x"))
    index.select_random(len(index) // 2, seed=0)
    plan_epoch(index, SamplerConfig(), seed=0, epoch=1)
    reader = Reader(index, threads=1)
    try:
        reader.start(rows).wait()
    finally:
        reader.close()
