"""The definition of the features in torch, against torchaudio's."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.front_end import (
    assert_as_exact_as_torchaudio,
    assert_same_log_mel,
    kaldi_log_mel,
)
from reference.signals import OTHER_CONFIGS, SIGNALS, real_clips, white_noise

from benchmarks.torchaudio_import import kaldi
from psla_wds.features.config import FeatureConfig
from psla_wds.features.log_mel import LogMel, fit, mel_matrix, normalise

DEFAULT = FeatureConfig()


def as_float32(waveform: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(waveform.astype(np.float32))


@pytest.mark.parametrize("kind", SIGNALS)
def test_log_mel_equals_torchaudios_fbank(kind: str):
    waveform = as_float32(SIGNALS[kind](31_337))
    assert_same_log_mel(LogMel(DEFAULT)(waveform), kaldi_log_mel(waveform, DEFAULT))


@pytest.mark.parametrize("config", OTHER_CONFIGS.values(), ids=OTHER_CONFIGS)
def test_other_settings_equal_torchaudios_fbank_too(config: FeatureConfig):
    waveform = as_float32(white_noise(20_000))
    assert_same_log_mel(LogMel(config)(waveform), kaldi_log_mel(waveform, config))


@pytest.mark.parametrize("config", [DEFAULT, *OTHER_CONFIGS.values()], ids=str)
def test_the_mel_matrix_is_torchaudios(config: FeatureConfig):
    sizes = (config.num_mels, config.fft_size, config.sample_rate_hz)
    warp = {"vtln_low": 100.0, "vtln_high": -500.0, "vtln_warp_factor": 1.0}  # none
    theirs, _ = kaldi.get_mel_banks(*sizes, config.low_hz, config.high_hz, **warp)
    assert torch.equal(mel_matrix(config)[:, :-1], theirs)
    assert not mel_matrix(config)[:, -1].any()


def test_log_mel_of_real_clips_is_as_exact_as_torchaudios():
    for path in real_clips(24):
        waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        assert_as_exact_as_torchaudio(LogMel(DEFAULT)(waveform), waveform, DEFAULT)


@settings(max_examples=30)
@given(st.integers(1, 2_000))
def test_every_length_gives_at_least_a_frame(num_samples: int):
    waveform = as_float32(white_noise(num_samples))
    log_mel = LogMel(DEFAULT)(waveform)
    assert len(log_mel) == max((num_samples - 400) // 160 + 1, 1)
    assert_same_log_mel(log_mel, kaldi_log_mel(waveform, DEFAULT))


def test_a_batch_equals_its_clips():
    waveforms = torch.stack([as_float32(kind(8_000)) for kind in SIGNALS.values()])
    log_mel = LogMel(DEFAULT)
    torch.testing.assert_close(log_mel(waveforms), torch.stack([log_mel(w) for w in waveforms]))


def test_an_empty_filter_is_constant_at_the_floor():
    log_mel = LogMel(DEFAULT)(as_float32(white_noise()))
    assert (mel_matrix(DEFAULT).sum(1) == 0).nonzero().tolist() == [[3]]
    floor = torch.full_like(log_mel[:, 3], float(np.log(np.finfo(np.float32).eps)))
    torch.testing.assert_close(log_mel[:, 3], floor)


def test_padding_is_zero_before_normalisation():
    log_mel = normalise(fit(torch.full((2, 128), -4.6476), 5), DEFAULT)
    expected = [0.0, 0.0, 1.017, 1.017, 1.017]  # 4.6476 / 4.5699
    torch.testing.assert_close(log_mel[:, 0], torch.tensor(expected), rtol=0, atol=1e-3)


def test_a_long_clip_is_cut_to_what_its_frames_see():
    config = replace(DEFAULT, num_frames=10)
    waveform = as_float32(white_noise(5_000))
    kept = LogMel(config)(waveform[: config.max_clip_samples])
    assert len(kept) == 10
    torch.testing.assert_close(kept, fit(LogMel(config)(waveform), 10))
