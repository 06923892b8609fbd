"""Learners of a small network, and random batches for their steps."""

from dataclasses import replace

import numpy as np
import torch

from psla_wds.loading.loader import Batch
from psla_wds.models.config import ModelConfig
from psla_wds.models.initial_weights import build_model
from psla_wds.runtime.distributed import World
from train.learner import Learner
from train.optimizer import Moment
from train.recipes import DEMO

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
MODEL = replace(DEMO.model, drop_connect_rate=0.2)
STILL = replace(DEMO.model, drop_connect_rate=0.0)


def learner(*, model: ModelConfig = MODEL, world: World = ALONE, **changes: object) -> Learner:
    torch.manual_seed(0)
    return Learner(replace(DEMO, model=model, **changes), world, build_model(model, 5))


def hold_batch_norm(student: Learner) -> Learner:
    """Statistics of a part are not those of the whole: BatchNorm stays as it is."""
    student.model.eval().train = lambda mode=True: None
    return student


def batches(count: int, clips: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            torch.randn(clips, 64, 128, generator=generator),
            (torch.rand(clips, 5, generator=generator) < 0.3).float(),
            np.arange(clips),
        )
        for _ in range(count)
    ]


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    part = slice(start, stop)
    return Batch(batch.log_mel[part], batch.targets[part], batch.rows[part])


def at(step: int) -> Moment:
    return Moment(step, epoch=1, total_steps=1000)
