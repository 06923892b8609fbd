"""The model, and what changes it: one optimizer step at a time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.loading.loader import Batch
from psla_wds.models.audio_tagger import AudioTagger, autocast, check_precision, loss
from psla_wds.models.batch_norm import ghost_norms, normalise_over
from psla_wds.runtime.distributed import World
from train.config import Compile, TrainConfig
from train.optimizer import (
    Moment,
    build_optimizer,
    learning_rate,
    load_optimizer,
    set_learning_rate,
    step_unless,
)
from train.steps.averages import RunningStatistics, WeightAverage


class Learner:
    """Model, optimizer and gradient scaler; the same on all ranks."""

    def __init__(self, config: TrainConfig, world: World, model: AudioTagger) -> None:
        check_precision(config.precision, world.device)
        self._config, self._world = config, world
        normalise_over(config.batch_norm, config.batch_norm_group, model.trunk)
        self.model = model.to(world.device, memory_format=torch.channels_last)
        # This comes before ranks count the gradients that they share.
        self.model.trunk.requires_grad_(config.optimizer.trunk_factor != 0)
        self._parallel = _data_parallel(_compiled(self.model, config.compile), world)
        self._average = WeightAverage(self.model, config.ema_decay) if config.ema_decay else None
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self._scaler = torch.amp.GradScaler("cuda", enabled=config.precision == "float16")
        self._statistics = RunningStatistics(self.model)
        self._ghost_norms = ghost_norms(self.model)
        self.gradient_norm = self.is_bad = torch.zeros((), device=world.device)
        """Norm of all gradients in the last step; whether that step was skipped, since its loss or
        gradient was not finite."""

    @property
    def evaluated(self) -> AudioTagger:
        """The model that is evaluated and saved: the weights' average if there is one."""
        return self._average.model if self._average else self.model

    def step(self, batches: Iterator[Batch], moment: Moment) -> torch.Tensor:
        """Do a step of the run; returns the loss over all ranks, on the device.

        It does not wait for a GPU. A step whose loss or gradient is not finite changes nothing.
        """
        try:
            return self._step(batches, moment)
        except torch.OutOfMemoryError as error:
            passes, ranks = self._config.accumulate, self._world.size
            clips = self._config.batch_size // (ranks * passes)
            raise ConfigError(
                f"{self._world.device} lacks memory for a pass of {clips} clips "
                f"(batch {self._config.batch_size}, {ranks} processes, {passes} passes each)",
                where="batch_size",
                fix=f"set --accumulate {2 * passes}, which keeps the batch; or lower --batch-size",
            ) from error

    def _step(self, batches: Iterator[Batch], moment: Moment) -> torch.Tensor:
        _seed_step(self._config.seed, moment.step, self._world.rank)
        self.model.train()
        set_learning_rate(self.optimizer, learning_rate(self._config.optimizer, moment))
        self.optimizer.zero_grad(set_to_none=True)
        statistics = self._statistics.read()
        passes = self._config.accumulate
        step_loss = torch.zeros((), device=self._world.device)
        for forward_pass in range(passes):
            batch = next(batches)
            for norm in self._ghost_norms:
                norm.has_first_group = self._world.is_main and forward_pass == 0
            with self._gradient_sync(is_last=forward_pass == passes - 1):
                with autocast(self._config.precision, self._world.device):
                    scores = self._parallel(batch.log_mel)
                pass_loss = loss(scores, self._targets(batch)) / passes
                self._scaler.scale(pass_loss).backward()
            step_loss += pass_loss.detach()
        step_loss = self._world.mean_there(step_loss)
        self._update(step_loss, statistics)
        return step_loss

    def _update(self, step_loss: torch.Tensor, statistics: torch.Tensor) -> None:
        """Change the model by the gradient if all is finite; the same on all ranks."""
        self._scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.gradient_norm = torch.nn.utils.get_total_norm(gradients)
        scale = self._scaler.scale(torch.ones((), device=self._world.device))
        self.is_bad = is_bad(step_loss, self.gradient_norm, scale)
        skip = ~(step_loss.isfinite() & self.gradient_norm.isfinite())
        step_unless(skip, self.optimizer)
        self._scaler.update()
        self._statistics.restore_where(skip, statistics)
        if self._average:
            self._average.update(skip)

    def _targets(self, batch: Batch) -> torch.Tensor:
        """Labels, or their weighted mean with a teacher's scores.

        Cross-entropy is linear in its targets, so the loss is the weighted mean of both losses.
        """
        if batch.soft_targets is None:
            return batch.targets
        return torch.lerp(batch.targets, batch.soft_targets, self._config.distill_weight)

    def share_statistics(self) -> None:
        """Give all ranks BatchNorm's running statistics of rank 0, for the evaluation.

        Each rank has statistics of its own share of the batches, or with ghost groups none. The
        official code keeps those of its first GPU too.
        """
        averaged = self._average.model.buffers() if self._average else ()
        self._world.share([*self.model.buffers(), *averaged])

    def saved_bytes(self) -> tuple[int, int]:
        """Sizes of a checkpoint and of a state, without what is small in them."""
        weights = sum(tensor.nbytes for tensor in self.model.state_dict().values())
        return weights, (4 if self._average else 3) * weights  # Adam has two numbers per weight

    def state(self) -> dict[str, Any]:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        return state | ({"average": self._average.model.state_dict()} if self._average else {})

    def load_state(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            if self._average:
                self._average.model.load_state_dict(state["average"])
            load_optimizer(self.optimizer, state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise CheckpointError(
                f"the state does not fit this model: {reason}",
                where="state.pt",
                fix="resume with the settings and the version that the run was begun with",
            ) from None

    def _gradient_sync(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Let gradients of all passes add up; ranks exchange them in the last."""
        if isinstance(self._parallel, DistributedDataParallel) and not is_last:
            return self._parallel.no_sync()
        return nullcontext()


def is_bad(loss: torch.Tensor, gradient_norm: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Whether something is wrong with a step. A gradient that was only too large for float16 at its
    scale is not bad: the step is skipped too, and the scaler lowers the scale."""
    return ~loss.isfinite() | (~gradient_norm.isfinite() & (scale <= 1))


def _compiled(model: AudioTagger, mode: Compile) -> torch.nn.Module:
    """The model for training. Evaluation, whose last batch is smaller, uses `model` itself."""
    # Both share all weights. One graph is enough: all passes of a run have the same shape.
    return model if mode == "off" else torch.compile(model, mode=mode, dynamic=False)  # type: ignore[return-value]


def _data_parallel(model: torch.nn.Module, world: World) -> torch.nn.Module:
    if world.size == 1:
        return model
    device_ids = [world.device.index] if world.device.type == "cuda" else None
    # Training does not read running statistics: sharing them before evaluation is enough.
    renamed = "forward_sync_buffers" in signature(DistributedDataParallel).parameters  # torch 2.15
    shares = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(
        model, device_ids=device_ids, gradient_as_bucket_view=True, **shares
    )


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Make torch's random numbers, which drop-connect uses, a function of seed, step and rank: a
    resumed run then draws the same as one that was never interrupted."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))
