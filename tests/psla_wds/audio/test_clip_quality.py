"""What is wrong with a waveform: too quiet, clipped, up-sampled."""

import numpy as np
import pytest
import soxr
from reference.tones import sine

from psla_wds.audio.encode import to_pcm
from psla_wds.audio.quality import Levels, Spectrum, is_clipped, level_dbfs

RATE_HZ = 16_000


def as_packed(waveform: np.ndarray) -> np.ndarray:
    """Rounded to 16 bits, as clips in shards are."""
    return to_pcm(waveform.astype(np.float32)).astype(np.float32) / 32768


def noise(rate_hz: int, slope: float = 0.0) -> np.ndarray:
    waveform = np.random.default_rng(0).normal(0, 0.1, 4 * rate_hz)
    if slope:
        spectrum = np.fft.rfft(waveform)
        spectrum[1:] /= np.arange(1, len(spectrum)) ** slope
        waveform = np.fft.irfft(spectrum, len(waveform))
    return 0.3 * waveform / np.abs(waveform).max()


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 12_000])
def test_up_sampled_audio_has_an_edge_of_its_band(rate_hz: int):
    up_sampled = as_packed(soxr.resample(noise(rate_hz), rate_hz, RATE_HZ))
    spectrum = Spectrum.of(up_sampled, RATE_HZ)
    assert spectrum.bandwidth_hz() == pytest.approx(rate_hz / 2, rel=0.1)
    assert spectrum.likely_rate_hz() == rate_hz


@pytest.mark.parametrize(
    "waveform",
    [
        noise(RATE_HZ),
        noise(RATE_HZ, 1.0),
        noise(RATE_HZ, 3.0),  # fades below the rounding, but slowly
        soxr.resample(noise(48_000), 48_000, RATE_HZ),
        np.zeros(RATE_HZ),
        noise(RATE_HZ)[:100],
    ],
    ids=["white", "pink", "steep", "down-sampled", "silent", "very short"],
)
def test_other_audio_keeps_its_rate(waveform: np.ndarray):
    assert Spectrum.of(as_packed(waveform), RATE_HZ).likely_rate_hz() == RATE_HZ


def test_samples_in_a_row_at_full_scale_are_clipping():
    loud = 3 * sine(RATE_HZ, 440.0)
    assert is_clipped(as_packed(loud)) and is_clipped(as_packed(-loud))
    assert not is_clipped(as_packed(loud / 1.51))
    touched = np.zeros(100, np.float32)
    touched[[10, 12, 50, 51]] = 1
    assert not is_clipped(as_packed(touched))
    assert not is_clipped(np.zeros(2, np.float32))


def test_level_is_the_sounds_and_not_an_offsets():
    quiet = sine(RATE_HZ, 100.0).astype(np.float32)
    assert level_dbfs(quiet + 0.3) == pytest.approx(-9.03, abs=0.01)
    assert level_dbfs(np.full(100, 0.5, np.float32)) < -100


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("samples", "flags"),
    [
        ([0.5, 1, 1, 1, 0.5], {"clipped"}),
        ([0.5, -1, -1, -1, 0.5], {"clipped"}),
        ([1, 1, 0.5, 1, 1], set()),
        ([0.5, 1.2, 1.2, 1.2, 0.5], set()),  # floats: above full scale, and not clipped
        ([0.9, 1, 1, 1.1, 0.5], set()),
        ([0, 0, 0, 0, 0], {"digital-silence"}),
        ([0, 1e-4, 0, -1e-4, 0], {"silent"}),
        ([0.5, 0.5, 0.5, 0.5, 0.5], {"silent"}),
        ([0, 1e-2, 0, -1e-2, 0], set()),
    ],
)
def test_blocks_of_any_size_have_one_verdict(samples: list[float], flags: set[str], size: int):
    levels = Levels()
    stereo = np.array([np.full(5, 0.1), samples], np.float32).T  # clipped in one channel
    for start in range(0, 5, size):
        assert levels.source(stereo[start : start + size]) is not None
        levels.heard(stereo[start : start + size, 1])
    assert levels.flags().keys() == flags
