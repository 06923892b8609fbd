"""The training loop: epochs of steps, each followed by an evaluation and a checkpoint."""

import json
import logging
import signal
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from eval.metrics import evaluate
from eval.predict import predict
from psla_wds.checkpoint import Checkpoint, epoch_path, save_checkpoint
from psla_wds.distributed import World
from psla_wds.loader import Loader
from psla_wds.model import loss
from psla_wds.progress import DataTimer, Interval, clip_bar
from psla_wds.schedule import BatchLayout, Plans, TrainingSchedule
from psla_wds.shard_index import ShardIndex
from train.learner import Learner
from train.optimizer import Moment, learning_rate
from train.recipes import TrainConfig
from train.run_dir import RunDir, RunLog
from train.states import StateWriter

logger = logging.getLogger("train")

STOP_CHECK_STEPS = 10
"""Ranks ask each other this often whether one was told to stop: all must stop at one step."""
EXIT_STATUS_OF_SIGNAL = 128
"""The shell's rule: a process that a signal ends has this plus the signal's number."""


class Trainer:
    """One run, from wherever its state stands to its last epoch."""

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        learner: Learner,
        index: ShardIndex,
        eval_index: ShardIndex | None,
    ) -> None:
        self._config, self._world, self._learner = config, world, learner
        self._index, self._eval_index = index, eval_index
        self._states = StateWriter(RunDir(config.run_dir).states)
        self._step = 0  # done, over all epochs
        self._total_steps = 0  # of the run, once its length is known
        self._epochs_done = 0  # trained, evaluated and saved
        self._interval_loss, self._epoch_loss = MeanLoss(), MeanLoss()
        self._damaged: list[str] = []  # ids of clips in the log as damaged
        self._stop_signal = 0

    def train(self, log: RunLog) -> None:
        """Go through the epochs that are left; raises `SystemExit` when told to stop."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_stop_signal)
        layout = self._layout()
        config = self._config
        plans = Plans(self._index, config.sampler, seed=config.seed)
        schedule = TrainingSchedule(
            plans,
            config.augment,
            layout,
            log_mel_shape=(config.features.num_frames, config.features.num_mels),
            first_step=self._step,
        )
        loader = Loader(
            self._index,
            schedule,
            clips_per_pass=layout.clips_per_pass,
            features=config.features,
            config=config.reader,
            device=self._world.device,
        )
        self._total_steps = config.epochs * schedule.steps_per_epoch
        with loader, self._states:
            batches = DataTimer(loader)
            for epoch in range(self._epochs_done + 1, config.epochs + 1):
                self._world.agree(plans.of_epoch(epoch).fingerprint(), f"plans of epoch {epoch}")
                storage_wait_before_s = loader.storage_wait_s
                interval = self._train_epoch(epoch, schedule.steps_per_epoch, batches, log)
                storage_wait_s = loader.storage_wait_s - storage_wait_before_s
                self._say_what_bounded(epoch, interval, loader, storage_wait_s)
                self._tell_damaged(loader.damaged, log)
                self._finish_epoch(epoch, interval, batches.take_percentiles(), log)

    def state(self) -> dict[str, Any]:
        """What, with the configuration, makes the rest of the run what it would have been."""
        return {
            "step": self._step,
            "epochs_done": self._epochs_done,
            "index_fingerprint": self._index.fingerprint,
            "interval_loss": self._interval_loss.state(),
            "epoch_loss": self._epoch_loss.state(),
            "damaged": self._damaged,
            "learner": self._learner.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._step, self._epochs_done = state["step"], state["epochs_done"]
        self._interval_loss = MeanLoss(*state["interval_loss"])
        self._epoch_loss = MeanLoss(*state["epoch_loss"])
        self._damaged = list(state["damaged"])
        self._learner.load_state(state["learner"])

    def _layout(self) -> BatchLayout:
        return BatchLayout(
            batch_size=self._config.batch_size,
            rank=self._world.rank,
            world_size=self._world.size,
            accumulate=self._config.accumulate,
        )

    def _train_epoch(
        self, epoch: int, steps_per_epoch: int, batches: DataTimer, log: RunLog
    ) -> Interval:
        config, end = self._config, epoch * steps_per_epoch
        whole, since_log = Interval(batches), Interval(batches)
        with clip_bar(
            desc=f"epoch {epoch}/{config.epochs}",
            total=(end - self._step) * config.batch_size,
            disable=not self._world.is_main,
        ) as bar:
            while self._step < end:
                step_loss = self._learner.step(batches, self._moment(self._step, epoch))
                self._interval_loss.add(step_loss)
                self._epoch_loss.add(step_loss)
                self._step += 1
                whole.clips += config.batch_size
                since_log.clips += config.batch_size
                bar.update(config.batch_size)
                if self._step % config.log_every_steps == 0:
                    self._log_interval(epoch, since_log, bar, log)
                    since_log = Interval(batches)
                self._save_state_when_due()
        return whole

    def _log_interval(self, epoch: int, interval: Interval, bar: tqdm, log: RunLog) -> None:
        mean_loss, data_wait = self._world.mean([self._interval_loss.take(), interval.data_wait])
        bar.set_postfix(loss=f"{mean_loss:.4f}", data_wait=f"{data_wait:.0%}", refresh=False)
        log.write(
            "step",
            step=self._step,
            epoch=epoch,
            loss=mean_loss,
            learning_rate=self._learning_rate(epoch),
            clips_per_s=interval.clips_per_s,
            data_wait=data_wait,
        )

    def _say_what_bounded(
        self, epoch: int, interval: Interval, loader: Loader, storage_wait_s: float
    ) -> None:
        if self._world.is_main:
            line = loader.verdict(
                waited_s=interval.waited_s,
                storage_wait_s=storage_wait_s,
                elapsed_s=interval.elapsed_s,
            )
            logger.info("epoch %d was %s", epoch, line)

    def _tell_damaged(self, damaged: dict[str, str], log: RunLog) -> None:
        """Log the damaged clips of all ranks that are not in the log yet."""
        if not self._config.reader.max_damaged:
            return
        found: dict[str, str] = {}
        for listing in self._world.messages(json.dumps(damaged)):
            found |= json.loads(listing)
        for clip_id in found.keys() - self._damaged:
            log.write("damaged", step=self._step, clip_id=clip_id, problem=found[clip_id])
            self._damaged.append(clip_id)
        if self._damaged and self._world.is_main:
            logger.warning(
                "%d damaged clips were replaced so far; log.jsonl lists them", len(self._damaged)
            )

    def _finish_epoch(
        self, epoch: int, interval: Interval, percentiles: dict[str, float], log: RunLog
    ) -> None:
        """Evaluate, save the weights, log: the epoch counts once all of this is done."""
        train_s, clips_per_s = interval.elapsed_s, interval.clips_per_s
        train_loss, data_wait = self._world.mean([self._epoch_loss.take(), interval.data_wait])
        self._learner.share_statistics()
        metrics = self._evaluate()
        if self._world.is_main:
            save_checkpoint(self._checkpoint(epoch), epoch_path(self._config.run_dir, epoch))
        log.write(
            "epoch",
            step=self._step,
            epoch=epoch,
            train_loss=train_loss,
            learning_rate=self._learning_rate(epoch),
            clips_per_s=clips_per_s,
            data_wait=data_wait,
            duration_s=train_s,
            **percentiles,
            **metrics,
        )
        self._epochs_done = epoch
        self._save_state()

    def _evaluate(self) -> dict[str, float]:
        if self._eval_index is None:
            return {}
        scores = predict(
            self._learner.evaluated,
            self._eval_index,
            self._config.features,
            self._world,
            batch_size=self._layout().clips_per_pass,
            reader=self._config.reader,
        )
        if scores is None:
            return {}
        metrics = evaluate(scores.scores, scores.targets)
        eval_loss = loss(torch.from_numpy(scores.scores), torch.from_numpy(scores.targets).float())
        return {
            "eval_loss": float(eval_loss),
            "mAP": metrics.mAP,
            "mAUC": metrics.mAUC,
            "d_prime": metrics.d_prime,
        }

    def _checkpoint(self, epoch: int) -> Checkpoint:
        config = self._config
        return Checkpoint(
            weights=self._learner.evaluated.state_dict(),
            model=config.model,
            features=config.features,
            classes=self._index.classes,
            epoch=epoch,
        )

    def _learning_rate(self, epoch: int) -> float:
        """Of the last step."""
        return learning_rate(self._config.optimizer, self._moment(self._step - 1, epoch))

    def _moment(self, step: int, epoch: int) -> Moment:
        return Moment(step=step, epoch=epoch, total_steps=self._total_steps)

    def _on_stop_signal(self, number: int, _: FrameType | None) -> None:
        self._stop_signal = number

    def _save_state_when_due(self) -> None:
        if self._step % self._config.state_every_steps == 0:
            self._save_state()
        ask = self._world.size == 1 or self._step % STOP_CHECK_STEPS == 0
        if ask and self._world.any(self._stop_signal > 0):
            self._save_state()
            self._states.finish()
            logger.info(
                "told to stop: saved step %d of %s; next: the same command with --resume",
                self._step,
                self._config.run_dir,
            )
            raise SystemExit(EXIT_STATUS_OF_SIGNAL + self._stop_signal)

    def _save_state(self) -> None:
        if self._world.is_main:
            self._states.save(self.state())


class MeanLoss:
    """The mean of losses; it reads them when asked, not at each step, which would stop the GPU."""

    def __init__(self, total: float = 0.0, count: int = 0) -> None:
        self._total: float | torch.Tensor = total
        self._count = count

    def add(self, loss: torch.Tensor) -> None:
        self._total = self._total + loss.double()
        self._count += 1

    def take(self) -> float:
        """The mean so far; counting starts anew."""
        mean = float(self._total) / max(self._count, 1)
        self._total, self._count = 0.0, 0
        return mean

    def state(self) -> tuple[float, int]:
        return float(self._total), self._count
