"""A tiny tagger, whose scores depend on what it hears, and its checkpoint."""

from dataclasses import replace

import numpy as np
import torch

from psla_wds.features.config import FeatureConfig
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.checkpoint import Checkpoint
from psla_wds.models.config import ModelConfig

CLASSES = ClassList(("/t/0", "/t/1", "/t/2"), ("low", "middle, or so", "noise"))
FEATURES = FeatureConfig(num_frames=128, num_mels=64)
MODEL = ModelConfig(
    backbone="efficientnet-b0", head="single-head-attention", initial_weights="none"
)
RATE_HZ = FEATURES.sample_rate_hz


def tiny_checkpoint(seed: int = 0, **settings: object) -> Checkpoint:
    """As if it had been trained: BatchNorm knows its input, and no weight is plain."""
    torch.manual_seed(seed)
    config = replace(MODEL, **settings)
    model = AudioTagger(config, len(CLASSES))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    log_mel = torch.randn(4, FEATURES.num_frames, FEATURES.num_mels).cumsum(1) / 8
    with torch.no_grad():
        model(log_mel)
    return Checkpoint(model.state_dict(), config, FEATURES, CLASSES, epoch=2)


def sweep(length_s: float, *, rate_hz: int = RATE_HZ, seed: int = 0) -> np.ndarray:
    """Tones that rise, between noise: no two stretches of it are alike."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(length_s * rate_hz)) / rate_hz
    tone = np.sin(2 * np.pi * (200 + 300 * time_s) * time_s) * (time_s % 1 < 0.6)
    return (0.3 * tone + 0.05 * rng.standard_normal(len(time_s))).astype(np.float32)
