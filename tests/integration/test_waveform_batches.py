"""Waveforms for any framework: the draws of training, and what becomes of damaged clips."""

import io
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

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
    [
        AugmentConfig(freq_mask=0, time_mask=0),
        AugmentConfig(freq_mask=0, time_mask=0, gain_db=6.0, time_roll=0.5),
    ],
    ids=["paper", "gain and roll"],
)
def test_waveforms_are_those_of_training_in_its_order(index: ShardIndex, augment: AugmentConfig):
    config = LoaderConfig(augment=augment, features=FEATURES, device="cpu")
    waveforms_config = replace(WAVEFORMS, augment=augment)
    log_mel = LogMel(FEATURES)
    with training_waveforms(index, batch_size=8, config=waveforms_config, first_step=2) as batches:
        decoded = [batch for _ in range(2) for batch in batches]
    assert [len(batch.waveforms) for batch in decoded] == [8] * 6
    with training_batches(index, batch_size=8, config=config, first_step=2) as batches:
        of_training = [batch for _ in range(2) for batch in batches]
    for ours, trained in zip(decoded, of_training, strict=True):
        waveforms, targets = ours.mixed()
        assert ours.draws.rows.tolist() == trained.rows.tolist()
        assert torch.equal(torch.from_numpy(targets), trained.targets)
        features = [fit(log_mel(torch.from_numpy(waveform)), 64) for waveform in waveforms]
        difference = normalise(torch.stack(features), FEATURES) - trained.log_mel
        assert difference.abs().max() < 5e-3
    assert any(batch.draws.mixed.any() for batch in decoded)


def test_masks_of_waveforms_are_those_of_training(index: ShardIndex):
    with training_batches(index, batch_size=8, config=CONFIG) as batches:
        trained = next(iter(batches))
    with training_waveforms(index, batch_size=8, config=WAVEFORMS) as batches:
        masks = next(iter(batches)).draws.masks
    masked = -FEATURES.mean / FEATURES.std
    for spectrogram, (mel, num_mels, frame, num_frames) in zip(trained.log_mel, masks, strict=True):
        assert (spectrogram[:, mel : mel + num_mels] == masked).all()
        assert (spectrogram[frame : frame + num_frames] == masked).all()
    assert masks[:, [1, 3]].sum() > 0


def test_waveforms_are_what_soundfile_decodes(index: ShardIndex):
    with evaluation_waveforms(index, batch_size=10, config=WAVEFORMS) as batches:
        batches = list(batches)
    assert [len(batch.waveforms) for batch in batches] == [10, 10, 10, 6]
    clip_ids = [clip_id for batch in batches for clip_id in batch.clip_ids]
    assert clip_ids == [index.clip_id(row) for row in range(len(index))]
    for batch in batches:
        assert np.array_equal(batch.targets, index.targets(batch.draws.rows))
        for row, waveform in zip(batch.draws.rows, batch.waveforms, strict=True):
            tar, start = index.shards[index.shard[row]].read_bytes(), index.offset[row]
            encoded = tar[start : start + index.size[row]]
            expected, _ = soundfile.read(io.BytesIO(encoded), dtype="float32")
            assert np.array_equal(waveform, expected)


def damage(index: ShardIndex, row: int) -> None:
    """Bytes that are no audio, and the checksum of them: what reading cannot find."""
    noise = bytes(index.size[row])
    with index.shards[index.shard[row]].open("r+b") as shard:
        shard.seek(index.offset[row])
        shard.write(noise)
    index.crc32[row] = zlib.crc32(noise)


@pytest.fixture
def damaged(shards: Path, tmp_path: Path) -> ShardIndex:
    """Row 30 cannot be decoded."""
    index = open_indexes([str(shutil.copytree(shards, tmp_path / "copy"))])
    index = index.select(np.arange(len(index)), "in memory, so that it can be changed")
    damage(index, 30)
    return index


def test_an_evaluation_names_a_clip_that_cannot_be_decoded(damaged: ShardIndex):
    reader = ReaderConfig(max_damaged=1)  # of training: an evaluation has no other clip to take
    for opened in (
        evaluation_waveforms(damaged, batch_size=8, config=WaveformConfig(reader=reader)),
        evaluation_batches(damaged, batch_size=8, config=replace(CONFIG, reader=reader)),
    ):
        with opened as batches, pytest.raises(PslaError, match="cannot be decoded") as caught:
            list(batches)
        assert damaged.clip_id(30) in str(caught.value)


def test_training_replaces_clips_that_cannot_be_decoded_and_lists_them(damaged: ShardIndex):
    sampler, reader = SamplerConfig(sampling="shuffle"), ReaderConfig(max_damaged=1)
    config = replace(CONFIG, sampler=sampler, reader=reader)
    waveforms = replace(WAVEFORMS, sampler=sampler, reader=reader)
    rows = []
    for opened in (
        training_batches(damaged, batch_size=8, config=config),
        training_waveforms(damaged, batch_size=8, config=waveforms),
    ):
        with opened as batches:
            for batch in batches:
                rows += (batch.rows if isinstance(batch, Batch) else batch.draws.rows).tolist()
            assert list(batches.damaged) == [damaged.clip_id(30)]
    assert len(rows) == 2 * 48 and 30 not in rows
    assert rows[:48] == rows[48:]
