"""A model in use: waveforms of any rate, length and number of channels to scores."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.official_model import OfficialEfficientNet, publish
from tiny_models import CLASSES, FEATURES, RATE_HZ, sweep, tiny_checkpoint

from psla_wds.audio.decode import resample
from psla_wds.errors import AudioError, CheckpointError, ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.features.log_mel import LogMel, fit, normalise
from psla_wds.models.checkpoint import Checkpoint, save_checkpoint
from psla_wds.models.epochs import epoch_path
from psla_wds.tagging.config import WindowConfig
from psla_wds.tagging.tagger import Tagger

WINDOW_SAMPLES = FEATURES.max_clip_samples
CELL_SAMPLES = 32 * FEATURES.hop_samples


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


@pytest.fixture(scope="module")
def tagger(checkpoint: Checkpoint) -> Tagger:
    return Tagger([checkpoint], batch_size=3, device="cpu")


def by_definition(checkpoint: Checkpoint, waveform: np.ndarray) -> np.ndarray:
    """Scores as evaluation gives them for a clip."""
    log_mel = fit(LogMel(FEATURES)(torch.from_numpy(waveform)), FEATURES.num_frames)
    with torch.inference_mode():
        return checkpoint.build()(normalise(log_mel, FEATURES)[None])[0].numpy()


def in_blocks(waveform: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (waveform[start : start + size] for start in range(0, len(waveform), size))


@pytest.mark.parametrize("num_samples", [1, 5_000, WINDOW_SAMPLES])
def test_a_short_recording_scores_as_in_evaluation(tagger, checkpoint, num_samples: int):
    waveform = sweep(2.0)[:num_samples]
    tags = tagger(waveform, RATE_HZ)
    np.testing.assert_allclose(tags.scores, by_definition(checkpoint, waveform), atol=1e-5)
    assert tags.scores.std() > 1e-3 and len(tags.window_scores) == 1
    assert len(tags.frame_scores) == min(max(1, -(-num_samples // CELL_SAMPLES)), 4)
    assert tags.duration_s == num_samples / RATE_HZ


def test_windows_begin_on_the_grid_of_frames(tagger, checkpoint):
    waveform = sweep(5.0)
    tags = tagger(waveform, RATE_HZ)
    assert tags.frame_s == pytest.approx(0.32)
    np.testing.assert_allclose(np.diff(tags.window_starts_s), 0.64)
    for start_s, scores in zip(tags.window_starts_s, tags.window_scores, strict=True):
        piece = waveform[round(start_s * RATE_HZ) :][:WINDOW_SAMPLES]
        np.testing.assert_allclose(scores, by_definition(checkpoint, piece), atol=1e-5)
    np.testing.assert_array_equal(tags.scores, tags.window_scores.max(axis=0))
    assert tags.window_ends_s[-1] == tags.duration_s == 5.0
    assert (np.diff(tags.window_scores, axis=0) != 0).all()


def test_frame_scores_of_overlapping_windows_are_averaged(checkpoint: Checkpoint):
    waveform = sweep(3.0)
    merged = Tagger([checkpoint], device="cpu")(waveform, RATE_HZ)
    apart = Tagger([checkpoint], device="cpu", windows=WindowConfig(overlap=0.0))
    sums, counts = np.zeros((10, 3)), np.zeros((10, 1))
    for cell in range(0, 8, 2):
        piece = waveform[cell * CELL_SAMPLES :][:WINDOW_SAMPLES]
        sums[cell : cell + 4] += apart(piece, RATE_HZ).frame_scores
        counts[cell : cell + 4] += 1
    assert len(merged.frame_scores) == 10
    np.testing.assert_allclose(merged.frame_scores, sums / counts, atol=1e-5)


@pytest.mark.parametrize("extra", [0, CELL_SAMPLES, CELL_SAMPLES + 1])
def test_what_fills_no_frame_gets_no_window(tagger: Tagger, extra: int):
    tags = tagger(sweep(2.0)[: WINDOW_SAMPLES + extra], RATE_HZ)
    assert len(tags.window_scores) == (1 if extra <= CELL_SAMPLES else 2)
    assert tags.window_ends_s[-1] == (WINDOW_SAMPLES + extra) / RATE_HZ


@pytest.mark.parametrize("size", [777])
def test_streams_that_share_batches_are_as_each_whole(tagger: Tagger, size: int):
    waveforms = [sweep(length, seed=i) for i, length in enumerate([0.3, 4.3, 0.01, 1.6])]
    windows = list(tagger.stream(in_blocks(waveform, size) for waveform in waveforms))
    many = list(tagger.many(waveforms, RATE_HZ))
    for number, (waveform, tags) in enumerate(zip(waveforms, many, strict=True)):
        own = [window for window in windows if window.recording == number]
        assert [w.is_last for w in own] == [False] * (len(own) - 1) + [True]
        frame_scores = np.concatenate([window.frame_scores for window in own])
        np.testing.assert_array_equal([w.scores for w in own], tags.window_scores)
        np.testing.assert_array_equal(frame_scores, tags.frame_scores)
        alone = tagger(waveform, RATE_HZ)
        np.testing.assert_allclose(alone.window_scores, tags.window_scores, atol=1e-5)
        np.testing.assert_allclose(alone.frame_scores, tags.frame_scores, atol=1e-5)
        np.testing.assert_array_equal([w.start_s for w in own], alone.window_starts_s)


# What a waveform can be.


@pytest.mark.parametrize(("rate_hz", "channels"), [(44_100, 2), (8_000, 1)])
def test_rates_and_channels_are_heard_as_when_packed(tagger, rate_hz: int, channels: int):
    mono = sweep(1.5, rate_hz=rate_hz)
    waveform = np.stack([mono * (1 - 0.1 * c) for c in range(channels)], axis=1)
    packed = np.concatenate(list(resample([waveform], rate_hz, RATE_HZ)))
    tags, expected = tagger(waveform, rate_hz), tagger(packed, RATE_HZ)
    np.testing.assert_array_equal(tags.window_scores, expected.window_scores)
    np.testing.assert_array_equal(tags.frame_scores, expected.frame_scores)


def test_arrays_and_tensors_of_many_types_are_taken(tagger: Tagger):
    pcm = np.round(sweep(0.5) * 32768).astype(np.int16)
    floats = torch.from_numpy(pcm / np.float32(32768))
    for same in (torch.from_numpy(pcm), floats, floats.double().numpy(), floats.requires_grad_()):
        assert np.array_equal(tagger(same, RATE_HZ).scores, tagger(pcm, RATE_HZ).scores)
    halved = floats.bfloat16()
    assert np.array_equal(tagger(halved, RATE_HZ).scores, tagger(halved.float(), RATE_HZ).scores)


@pytest.mark.parametrize(
    ("waveform", "rate_hz", "message"),
    [
        (np.zeros(0, np.float32), RATE_HZ, "no sample"),
        (np.zeros(1, np.float32), 48_000, "no sample is left"),
        (np.array([1e300]), RATE_HZ, "NaN or infinite"),
        (np.zeros((2, 16_000), np.float32), RATE_HZ, "not a waveform's"),
        (np.float32(0.5), RATE_HZ, "not a waveform's"),
        (np.zeros(9, np.complex64), RATE_HZ, "complex64"),
        (np.zeros(9, np.float32), float("nan"), "not a rate"),
    ],
)
def test_what_cannot_be_heard_is_one_error(tagger: Tagger, waveform, rate_hz, message: str):
    with pytest.raises(AudioError, match=message):
        tagger(waveform, rate_hz)


def test_what_is_odd_about_a_waveform_is_flagged(tagger: Tagger):
    sound = sweep(1.0)
    stereo = np.stack([sound, -sound], axis=1)
    waveforms = [sound, np.clip(9 * sound, -1, 1), 0 * sound, sound[:800], stereo, 1e-4 * sound]
    expected = [[], ["clipped"], ["digital-silence"], ["short"], ["channels-cancel"], ["silent"]]
    assert [list(tags.flags) for tags in tagger.many(waveforms, RATE_HZ)] == expected


def test_present_classes_reach_their_thresholds(tagger: Tagger):
    tags = tagger(sweep(0.5), RATE_HZ)
    with pytest.raises(ConfigError, match=r"no thresholds\n.*present.*\n.*psla-wds thresholds"):
        tags.present()
    above = np.nextafter(tags.scores, np.float32(2))
    for reached in ([True] * 3, [False] * 3, [True, False, True], [False, True, False]):
        known = replace(tags, thresholds=np.where(reached, tags.scores, above))
        expected = [row for row in tags.top(3) if reached[CLASSES.names.index(row[0])]]
        assert known.present() == expected


# Models.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "there is no model"),
        ({"features": FeatureConfig(num_frames=64)}, "other features"),
        ({"weights": {"head.classifier.bias": torch.full((3,), torch.nan)}}, "not finite"),
    ],
)
def test_models_that_cannot_be_used_are_one_error(checkpoint: Checkpoint, change, message: str):
    members = []
    if change is not None:
        weights = checkpoint.weights | change.pop("weights", {})
        members = [checkpoint, replace(checkpoint, weights=weights, **change)]
    with pytest.raises(CheckpointError, match=message):
        Tagger(members, device="cpu")(sweep(0.5), RATE_HZ)


def test_a_run_a_checkpoint_and_an_average_load(checkpoint: Checkpoint, tagger, tmp_path: Path):
    save_checkpoint(replace(checkpoint, epoch=1), epoch_path(tmp_path, 1))
    save_checkpoint(checkpoint, epoch_path(tmp_path, 2))
    save_checkpoint(checkpoint, tmp_path / "average.pt")
    waveform = sweep(0.5)
    for path in (tmp_path, str(tmp_path / "average.pt")):
        loaded = Tagger.load(path, device="cpu")
        assert loaded.classes == CLASSES and loaded.features == FEATURES
        scores = loaded(waveform, RATE_HZ).scores
        np.testing.assert_array_equal(scores, tagger(waveform, RATE_HZ).scores)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        Tagger.load(tmp_path / "nothing")


@pytest.mark.slow
def test_a_published_checkpoint_needs_a_class_list(tmp_path: Path):
    torch.manual_seed(0)
    path = publish(OfficialEfficientNet(0, len(CLASSES), num_heads=1), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="--class-labels"):
        Tagger.load(path)
    tagger = Tagger.load(path, classes=CLASSES, device="cpu")
    assert tagger.features == FeatureConfig() and tagger.layout.window_cells == 33
    assert tagger(sweep(0.5), RATE_HZ).top(2)[0][0] in CLASSES.names


# Settings.


@pytest.mark.parametrize(
    "settings",
    [
        {"windows": WindowConfig(window_s=2.0)},
        {"device": "gpu"},
        {"device": "meta"},
        {"batch_size": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(checkpoint: Checkpoint, settings: dict):
    with pytest.raises(ConfigError, match=r"window_s|device|batch_size"):
        Tagger([checkpoint], **settings)


@pytest.mark.slow
def test_shorter_windows_are_padded_as_in_training(checkpoint: Checkpoint):
    waveform = sweep(2.0)
    tagger = Tagger([checkpoint], windows=WindowConfig(window_s=1.0, overlap=0.0), device="cpu")
    tags = tagger(waveform, RATE_HZ)
    assert tagger.layout.window_cells == 3 and tags.window_starts_s[1] == pytest.approx(0.96)
    piece = waveform[: 99 * 160 + 400]
    np.testing.assert_allclose(tags.window_scores[0], by_definition(checkpoint, piece), atol=1e-5)


ELSEWHERE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nvidia", "fcntl", "resource", "pwd", "grp", "termios"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
import os
for name in ("sched_getaffinity", "pread", "posix_fadvise", "fork"):
    vars(os).pop(name, None)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules.pop(name, None)

import numpy as np
from psla_wds import Tagger
tags = Tagger.load(sys.argv[1], device="cpu")(np.zeros((30_000, 2), np.float32), 22_050)
print(tags.top(1)[0][0])
"""


@pytest.mark.slow
def test_it_runs_without_dali_and_linux(checkpoint: Checkpoint, tmp_path: Path):
    save_checkpoint(checkpoint, tmp_path / "c.pt")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "c.pt")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in CLASSES.names
