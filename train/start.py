"""A run from start to end: every check first, then training, then the command to run next."""

import json
import logging
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from psla_wds.config import Kind, to_json
from psla_wds.errors import ConfigError
from psla_wds.evaluation.teacher import apply_teacher
from psla_wds.io.remote import expect_reads_within
from psla_wds.loading.loader import needs_dali
from psla_wds.models.batch_norm import check_batch_norm
from psla_wds.models.config import RANDOM
from psla_wds.models.epochs import epoch_path
from psla_wds.models.initial_weights import Start, build_model, first_tagger
from psla_wds.printable import typed
from psla_wds.runtime.distributed import World, join_world
from psla_wds.runtime.environment import environment, sources_digest
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.text_table import counted
from train.config import KINDS, TrainConfig
from train.dry_run import normalisation, try_out
from train.learner import Learner
from train.loop import Trainer
from train.run.clips import open_training_index
from train.run.folder import RunDir
from train.run.log import RunLog
from train.training_data import layout_of, lengths_of

logger = logging.getLogger("train")


def train(config: TrainConfig) -> None:
    """Begin or continue a run, on the processes of torchrun or on this one."""
    with join_world() as world, RunDir(config.run_dir) as run_dir:
        versions = f"torch {torch.__version__}, numpy {np.__version__}, sources {sources_digest()}"
        world.agree(versions, "code")
        config = world.together(partial(run_dir.recorded, config))
        _agree_on_settings(config, world)
        index, eval_index, state = world.together(lambda: _prepare(config, world))
        first_step = state["step"] if state else 0
        world.agree(index.fingerprint, "shards")
        world.agree(str(first_step), "steps to continue from")
        torch.manual_seed(config.seed)
        start = world.together(lambda: _start(config, index, world, is_begun=state is not None))
        config = replace(config, model=replace(config.model, initial_sha256=start.sha256))
        learner = Learner(config, world, start.tagger)
        trainer = Trainer(config, world, learner, index, eval_index)
        if state:
            world.together(lambda: trainer.load_state(state))
        checkpoint, saved = learner.saved_bytes()
        room = trainer.epochs_left * checkpoint + 3 * saved  # at most three states at a time
        world.together(lambda: run_dir.check_room(room) if world.is_main else None)
        lengths = lengths_of(config, index)
        if config.dry_run:
            dry_run = partial(try_out, config, world, index, eval_index, learner, first_step)
            found = world.together(dry_run)
            if world.is_main:
                found |= {"lengths": lengths} if lengths else {}
                is_trained = start.is_trained or state is not None
                found["normalisation"] = normalisation(config, index, is_trained=is_trained)
                print("\n".join(f"{name:<16}{text}" for name, text in found.items()))
                print(f"wrote nothing to {config.run_dir}; next: the same without --dry-run")
            return
        if lengths and world.is_main:
            logger.info("%s", lengths)
        made_with = environment() | {
            "processes": world.size,
            "clips": len(index),
            "index_fingerprint": index.fingerprint,
            "eval_index_fingerprint": eval_index.fingerprint if eval_index else None,
        }
        world.together(lambda: run_dir.begin(config, made_with) if world.is_main else None)
        with RunLog(config, state, enabled=world.is_main) as log:
            trainer.train(log)
        if world.is_main:
            _print_next(config)


def _agree_on_settings(config: TrainConfig, world: World) -> None:
    """Raise on all ranks if their settings differ (except places), or if only some have a GPU."""
    world.agree(world.device.type, "kinds of device")
    settings = {n: v for n, v in to_json(config).items() if KINDS[n] is not Kind.PLACE}
    others = [json.loads(text) for text in world.messages(json.dumps(settings))]
    for name, value in settings.items():
        if any(other[name] != value for other in others):
            world.agree(str(value), f"settings of {name}")


def _prepare(
    config: TrainConfig, world: World
) -> tuple[ShardIndex, ShardIndex | None, dict[str, Any] | None]:
    """The training index, the evaluation index, and the state to continue from.

    This finds every mistake that can be found before the ranks depend on one another.
    """
    if not config.index:
        raise ConfigError("there is nothing to train on", where="index", fix="set --index SHARDS")
    needs_dali(world.device)
    expect_reads_within(config.reader.timeout_s)
    layout = layout_of(config, world)
    check_batch_norm(
        config.batch_norm,
        config.batch_norm_group,
        clips_per_pass=layout.clips_per_pass,
        device=world.device,
    )
    index = open_training_index(config)
    if config.distill:
        index = apply_teacher(index, config.distill)
    index.check_shards()
    eval_index = open_indexes(config.eval_index) if config.eval_index else None
    if eval_index is not None:
        eval_index.check_shards()
        if eval_index.classes != index.classes:
            raise ConfigError(
                "the evaluation shards have other classes than the training shards",
                where=" ".join(config.eval_index),
                fix="build both with one --class-labels file",
            )
    state = RunDir(config.run_dir).find_state(config)
    if state and state["index_fingerprint"] != index.fingerprint:
        raise ConfigError(
            "the run was begun on other shards, labels or teacher's scores",
            where=" ".join(config.index),
            fix="resume with the same ones, or choose another --run-dir",
        )
    return index, eval_index, state


def _start(config: TrainConfig, index: ShardIndex, world: World, *, is_begun: bool) -> Start:
    """The initial model. Only rank 0 of a new run reads a file: other ranks get its weights, and a
    run that continues has those of its state."""
    if is_begun or not world.is_main:
        model = replace(config.model, initial_weights=RANDOM)
        return Start(build_model(model, len(index.classes)), config.model.initial_sha256)
    return first_tagger(
        config.model, index.classes, config.features, other_features=config.other_features
    )


def _print_next(config: TrainConfig) -> None:
    last = epoch_path(config.run_dir, config.epochs)
    target = config.eval_index[0] if config.eval_index else "SHARDS"
    print(
        f"wrote {counted(config.epochs, 'epoch')} to {config.run_dir} (last: {last}); next: "
        f"psla-wds predict {typed(config.run_dir)} --index {typed(target)} --output P.npz"
    )
