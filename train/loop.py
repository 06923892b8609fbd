"""The training loop: epochs of steps, each followed by an evaluation and a checkpoint."""

import json
import logging
import signal
from dataclasses import asdict
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.predict import Predictor, gather_scores
from psla_wds.loading.batches import TrainingData
from psla_wds.models.audio_tagger import loss
from psla_wds.models.checkpoint import Checkpoint, epoch_path, save_checkpoint
from psla_wds.progress import DataTimer, Interval, progress_bar
from psla_wds.runtime.distributed import World
from psla_wds.shards.index import ShardIndex
from train.config import TrainConfig
from train.learner import Learner
from train.optimizer import Moment, learning_rate
from train.run.folder import RunDir
from train.run.log import RunLog
from train.run.state import StateWriter, check_types
from train.steps.bad_steps import BadSteps, clips_as_json
from train.steps.metrics import Means, Measures
from train.training_data import layout_of, open_training_data

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
        self._measures = Measures(world.device)
        self._interval, self._epoch = Means(), Means()  # since the last record of each
        self._bad_steps = BadSteps(config.run_dir, world, most=config.max_bad_steps)
        self._damaged: list[str] = []  # ids of clips in the log as damaged
        self._stop_signal = 0

    def train(self, log: RunLog) -> None:
        """Go through the epochs that are left; raises `SystemExit` when told to stop."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_stop_signal)
        config, world = self._config, self._world
        data = open_training_data(config, world, self._index, first_step=self._step)
        self._total_steps = config.epochs * data.schedule.steps_per_epoch
        with data.loader as loader, self._states:
            batches = DataTimer(loader)
            for epoch in range(self._epochs_done + 1, config.epochs + 1):
                plan = data.schedule.plan(epoch)
                world.agree(plan.fingerprint(), f"plans of epoch {epoch}")
                waited_before_s = loader.storage_wait_s
                interval = self._train_epoch(epoch, data, batches, log)
                storage_wait = (loader.storage_wait_s - waited_before_s) / interval.elapsed_s
                if world.is_main:
                    found = loader.verdict(interval.data_wait, storage_wait)
                    logger.info("epoch %d was %s", epoch, found)
                self._tell_damaged(loader.damaged, log)
                waits = {"storage_wait": storage_wait} | batches.take_percentiles()
                self._finish_epoch(epoch, interval, waits, log)

    @property
    def epochs_left(self) -> int:
        return max(self._config.epochs - self._epochs_done, 0)

    def state(self) -> dict[str, Any]:
        """What, with the configuration, makes the rest of the run what it would have been."""
        return {
            "step": self._step,
            "epochs_done": self._epochs_done,
            "index_fingerprint": self._index.fingerprint,
            "interval": asdict(self._interval),
            "epoch": asdict(self._epoch),
            "damaged": self._damaged,
            "bad_steps": self._bad_steps.steps,
            "learner": self._learner.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state; `CheckpointError` if it is none of this run's."""
        check_types(state)
        self._step, self._epochs_done = state["step"], state["epochs_done"]
        self._interval, self._epoch = Means(**state["interval"]), Means(**state["epoch"])
        self._damaged = list(state["damaged"])
        self._bad_steps.steps = list(state["bad_steps"])
        self._learner.load_state(state["learner"])

    def _train_epoch(
        self, epoch: int, data: TrainingData, batches: DataTimer, log: RunLog
    ) -> Interval:
        config, end = self._config, epoch * data.schedule.steps_per_epoch
        whole, since_log = Interval(batches), Interval(batches)
        with progress_bar(
            desc=f"epoch {epoch}/{config.epochs}",
            total=(end - self._step) * config.batch_size,
            disable=not self._world.is_main,
        ) as bar:
            while self._step < end:
                self._do_step(epoch, batches)
                stops = self._agree_to_stop()
                if stops or self._step == end or self._must_read():
                    self._read_measures(epoch, data, log)
                whole.clips += config.batch_size
                since_log.clips += config.batch_size
                bar.update(config.batch_size)
                if self._step % config.log_every_steps == 0:
                    self._log_interval(epoch, since_log, bar, log)
                    since_log = Interval(batches)
                self._save_state_when_due(stops)
        return whole

    def _do_step(self, epoch: int, batches: DataTimer) -> None:
        learner = self._learner
        step_loss = learner.step(batches, self._moment(self._step, epoch))
        self._step += 1
        self._measures.add(self._step, step_loss, learner.gradient_norm, learner.is_bad)

    def _must_read(self) -> bool:
        """Whether something will be made of the numbers now, on which all ranks must agree."""
        intervals = (self._config.log_every_steps, self._config.state_every_steps)
        return self._measures.is_full or any(self._step % steps == 0 for steps in intervals)

    def _read_measures(self, epoch: int, data: TrainingData, log: RunLog) -> None:
        """Wait for the GPU, and take in the numbers of the last steps; raises if they are bad."""
        measures = self._measures.read()
        for measured in measures:
            if not measured.is_bad:
                self._interval.add(measured)
                self._epoch.add(measured)
        bad = [measured for measured in measures if measured.is_bad]
        for measured in bad:
            log.write("bad_step", step=measured.step, epoch=epoch)
        if bad:
            self._bad_steps.record(
                bad,
                epoch,
                lambda step: [
                    clip
                    for draws in data.schedule.draws_of_step(step, data.loader.damaged_rows)
                    for clip in clips_as_json(draws, self._index)
                ],
            )

    def _log_interval(self, epoch: int, interval: Interval, bar: tqdm, log: RunLog) -> None:
        (data_wait,), means = self._world.mean([interval.data_wait]), self._interval.take()
        bar.set_postfix(loss=f"{means['loss']:.4f}", data_wait=f"{data_wait:.0%}", refresh=False)
        log.write(
            "step",
            step=self._step,
            epoch=epoch,
            learning_rate=self._learning_rate(epoch),
            clips_per_s=interval.clips_per_s,
            data_wait=data_wait,
            **means,
            **self._memory(),
        )

    def _memory(self) -> dict[str, float]:
        """The most memory of rank 0's GPU that tensors took so far."""
        if self._world.device.type != "cuda":
            return {}
        return {"gpu_memory_gib": torch.cuda.max_memory_allocated(self._world.device) / 2**30}

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
        self, epoch: int, interval: Interval, waits: dict[str, float], log: RunLog
    ) -> None:
        """Evaluate, save the weights, log: the epoch counts once all of this is done.

        Args:
            waits: how this rank waited for data, to be logged.
        """
        train_s, clips_per_s = interval.elapsed_s, interval.clips_per_s
        (data_wait,), means = self._world.mean([interval.data_wait]), self._epoch.take()
        self._learner.share_statistics()
        metrics = self._evaluate()
        if self._world.is_main:
            save_checkpoint(self._checkpoint(epoch), epoch_path(self._config.run_dir, epoch))
        log.write(
            "epoch",
            step=self._step,
            epoch=epoch,
            train_loss=means["loss"],
            learning_rate=self._learning_rate(epoch),
            clips_per_s=clips_per_s,
            data_wait=data_wait,
            duration_s=train_s,
            **waits,
            **metrics,
        )
        self._epochs_done = epoch
        self._save_state()

    def _evaluate(self) -> dict[str, float]:
        if self._eval_index is None:
            return {}
        predictor = Predictor(
            self._learner.evaluated,
            self._eval_index.classes,
            self._config.features,
            layout_of(self._config, self._world).clips_per_pass,
            self._config.reader,
        )
        scores = gather_scores(predictor, self._eval_index, self._world)
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
        """Learning rate of the last step."""
        return learning_rate(self._config.optimizer, self._moment(self._step - 1, epoch))

    def _moment(self, step: int, epoch: int) -> Moment:
        return Moment(step=step, epoch=epoch, total_steps=self._total_steps)

    def _on_stop_signal(self, number: int, _: FrameType | None) -> None:
        self._stop_signal = number

    def _agree_to_stop(self) -> bool:
        """Whether a rank was told to stop; the same on all, since they ask at the same steps."""
        ask = self._world.size == 1 or self._step % STOP_CHECK_STEPS == 0
        return ask and self._world.any(self._stop_signal > 0)

    def _save_state_when_due(self, stops: bool) -> None:
        if self._step % self._config.state_every_steps == 0:
            self._save_state()
        if stops:
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
