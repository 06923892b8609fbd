"""Figures of runs: what they show, and the command that writes them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, not_evaluated, step_line, write_run

from eval.figures import Args, log_figures, main, score_figures
from eval.pages.figures import (
    changes_figure,
    class_counts_figure,
    count_draws,
    learning_curve,
    plan_figures,
)
from eval.run_settings import TrainingSet, find_training_set, open_training_set
from psla_wds.config import to_json
from psla_wds.errors import ConfigError, PslaError
from psla_wds.sampling.augment import augmented_draws
from psla_wds.sampling.plan import plan_epoch
from train.recipes import DEMO
from train.run.log import Run, read_run

EPOCHS, BATCH = 3, 5


def run_of(folder: Path, maps: list[float | None], **config: object) -> Run:
    lines = [step_line(50), *(epoch_line(i, map_=m) for i, m in enumerate(maps, 1))]
    return read_run(write_run(folder, lines, **config))


def test_seeds_have_a_mean_where_all_were_evaluated(tmp_path: Path):
    maps = ([0.1, 0.2, 0.3], [0.2, None, 0.4], [0.3, 0.4])
    runs = [run_of(tmp_path / f"{i}", m, seed=i, epochs=3) for i, m in enumerate(maps)]
    curve, *_ = log_figures(runs)
    band, *each, mean = curve.marks
    assert mean.name == "mean of 3 runs" and mean.x == [1, 2, 3]
    assert mean.y[0] == pytest.approx(0.2) and all(map(math.isnan, mean.y[1:]))
    assert (band.low[0], band.high[0]) == (0.1, 0.3) and len(each) == 3
    assert "mAP 0.2000 after epoch 1, standard deviation 0.1000 over 3 runs." in curve.note
    assert curve.note.endswith("Not done: 2: epoch 2 of 3.")
    assert "nan" not in curve.element()


def test_one_run_has_its_curve_and_no_spread(tmp_path: Path):
    curve = learning_curve([run_of(tmp_path / "run", [0.1, 0.3, 0.2])])
    assert len(curve.marks) == 1
    assert curve.note == "mAP 0.2000 after epoch 3, best 0.3000 after epoch 2."


def test_a_run_without_evaluation_has_no_learning_curve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    silent = read_run(write_run(tmp_path / "silent", [step_line(50), not_evaluated(1)], seed=2))
    names = [figure.name for figure in log_figures([silent])]
    assert names == ["loss", "learning-rate", "data-wait"]
    assert "was not evaluated while it trained" in caplog.text
    with pytest.raises(ConfigError, match="needs runs that were evaluated"):
        log_figures([run_of(tmp_path / "run", [0.1], seed=1), silent])
    assert score_figures(silent) == [] and "python -m eval.predict" in caplog.text


def test_counts_of_classes_name_the_ends_and_the_empty():
    counts = np.array([1000, 999, 998, 10, 0])
    figure = class_counts_figure(counts, ["Music", "Speech", "Vehicle", "Toothbrush", "Empty"])
    _, names = figure.marks
    assert (names.titles[0], names.titles[-1]) == ("Music", "Toothbrush")
    assert "100 times" in figure.note and "1 classes have none" in figure.note


def test_changes_are_drawn_without_intervals_too():
    figure = changes_figure(np.array([0.1, np.nan, -0.2]), np.full((2, 3), np.nan), "other")
    _, line = figure.marks
    assert line.y == [0.1, -0.2] and "1 of 2 classes gain" in figure.note


@pytest.fixture(scope="module")
def run_folder(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the training split, by its configuration and its log; nothing was trained."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    specs = (f"{shards}:train",)
    config = replace(DEMO, index=specs, run_dir=folder, epochs=EPOCHS, batch_size=BATCH, seed=3)
    lines = [epoch_line(epoch, step=epoch * (36 // BATCH)) for epoch in (1, 2)]
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


def test_figures_of_plans_show_mixup_only_where_it_is(data: TrainingSet):
    counts, draws, unseen = plan_figures(data)
    names = [figure.name for figure in (counts, draws, unseen)]
    assert names == ["class-counts", "class-draws", "unseen"]
    assert draws.legend[1].name == "this run: balanced"
    assert len(unseen.legend) == 2 and "neither drawn nor mixed in" in unseen.note
    alone = replace(data.config, augment=replace(data.config.augment, mixup_rate=0.0))
    without = plan_figures(TrainingSet(data.index, alone))[-1]
    assert not without.legend and "mixed" not in without.note


def test_other_shards_than_those_of_the_run_are_refused(
    run_folder: Path, shards: Path, data: TrainingSet
):
    run = read_run(run_folder)
    with pytest.raises(ConfigError, match="12 clips give 2 an epoch"):
        find_training_set(run, (f"{shards}:eval",))
    for fingerprint, is_same in ((data.index.fingerprint, True), ("another", False)):
        marked = replace(run, made_with={"index_fingerprint": fingerprint})
        assert (find_training_set(marked) is not None) == is_same
        student = replace(marked, config=replace(marked.config, distill=Path("scores")))
        assert find_training_set(student) is not None  # its fingerprint has the teacher in it


def test_shards_that_are_gone_are_a_warning(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = read_run(run_folder)
    gone = replace(run, config=replace(run.config, index=(str(tmp_path / "gone"),)))
    assert find_training_set(gone) is None
    assert "figures of the training clips are left out" in caplog.text
    remote = replace(run, config=replace(run.config, index=("s3://bucket/shards",)))
    assert find_training_set(remote) is None  # a report must not wait for a network


def test_figures_need_a_run_and_a_new_folder(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no run"):
        Args((), tmp_path / "new")
    with pytest.raises(ConfigError, match="something is there already"):
        Args((tmp_path,), tmp_path)


def test_the_command_writes_figures_and_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    run = write_run(tmp_path / "run", [step_line(50), epoch_line(1)], epochs=1)
    words = ["figures", str(run), "--no-plans"]
    monkeypatch.setattr("sys.argv", [*words, f"--output={tmp_path / 'figures'}"])
    main()
    numbers = json.loads((tmp_path / "figures" / "figures.json").read_text())
    assert list(numbers) == ["learning-curve", "loss", "learning-rate", "data-wait"]
    assert all((tmp_path / "figures" / f"{name}.svg").exists() for name in numbers)
    assert "data" not in [record.name for record in caplog.records]  # which looks for the shards
    monkeypatch.setattr("sys.argv", [*words, f"--output={run / 'log.jsonl' / 'figures'}"])
    with pytest.raises(PslaError, match="cannot write the figures: Not a directory"):
        main()
