"""Figures of runs: their content, and the command that writes them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, not_evaluated, step_line, write_run

from eval.figures import main
from eval.pages.figures import (
    class_counts_figure,
    count_draws,
    learning_curve,
    log_figures,
    plan_figures,
    score_figures,
)
from eval.pages.runs import TrainingSet, check_seeds, find_training_set, open_training_set
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
    assert curve.note.endswith("Not done: 2: epoch 2 of 3.") and "nan" not in curve.element()
    alone = learning_curve([run_of(tmp_path / "run", [0.1, 0.3, 0.2])])
    assert len(alone.marks) == 1
    assert alone.note == "mAP 0.2000 after epoch 3, best 0.3000 after epoch 2."


def test_seeds_may_differ_in_speed_but_not_in_method(tmp_path: Path):
    speed = {"max_bad_steps": 3, "accumulate": 2, "reader": {"threads": 2}, "wandb": "p"}
    first = run_of(tmp_path / "0", [0.1], seed=0)
    check_seeds([first, run_of(tmp_path / "1", [0.1], seed=1, **speed)])
    with pytest.raises(ConfigError, match="epochs: 30, 2"):
        check_seeds([first, run_of(tmp_path / "2", [0.1], epochs=2)])


def test_a_run_without_evaluation_has_no_learning_curve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    lines = [step_line(50), step_line(100), not_evaluated(1)]
    silent = read_run(write_run(tmp_path / "silent", lines, seed=2))
    names = [figure.name for figure in log_figures([silent])]
    assert names == ["loss", "learning-rate", "data-wait"]
    assert "was not evaluated while it trained" in caplog.text
    with pytest.raises(ConfigError, match="needs runs that were evaluated"):
        log_figures([run_of(tmp_path / "run", [0.1], seed=1), silent])
    assert score_figures(silent) == [] and "psla-wds predict" in caplog.text


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on the training split, by its configuration and its log; nothing was trained."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    specs = (f"{shards}:train",)
    config = replace(DEMO, index=specs, run_dir=folder, epochs=EPOCHS, batch_size=BATCH, seed=3)
    lines = [epoch_line(epoch, step=epoch * (36 // BATCH)) for epoch in (1, 2)]
    return read_run(write_run(folder, lines, **to_json(config)))


def test_counted_draws_are_those_of_training(run: Run):
    data = open_training_set(run)
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
    *_, unseen = plan_figures(data)
    assert len(unseen.legend) == 2 and "neither drawn nor mixed in" in unseen.note
    alone = replace(settings, augment=replace(settings.augment, mixup_rate=0.0))
    *_, unseen = plan_figures(TrainingSet(index, alone))
    assert not unseen.legend and "mixed" not in unseen.note
    counts = class_counts_figure(np.array([1000, 10, 0]), ["Music", "Brush", "None"])
    assert "100 times" in counts.note and "1 classes have none" in counts.note


def test_only_the_shards_of_the_run_are_used(
    run: Run, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(ConfigError, match="12 clips give 2 steps per epoch"):
        find_training_set(run, (f"{shards}:eval",))
    for fingerprint in (open_training_set(run).index.fingerprint, "another"):
        marked = replace(run, made_with={"index_fingerprint": fingerprint})
        assert (find_training_set(marked) is None) == (fingerprint == "another")
        student = replace(marked, config=replace(marked.config, distill=Path("scores")))
        assert find_training_set(student) is not None  # its fingerprint covers the teacher too
    for place in (str(tmp_path / "gone"), "s3://bucket/shards"):
        assert find_training_set(replace(run, config=replace(run.config, index=(place,)))) is None
    assert "figures of the training clips are left out" in caplog.text


def test_the_command_writes_figures_and_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = [step_line(50), epoch_line(1, train_loss=None), step_line(100), epoch_line(2)]
    run = write_run(tmp_path / "run", lines, epochs=2)
    words = ["figures", str(run), "--no-plans"]
    monkeypatch.setattr("sys.argv", [*words, f"--output={tmp_path / 'figures'}"])
    main()
    numbers = json.loads((tmp_path / "figures" / "figures.json").read_text())
    assert list(numbers) == ["learning-curve", "loss", "learning-rate", "data-wait"]
    assert numbers["loss"]["marks"][1]["y"] == [None, 0.4]  # strict JSON
    assert all((tmp_path / "figures" / f"{name}.svg").exists() for name in numbers)
    monkeypatch.setattr("sys.argv", [*words, f"--output={run / 'log.jsonl' / 'figures'}"])
    with pytest.raises(PslaError, match="cannot write the figures: File exists"):
        main()
