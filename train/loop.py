"""The training loop: epochs of steps; an evaluation and a checkpoint follow each epoch."""

import json
import logging
import signal
from dataclasses import asdict
from types import FrameType
from typing import Any

import torch

from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.predict import Predictor, gather_scores
from psla_wds.loading.batches import TrainingData
from psla_wds.models.audio_tagger import loss
from psla_wds.models.checkpoint import Checkpoint, save_checkpoint
from psla_wds.models.epochs import epoch_path
from psla_wds.progress import DataTimer, Interval, progress_bar
from psla_wds.runtime.distributed import World
from psla_wds.shards.index import ShardIndex
from train.config import TrainConfig
from train.learner import Learner
from train.optimizer import Moment, learning_rate
from train.run.folder import RunDir
from train.run.log import Quality, RunLog
from train.run.state import StateWriter
from train.steps.bad_steps import BadSteps, clips_as_json
from train.steps.metrics import Means, Measured, Measures
from train.training_data import layout_of, open_training_data

logger = logging.getLogger("train")

STOP_CHECK_STEPS = 10
"""Steps after which ranks ask each other whether one got a signal: all must stop at one step."""


class Trainer:
    """One run, from its state to its last epoch."""

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
        self._step = 0  # steps done, over all epochs
        self._total_steps = 0  # steps of the run; known once its data is open
        self._epochs_done = 0  # epochs trained, evaluated and saved
        self._measures = Measures(world.device)
        self._interval, self._epoch = Means(), Means()  # since the last record of each
        self._bad_steps = BadSteps(config.run_dir, world, most=config.max_bad_steps)
        self._damaged: list[str] = []  # ids of the damaged clips in the log
        self._stop_signal = 0
        self._is_stepping = False  # whether a signal is looked for after each step

    def train(self, log: RunLog) -> None:
        """Train the epochs that are left; a signal to stop raises `SystemExit`."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGINT, self._on_interrupt)  # Ctrl-C
        config, world = self._config, self._world
        data = open_training_data(config, world, self._index, first_step=self._step)
        self._total_steps = config.epochs * data.schedule.steps_per_epoch
        if world.is_main and self._step:
            at, last = f"step {self._step} of {self._total_steps}", config.epochs
            epoch = min(self._step // data.schedule.steps_per_epoch + 1, last)
            logger.info("continuing after %s, in epoch %d of %d", at, epoch, last)
        with data.loader as loader, self._states:
            batches = DataTimer(loader)
            for epoch in range(self._epochs_done + 1, config.epochs + 1):
                plan = data.schedule.plan(epoch)
                world.agree(plan.fingerprint(), f"plans of epoch {epoch}")
                waited_before_s = loader.storage_wait_s
                interval = self._train_epoch(epoch, data, batches, log)
                storage_wait = (loader.storage_wait_s - waited_before_s) / interval.elapsed_s
                waited = loader.verdict(interval.data_wait, storage_wait)
                self._log_damaged(loader.damaged, log)
                waits = {"storage_wait": storage_wait} | batches.take_percentiles()
                quality = self._finish_epoch(epoch, interval, waits, log)
                if world.is_main:
                    logger.info("epoch %d/%d: %s; %s", epoch, config.epochs, quality, waited)

    @property
    def epochs_left(self) -> int:
        return max(self._config.epochs - self._epochs_done, 0)

    def state(self) -> dict[str, Any]:
        """What a continued run needs, beside its configuration, to end as if never interrupted."""
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
        """Continue from a state; `CheckpointError` if it does not fit this run."""
        self._step, self._epochs_done = state["step"], state["epochs_done"]
        self._interval, self._epoch = Means(**state["interval"]), Means(**state["epoch"])
        self._damaged = list(state["damaged"])
        self._bad_steps.steps = list(state["bad_steps"])
        self._learner.load_state(state["learner"])

    def _train_epoch(
        self, epoch: int, data: TrainingData, batches: DataTimer, log: RunLog
    ) -> Interval:
        config, end, learner = self._config, epoch * data.schedule.steps_per_epoch, self._learner
        whole, since_log = Interval(batches), Interval(batches)
        with progress_bar(
            desc=f"epoch {epoch}/{config.epochs}",
            total=(end - self._step) * config.batch_size,
            disable=not self._world.is_main,
        ) as bar:
            self._is_stepping = True
            while self._step < end:
                step_loss = learner.step(batches, self._moment(self._step, epoch))
                self._step += 1
                self._measures.add(self._step, step_loss, learner.gradient_norm, learner.is_bad)
                whole.clips += config.batch_size
                since_log.clips += config.batch_size
                stops = self._agree_to_stop()
                if stops or self._step == end or self._must_read():
                    self._read_measures(epoch, data, log)
                    now = {"loss": f"{self._interval.mean_loss:.4f}"}
                    bar.set_postfix(now, data_wait=f"{since_log.data_wait:.0%}", refresh=False)
                bar.update(config.batch_size)
                if self._step % config.log_every_steps == 0:
                    self._log_interval(epoch, since_log, log)
                    since_log = Interval(batches)
                self._save_state_when_due(stops)
        self._is_stepping = False
        return whole

    def _must_read(self) -> bool:
        """Whether the numbers are needed now; the same on all ranks.

        Early in a run the bar shows them at steps 1, 2, 4, 8 and so on.
        """
        intervals = (self._config.log_every_steps, self._config.state_every_steps)
        is_power_of_2 = self._step.bit_count() == 1
        return (
            is_power_of_2
            or self._measures.is_full
            or any(self._step % steps == 0 for steps in intervals)
        )

    def _read_measures(self, epoch: int, data: TrainingData, log: RunLog) -> None:
        """Wait for the GPU and add up the numbers of the last steps; raises if they are bad."""
        bad: list[Measured] = []
        for measured in self._measures.read():
            if measured.is_bad:
                log.write("bad_step", step=measured.step, epoch=epoch)
                bad.append(measured)
            else:
                self._interval.add(measured)
                self._epoch.add(measured)

        def clips_of(step: int) -> list[dict[str, Any]]:
            draws = data.schedule.draws_of_step(step, data.loader.damaged_rows)
            return [clip for part in draws for clip in clips_as_json(part, self._index)]

        if bad:
            self._bad_steps.record(bad, epoch, clips_of)

    def _log_interval(self, epoch: int, interval: Interval, log: RunLog) -> None:
        (data_wait,), means = self._world.mean([interval.data_wait]), self._interval.take()
        if self._world.device.type == "cuda":
            most = torch.cuda.max_memory_allocated(self._world.device)
            means["gpu_memory_gib"] = most / 2**30
        log.write(
            "step",
            step=self._step,
            epoch=epoch,
            learning_rate=self._learning_rate(epoch),
            clips_per_s=interval.clips_per_s,
            data_wait=data_wait,
            **means,
        )

    def _log_damaged(self, damaged: dict[str, str], log: RunLog) -> None:
        """Log damaged clips of all ranks that are not in the log yet."""
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
    ) -> str:
        """Evaluate, save the weights, log: the epoch counts once all of this is done.

        Args:
            waits: numbers for the log on how this rank waited for data.

        Returns:
            How well and how fast the epoch went, for a reader.
        """
        train_s, clips_per_s = interval.elapsed_s, interval.clips_per_s
        (data_wait,), means = self._world.mean([interval.data_wait]), self._epoch.take()
        self._learner.share_statistics()
        quality = self._evaluate()
        if self._world.is_main:
            weights, config = self._learner.evaluated.state_dict(), self._config
            made = Checkpoint(weights, config.model, config.features, self._index.classes, epoch)
            save_checkpoint(made, epoch_path(config.run_dir, epoch))
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
            **(asdict(quality) if quality else {}),
        )
        self._epochs_done = epoch
        self._save_state()
        said = f"loss {means['loss']:.4f}"
        if quality:
            said += f", eval loss {quality.eval_loss:.4f}, {log.compared(epoch, quality.mAP)}"
        return f"{said}, {train_s:.0f} s, {clips_per_s:.0f} clips/s"

    def _evaluate(self) -> Quality | None:
        """None on ranks other than 0, and in a run without --eval-index."""
        if self._eval_index is None:
            return None
        predictor = Predictor(
            self._learner.evaluated,
            self._eval_index.classes,
            self._config.features,
            layout_of(self._config, self._world).clips_per_pass,
            self._config.reader,
            windows=self._config.eval_windows,
        )
        scores = gather_scores(predictor, self._eval_index, self._world)
        if scores is None:
            return None
        metrics = evaluate(scores.scores, scores.targets)
        eval_loss = loss(torch.from_numpy(scores.scores), torch.from_numpy(scores.targets).float())
        return Quality(float(eval_loss), metrics.mAP, metrics.mAUC, metrics.d_prime)

    def _learning_rate(self, epoch: int) -> float:
        """Learning rate of the last step."""
        return learning_rate(self._config.optimizer, self._moment(self._step - 1, epoch))

    def _moment(self, step: int, epoch: int) -> Moment:
        return Moment(step=step, epoch=epoch, total_steps=self._total_steps)

    def _on_stop_signal(self, number: int, _: FrameType | None) -> None:
        self._stop_signal = number

    def _on_interrupt(self, number: int, _: FrameType | None) -> None:
        """Stop as on SIGTERM; at once if asked again, or where no step will look for it."""
        again, self._stop_signal = self._stop_signal > 0, number
        if again or not self._is_stepping:
            raise KeyboardInterrupt
        logger.info("stopping after a step, whose state is saved; Ctrl-C again stops at once")

    def _agree_to_stop(self) -> bool:
        """Whether a rank got a signal to stop; the same on all: they ask at the same steps."""
        ask = self._world.size == 1 or self._step % STOP_CHECK_STEPS == 0
        return ask and self._world.any(self._stop_signal > 0)

    def _save_state_when_due(self, stops: bool) -> None:
        if self._step % self._config.state_every_steps == 0:
            self._save_state()
        if stops:
            self._save_state()
            self._states.finish()
            logger.info(
                "stopping on a signal: saved step %d of %s; next: the same command with --resume",
                self._step,
                self._config.run_dir,
            )
            raise SystemExit(128 + self._stop_signal)  # as shells report it

    def _save_state(self) -> None:
        if self._world.is_main:
            self._states.save(self.state())
