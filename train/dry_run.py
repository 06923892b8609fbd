"""A dry run: read one batch and report what the run would do, without writing anything."""

import time
from dataclasses import replace

import torch

from psla_wds.loading.normalisation import LogMelMoments, is_off, random_rows, waveforms_of
from psla_wds.runtime.distributed import World
from psla_wds.shards.index import ShardIndex
from psla_wds.text_table import counted, of_bytes
from train.config import TrainConfig
from train.learner import Learner
from train.optimizer import Moment, learning_rate
from train.training_data import open_training_data

SAMPLE_CLIPS = 64
"""Number of clips whose normalisation is measured."""
MOST_RATES = 5
"""Largest number of learning rates to list."""


def try_out(
    config: TrainConfig,
    world: World,
    index: ShardIndex,
    eval_index: ShardIndex | None,
    learner: Learner,
    first_step: int,
) -> dict[str, str]:
    """Read the first batch of this rank, as training would; returns the lines to print by name."""
    # Without staging, which would write copies of the shards.
    config = replace(config, reader=replace(config.reader, stage=None))
    began = time.perf_counter()
    data = open_training_data(config, world, index, first_step=first_step)
    with data.loader as loader:
        batch = next(loader)
    batch_s = time.perf_counter() - began
    shape = " x ".join(map(str, batch.log_mel.shape))
    plan, steps = data.schedule.plan(1), data.schedule.steps_per_epoch
    partners = config.augment.mixup_rate * len(plan.rows) * float(index.size.mean())
    read_bytes = float(index.size[plan.rows].sum()) + partners
    clips = config.batch_size // (world.size * config.accumulate)
    weights, state = learner.saved_bytes()
    parameters = sum(p.numel() for p in learner.model.parameters())
    done = f", of which {first_step:,} are done" if first_step else ""
    passes = f" in {config.accumulate} passes" if config.accumulate > 1 else ""
    norms = {"rank": "each process's share", "batch": "all processes"}
    batch_norm = norms.get(config.batch_norm, f"groups of {config.batch_norm_group}")
    return {
        "clips": f"{len(index):,} in {len(index.shards)} shards, {len(index.classes)} classes",
        "evaluation": f"{len(eval_index):,} clips" if eval_index else "none: no epoch is scored",
        "draws": f"{len(plan.rows):,} an epoch, {config.sampler.sampling}; "
        f"about {of_bytes(read_bytes)} to read",
        "plan": f"{2 * plan.rows.nbytes / 2**20:.1f} MiB on each process, for two epochs",
        "model": f"{config.model.backbone}, {config.model.head}: {parameters:,} parameters",
        "processes": f"{world.size} on {world.device.type}, {counted(clips, 'clip')} each"
        f"{passes}; BatchNorm over {batch_norm}",
        "steps": f"{steps:,} an epoch of {config.batch_size} clips; "
        f"{counted(config.epochs, 'epoch')}: "
        f"{config.epochs * steps:,} steps{done}",
        "learning rate": _rates(config, steps, trunk=_of_trunk(learner.optimizer)),
        "disk": f"{of_bytes(weights)} a checkpoint, {of_bytes(state)} a state",
        "first batch": f"{shape} (clips, frames, mels), read and decoded in {batch_s:.1f} s",
    }


def normalisation(config: TrainConfig, index: ShardIndex, *, is_trained: bool) -> str:
    """What is done to the log-mel values, and whether it fits the clips.

    Args:
        is_trained: whether the weights learned with a normalisation, which must stay.
    """
    features = config.features
    moments = LogMelMoments(features)
    rows = random_rows(index, SAMPLE_CLIPS, seed=0)
    for waveform in waveforms_of(index, rows):
        moments.add(waveform)
    found = moments.summary()
    own = f"mean {features.mean:.4f}, std {features.std:.4f}"
    clips = f"{found['mean']:.4f} and {found['std']:.4f} in {counted(len(rows), 'clip')}"
    if is_trained:
        return f"{own}, as the weights learned it ({clips})"
    if not is_off(found, features):
        return f"{own}, which fits the clips ({clips})"
    flags = f"--features.mean {found['mean']:.4f} --features.std {found['std']:.4f}"
    return f"{own}, which is not that of the clips: {flags} (psla-wds stats measures more)"


def _of_trunk(optimizer: torch.optim.Optimizer) -> str:
    """The trunk's factor on the learning rate, if it has one."""
    factors = [group["factor"] for group in optimizer.param_groups[:-1]]
    if len(factors) > 1:
        return f" ({min(factors):.2g} to {max(factors):.2g} of it for the trunk's layers)"
    return f" ({factors[0]:g} of it for the trunk)" if factors else ""


def _rates(config: TrainConfig, steps_per_epoch: int, *, trunk: str) -> str:
    """The rate of the first step, and of the last step of each epoch in which it changes."""
    total = config.epochs * steps_per_epoch

    def rate(step: int, epoch: int) -> str:
        return f"{learning_rate(config.optimizer, Moment(step, epoch, total)):.3g}"

    listed, last = [f"{rate(0, 1)} in step 1{trunk}"], ""
    for epoch in range(1, config.epochs + 1):
        at_end = rate(epoch * steps_per_epoch - 1, epoch)
        if at_end != last:
            listed.append(f"{at_end} at the end of epoch {epoch}")
        last = at_end
    if len(listed) > MOST_RATES + 1:
        listed = [*listed[:MOST_RATES], "...", listed[-1]]
    return "; ".join(listed)
