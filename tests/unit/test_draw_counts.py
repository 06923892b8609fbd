"""What a run's plans draw: counted here one draw at a time, and what the report makes of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, write_run

from eval.data_audit import audit, find_training_set
from eval.draw_counts import count_draws, plan_figures
from eval.run_settings import TrainingSet, open_training_set
from psla_wds.config import to_json
from psla_wds.errors import ConfigError
from psla_wds.evaluation.scores import Scores
from psla_wds.sampling.augment import augmented_draws
from psla_wds.sampling.plan import plan_epoch
from train.recipes import DEMO
from train.run.log import read_run

EPOCHS, BATCH = 3, 5


@pytest.fixture(scope="module")
def run_folder(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the training split, by its configuration and its log; nothing was trained."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    specs = (f"{shards}:train",)
    config = replace(DEMO, index=specs, run_dir=folder, epochs=EPOCHS, batch_size=BATCH, seed=3)
    steps = 36 // BATCH
    lines = [json.dumps({"event": "damaged", "step": 1, "clip_id": "clip.001"})]
    lines += [epoch_line(epoch, step=epoch * steps) for epoch in (1, 2)]
    return write_run(folder, lines, **to_json(config))


@pytest.fixture(scope="module")
def data(run_folder: Path) -> TrainingSet:
    return open_training_set(read_run(run_folder))


def test_draws_are_those_that_training_gets(data: TrainingSet):
    index, settings = data.index, data.config
    of_class, seen, mixed_in = np.zeros(len(index.classes), int), set(), set()
    found = count_draws(data)
    for epoch in range(1, EPOCHS + 1):
        plan = plan_epoch(index, settings.sampler, seed=3, epoch=epoch)
        used = len(index) // BATCH * BATCH  # the last draws fill no batch
        draws = augmented_draws(
            plan, settings.augment, (0, used), num_clips=len(index), log_mel_shape=(256, 128)
        )
        for row in draws.rows:
            of_class[index.labels(row)] += 1
        seen |= set(draws.rows.tolist())
        mixed_in |= set(draws.partners[draws.mixed].tolist())
        assert found.unseen[epoch] == pytest.approx(1 - len(seen) / len(index))
        both = len(seen | mixed_in)
        assert found.unseen_with_partners[epoch] == pytest.approx(1 - both / len(index))
    assert found.of_class.tolist() == of_class.tolist()
    assert mixed_in and found.unseen[0] == found.unseen_with_partners[0] == 1


def test_figures_of_the_plans_say_what_is_drawn(data: TrainingSet):
    counts, draws, unseen = plan_figures(data)
    assert [figure.name for figure in (counts, draws, unseen)] == [
        "class-counts", "class-draws", "unseen",
    ]  # fmt: skip
    assert [series.name for series in draws.legend] == [
        "each clip once an epoch",
        "this run: balanced",
    ]
    assert "neither drawn nor mixed in" in unseen.note
    alone = replace(data.config, augment=replace(data.config.augment, mixup_rate=0.0))
    without = plan_figures(TrainingSet(data.index, alone))[-1]
    assert not without.legend and "mixed" not in without.note


def test_other_shards_than_those_of_the_run_are_refused(run_folder: Path, shards: Path):
    run = read_run(run_folder)
    with pytest.raises(ConfigError, match="12 clips give 2 an epoch"):
        open_training_set(run, (f"{shards}:eval",))
    with pytest.raises(ConfigError, match="the shards have changed since"):
        find_training_set(run, (f"{shards}:eval",))


def test_shards_that_were_built_anew_are_told_by_their_fingerprint(data: TrainingSet, run_folder):
    run = read_run(run_folder)
    for fingerprint, is_same in ((data.index.fingerprint, True), ("another", False)):
        made_with = {"index_fingerprint": fingerprint}
        told = replace(run, made_with=made_with)
        assert (find_training_set(told, ()) is not None) == is_same
        student = replace(told, config=replace(told.config, distill=Path("scores")))
        assert find_training_set(student, ()) is not None  # its fingerprint has the teacher in it


def test_shards_that_are_gone_are_a_warning_unless_they_were_named(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = read_run(run_folder)
    gone = replace(run, config=replace(run.config, index=(str(tmp_path / "gone"),)))
    assert find_training_set(gone, ()) is None
    assert "nothing is told of the training clips" in caplog.text
    remote = replace(run, config=replace(run.config, index=("s3://bucket/shards",)))
    assert find_training_set(remote, ()) is None  # nobody waits for a network


def test_the_audit_knows_clips_in_both_sets_and_what_was_refused(
    data: TrainingSet, run_folder: Path, tmp_path: Path
):
    index = data.index
    ids = ("elsewhere", index.clip_id(0), index.clip_id(7))
    targets = np.eye(4, dtype=np.uint8)[:3]
    mids = index.classes.mids
    scores = Scores(ids, targets.astype(np.float32), targets, mids, index.classes.names)
    (tmp_path / "rejected.jsonl").write_text(
        '{"clip_id": "a", "reason": "missing"}\n{"clip_id": "b", "reason": "silent"}\n'
        '{"clip_id": "c", "reason": "missing"}\n'
    )
    covered = {"splits": {"train": {"listed": 40, "missing": 2, "refused": 1}}, "classes": []}
    (tmp_path / "coverage.json").write_text(json.dumps(covered))
    found = audit(data, scores, read_run(run_folder), (f"{tmp_path}:train",))
    assert found.clips == 36 and found.in_both == 2 and found.damaged == ("clip.001",)
    assert [(split.name, split.clips) for split in found.splits] == [("train", 36)]
    assert found.hours == pytest.approx(index.num_samples.sum() / 16_000 / 3600)
    (refused,) = found.refused
    assert (refused.listed, refused.reasons) == (40, {"missing": 2, "silent": 1})
    (tmp_path / "rejected.jsonl").write_text("{")  # the build's, not the report's
    assert audit(data, scores, read_run(run_folder), (str(tmp_path),)).refused[0].clips == 0


def test_classes_that_were_scored_and_never_trained_are_told(data: TrainingSet, run_folder: Path):
    kept = np.flatnonzero([0 not in data.index.labels(row) for row in range(len(data.index))])
    without = TrainingSet(data.index.select(kept, "without class 0"), data.config)
    targets = np.eye(4, dtype=np.uint8)
    classes = data.index.classes
    scores = Scores(tuple("abcd"), targets.astype(np.float32), targets, classes.mids, classes.names)
    found = audit(without, scores, read_run(run_folder), ())
    assert found.without_training_clips == (classes.names[0],) and found.in_both == 0
    assert found.fewest[0] == (classes.names[0], 0)
