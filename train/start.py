"""A run from its settings to its end: every check first, then training, then what to run next."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from psla_wds.config import Kind, to_json
from psla_wds.errors import ConfigError
from psla_wds.evaluation.teacher import apply_teacher
from psla_wds.loading.loader import check_dali
from psla_wds.models.batch_norm import check_batch_norm
from psla_wds.models.checkpoint import epoch_path
from psla_wds.models.config import RANDOM
from psla_wds.models.initial_weights import Start, build_model, first_tagger
from psla_wds.runtime.distributed import World, join_world
from psla_wds.runtime.environment import environment, sources_digest
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from train.config import KINDS, TrainConfig
from train.dry_run import try_out
from train.learner import Learner
from train.loop import Trainer
from train.run.folder import RunDir
from train.run.log import RunLog
from train.training_data import layout_of, open_training_index


def train(config: TrainConfig) -> None:
    """Train, or go on training, on the processes of torchrun or on this one."""
    with join_world() as world, RunDir(config.run_dir) as run_dir:
        world.agree(_code(), "code")
        config = world.together(partial(run_dir.recorded, config))
        _agree_on_settings(config, world)
        index, eval_index, state = world.together(lambda: _prepare(config, world))
        world.agree(index.fingerprint, "shards")
        world.agree(str(state["step"] if state else 0), "steps to go on from")
        torch.manual_seed(config.seed)
        start = world.together(lambda: _start(config, index, world, is_begun=state is not None))
        config = replace(config, model=replace(config.model, initial_sha256=start.sha256))
        learner = Learner(config, world, start.tagger)
        trainer = Trainer(config, world, learner, index, eval_index)
        if state:
            world.together(lambda: trainer.load_state(state))
        room = _room(learner, trainer.epochs_left)
        world.together(lambda: run_dir.check_room(room) if world.is_main else None)
        if config.dry_run:
            first_step = state["step"] if state else 0
            dry_run = partial(try_out, config, world, index, eval_index, learner, first_step)
            _say_what_would_be_done(world.together(dry_run), config, world)
            return
        begin = partial(_begin, run_dir, config, world, index, eval_index)
        world.together(begin if world.is_main else lambda: None)
        with RunLog(config, state, enabled=world.is_main) as log:
            trainer.train(log)
        if world.is_main:
            _say_what_next(config)


def _code() -> str:
    """What computes, as the ranks compare it."""
    return f"torch {torch.__version__}, numpy {np.__version__}, sources {sources_digest()}"


def _begin(
    run_dir: RunDir,
    config: TrainConfig,
    world: World,
    index: ShardIndex,
    eval_index: ShardIndex | None,
) -> None:
    """Make the run's folder, with what the run depends on beside its settings."""
    made_with = environment() | {
        "processes": world.size,
        "clips": len(index),
        "index_fingerprint": index.fingerprint,
        "eval_index_fingerprint": eval_index.fingerprint if eval_index else None,
    }
    run_dir.begin(config, made_with)


def _agree_on_settings(config: TrainConfig, world: World) -> None:
    """Raise on all ranks where a setting differs that is not a place, or where some have no GPU."""
    world.agree(world.device.type, "kinds of device")
    settings = {n: v for n, v in to_json(config).items() if KINDS[n] is not Kind.PLACE}
    others = [json.loads(text) for text in world.messages(json.dumps(settings))]
    for name, value in settings.items():
        if any(other[name] != value for other in others):
            world.agree(str(value), f"settings of {name}")


def _prepare(
    config: TrainConfig, world: World
) -> tuple[ShardIndex, ShardIndex | None, dict[str, Any] | None]:
    """Find every mistake that can be found before the ranks depend on one another."""
    if not config.index:
        raise ConfigError("there is nothing to train on", where="index", fix="set --index SHARDS")
    check_dali()
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
    """The initial model. Other ranks get rank 0's weights, and a run that was begun its state's:
    these read no file."""
    if is_begun or not world.is_main:
        model = replace(config.model, initial_weights=RANDOM)
        return Start(build_model(model, len(index.classes)), config.model.initial_sha256)
    return first_tagger(
        config.model, index.classes, config.features, other_features=config.other_features
    )


def _room(learner: Learner, epochs: int) -> int:
    """Bytes that a run of so many epochs leaves: their checkpoints, and the states (at most three
    at a time)."""
    checkpoint, state = learner.saved_bytes()
    return epochs * checkpoint + 3 * state


def _say_what_would_be_done(found: dict[str, str], config: TrainConfig, world: World) -> None:
    if world.is_main:
        print("\n".join(f"{name:<16}{text}" for name, text in found.items()))
        print(f"wrote nothing to {config.run_dir}; next: the same command without --dry-run")


def _say_what_next(config: TrainConfig) -> None:
    last = epoch_path(config.run_dir, config.epochs)
    target = config.eval_index[0] if config.eval_index else "SHARDS"
    print(
        f"wrote {config.epochs} epochs to {config.run_dir} (last: {last}); next: "
        f"python -m eval.predict {config.run_dir} --index {target} --output P.npz"
    )
