"""Waveforms for any framework: the draws of training, and what becomes of damaged clips."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from damaged_clips import undecodable

from psla_wds import (
    AugmentConfig,
    Batch,
    FeatureConfig,
    LoaderConfig,
    PslaError,
    ReaderConfig,
    SamplerConfig,
    ShardIndex,
    WaveformConfig,
    evaluation_batches,
    evaluation_waveforms,
    open_indexes,
    training_batches,
    training_waveforms,
)
from psla_wds.features.log_mel import LogMel, fit, normalise

FEATURES = FeatureConfig(num_frames=64)
READER = ReaderConfig(threads=2, decode_threads=1)
CONFIG = LoaderConfig(features=FEATURES, reader=READER, device="cpu")
WAVEFORMS = WaveformConfig(reader=READER, log_mel_shape=(64, 128))


@pytest.fixture(scope="module")
def index(shards: Path) -> ShardIndex:
    return open_indexes([f"{shards}:train"])


@pytest.mark.parametrize(
    "augment",
    [AugmentConfig(crop="start"), AugmentConfig(), AugmentConfig(gain_db=6.0, time_roll=0.5)],
    ids=["start", "random", "gain and roll"],
)
def test_waveforms_are_those_of_training_in_its_order(index: ShardIndex, augment: AugmentConfig):
    config, waveforms_config = (replace(c, augment=augment) for c in (CONFIG, WAVEFORMS))
    options = {"batch_size": 8, "first_step": 2}
    with training_waveforms(index, config=waveforms_config, **options) as batches:
        decoded = [batch for _ in range(2) for batch in batches]
    with training_batches(index, config=config, **options) as batches:
        of_training = [batch for _ in range(2) for batch in batches]
    assert [len(batch.waveforms) for batch in decoded] == [8] * 6
    assert any(batch.draws.mixed.any() for batch in decoded)
    log_mel = LogMel(FEATURES)
    for ours, trained in zip(decoded, of_training, strict=True):
        waveforms, targets = ours.mixed()
        assert ours.draws.rows.tolist() == trained.rows.tolist()
        lengths = [len(waveform) for waveform in waveforms]
        whole = [len(waveform) for waveform in ours.waveforms]
        assert max(whole) > FEATURES.max_clip_samples
        longest = max(whole) if augment.crop == "start" else FEATURES.max_clip_samples
        assert lengths == [min(length, longest) for length in whole]
        assert ours.clip_ids == tuple(index.clip_id(row) for row in trained.rows)
        assert torch.equal(torch.from_numpy(targets), trained.targets)
        features = torch.stack([fit(log_mel(torch.from_numpy(w)), 64) for w in waveforms])
        for of_clip, masks in zip(features, ours.draws.masks, strict=True):
            mel, num_mels, frame, num_frames = masks
            of_clip[:, mel : mel + num_mels] = of_clip[frame : frame + num_frames] = 0
        assert (normalise(features, FEATURES) - trained.log_mel).abs().max() < 5e-3


def test_waveforms_are_what_soundfile_decodes(index: ShardIndex):
    with evaluation_waveforms(index, batch_size=10, config=WAVEFORMS) as batches:
        batches = list(batches)
    assert [len(batch.waveforms) for batch in batches] == [10, 10, 10, 6]
    rows = [row for batch in batches for row in batch.draws.rows.tolist()]
    assert rows == list(range(len(index)))
    for batch in batches:
        assert np.array_equal(batch.targets, index.targets(batch.draws.rows))
        for row, waveform in zip(batch.draws.rows, batch.waveforms, strict=True):
            tar, start = index.shards[index.shard[row]].read_bytes(), index.offset[row]
            encoded = tar[start : start + index.size[row]]
            expected, _ = soundfile.read(io.BytesIO(encoded), dtype="float32")
            assert np.array_equal(waveform, expected)


@pytest.fixture
def damaged(shards: Path, tmp_path: Path) -> ShardIndex:
    """Row 30 cannot be decoded."""
    return undecodable(open_indexes([str(shutil.copytree(shards, tmp_path / "copy"))]), 30)


def test_an_evaluation_names_a_clip_that_cannot_be_decoded(damaged: ShardIndex):
    reader = ReaderConfig(max_damaged=1)  # of training: an evaluation has no other clip to take
    for opened in (
        evaluation_waveforms(damaged, batch_size=8, config=WaveformConfig(reader=reader)),
        evaluation_batches(damaged, batch_size=8, config=replace(CONFIG, reader=reader)),
    ):
        with opened as batches, pytest.raises(PslaError, match="cannot be decoded") as caught:
            list(batches)
        assert damaged.clip_id(30) in str(caught.value)


def test_training_replaces_clips_that_cannot_be_decoded(damaged: ShardIndex):
    changes = {
        "sampler": SamplerConfig(sampling="shuffle"),
        "reader": ReaderConfig(max_damaged=1),
    }
    rows = []
    for opened in (
        training_batches(damaged, batch_size=8, config=replace(CONFIG, **changes)),
        training_waveforms(damaged, batch_size=8, config=replace(WAVEFORMS, **changes)),
    ):
        with opened as batches:
            for batch in batches:
                rows += (batch.rows if isinstance(batch, Batch) else batch.draws.rows).tolist()
            assert list(batches.damaged) == [damaged.clip_id(30)]
    assert len(rows) == 2 * 48 and 30 not in rows
    assert rows[:48] == rows[48:]
