"""docs/own_data.md, word by word: its commands, on generated clips, in the order of the page."""

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import run
from pages import ROOT, Command, commands_of

from psla_wds.features.config import FeatureConfig
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.checkpoint import Checkpoint, save_checkpoint
from psla_wds.models.config import ModelConfig

PAGE = ROOT / "docs" / "own_data.md"
CLASSES = ("dog", "rain", "siren")
CLIPS_PER_CLASS = 50
SMALL = ["--model.backbone=efficientnet-b0", "--features.num-frames=64"]
SMALL += ["--augment.time-mask=16", "--model.batch-norm-momentum=0.1"]
"""What the page says to add for a checkpoint of another network, and for short clips; and for a
trunk whose BatchNorm, unlike a trained one's, knows no statistics yet."""


def write_clips(folder: Path) -> None:
    """Clips of 0.6 s: a folder per class, whose sounds differ."""
    rng = np.random.default_rng(0)
    time_s = np.arange(9600) / 16_000
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for clip in range(CLIPS_PER_CLASS):
            pitch_hz = 300 * 4**number * rng.uniform(0.9, 1.1)
            waveform = 0.3 * np.sin(2 * np.pi * pitch_hz * time_s)
            noise = 0.01 * rng.standard_normal(len(time_s))
            soundfile.write(folder / name / f"{clip}.wav", waveform + noise, 16_000)


def write_checkpoint(path: Path) -> None:
    """A tagger of other classes."""
    torch.manual_seed(0)
    model = ModelConfig(backbone="efficientnet-b0", batch_norm_momentum=0.1, initial_weights="none")
    classes = ClassList(tuple("abcde"), tuple("abcde"))
    weights = AudioTagger(model, len(classes)).state_dict()
    save_checkpoint(Checkpoint(weights, model, FeatureConfig(), classes, epoch=30), path)


def as_run(command: Command, checkpoint: Path) -> list[str]:
    """The command of the page, with its placeholder filled in, and small."""
    words = [str(checkpoint) if word == "CHECKPOINT" else word for word in command.words]
    small = SMALL if words[1] == "train" else []
    return [sys.executable, "-m", "psla_wds", *words[1:], *small]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_newcomer_gets_from_files_to_a_report(tmp_path: Path):
    write_clips(tmp_path / "my_clips")
    write_checkpoint(tmp_path / "trained.pt")
    commands = commands_of(PAGE)
    assert len(commands) >= 11
    for command in commands:
        done = run(as_run(command, tmp_path / "trained.pt"), cwd=tmp_path)
        print(f"$ {shlex.join(command.words)}\n{done.stdout[-300:]}")
    metrics = json.loads((tmp_path / "runs" / "mine" / "metrics.json").read_text())
    assert 20 <= metrics["clips"] <= 40  # a fifth
    assert {row["name"] for row in metrics["per_class"]} == set(CLASSES)
    assert metrics["mAP"] > 0.6
    assert (tmp_path / "runs" / "mine" / "report.html").stat().st_size > 5000
    config = json.loads((tmp_path / "runs" / "mine" / "config.json").read_text())
    assert config["model"]["initial_sha256"]
    tagged = (tmp_path / "tags.csv").read_text()
    assert all(f"{clip}.wav" in tagged for clip in range(CLIPS_PER_CLASS)) and ",rain," in tagged
