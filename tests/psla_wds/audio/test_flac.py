"""FLAC by dr_flac, against libsndfile."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from by_libsndfile import by_libsndfile, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from psla_wds.audio.decode import Excerpt, load_clip
from psla_wds.audio.flac import MOST_VALUES, decode_flac
from psla_wds.audio.pcm import decode_float
from psla_wds.errors import ClipRefusedError

BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}


def flac(num_samples: int, channels: int = 1, subtype: str = "PCM_16", level: float = 0.5) -> bytes:
    rng, file = np.random.default_rng(num_samples), io.BytesIO()
    tones = np.sin(np.outer(np.arange(num_samples), 0.01 * np.arange(1, channels + 1)))
    samples = level * tones + 0.1 * rng.normal(size=tones.shape)
    soundfile.write(file, samples.clip(-1, 1), 16_000, format="FLAC", subtype=subtype)
    return file.getvalue()


@settings(max_examples=60)
@given(st.integers(1, 20_000), st.integers(1, 8), st.sampled_from(list(BITS)), st.floats(0, 1.5))
def test_samples_are_those_of_libsndfile(length: int, channels: int, subtype: str, level: float):
    encoded = flac(length, channels, subtype, level)
    decoded = decode_flac(encoded)
    assert decoded is not None and decoded[1] == 16_000
    np.testing.assert_array_equal(decoded[0], by_libsndfile(encoded))


def test_real_clips_are_those_of_libsndfile(real_clips: Path):
    paths = sorted(real_clips.rglob("*.flac"))[:50]
    assert paths
    for path in paths:
        decoded = decode_flac(path.read_bytes())
        assert decoded is not None
        np.testing.assert_array_equal(decoded[0], by_libsndfile(path.read_bytes()))


def mix_by_libsndfile(encoded: bytes) -> np.ndarray:
    return by_libsndfile(encoded).sum(axis=1) / np.float32(2)


def test_damage_has_the_outcome_that_libsndfile_gives():
    encoded, rng = flac(30_000, 2), np.random.default_rng(0)
    outcomes = []
    for _ in range(300):
        damaged = bytearray(encoded)
        for place in rng.integers(0, len(encoded), rng.integers(1, 4)):
            damaged[place] ^= 1 << int(rng.integers(8))
        damaged = damaged[: rng.integers(1, len(damaged))] if rng.random() < 0.3 else damaged
        ours = outcome(lambda some: decode_float(some)[0], bytes(damaged))
        theirs = outcome(
            lambda some: by_libsndfile(some).sum(axis=1) / np.float32(2), bytes(damaged)
        )
        assert ours == theirs
        outcomes.append(ours == "refused")
    assert sum(outcomes) > 20


def claiming(encoded: bytes, bits: int) -> bytes:
    """With bits of the header set: rate (20), channels - 1 (3), bits - 1 (5), samples (36)."""
    return encoded[:18] + bits.to_bytes(8, "big") + encoded[26:]


def test_a_header_takes_no_memory_that_it_claims():
    encoded = flac(1_000)
    numbers = int.from_bytes(encoded[18:26], "big")
    assert decode_flac(claiming(encoded, numbers | 2**36 - 1)) is None
    assert MOST_VALUES * 4 <= 2**26


def test_a_header_that_makes_no_sense_is_left_to_libsndfile():
    encoded = flac(1_000)
    numbers = int.from_bytes(encoded[18:26], "big")
    without_rate = claiming(encoded, numbers & 2**44 - 1)
    of_20_bits = claiming(encoded, numbers & ~(0b11111 << 36) | 19 << 36)
    assert decode_flac(without_rate) is decode_flac(of_20_bits) is None
    assert decode_flac(claiming(encoded, numbers)) is not None


@pytest.mark.parametrize("start_s, end_s", [(0.0, 2.0), (0.1, 1.9), (1.0, 1.2)])
def test_excerpts_of_a_file_are_those_of_all(tmp_path: Path, start_s: float, end_s: float):
    path = tmp_path / "a.flac"
    path.write_bytes(flac(32_000, 2))
    whole = by_libsndfile(path.read_bytes())
    clip = load_clip(path, Excerpt(start_s, end_s), sample_rate_hz=16_000)
    expected = whole[round(start_s * 16_000) : round(end_s * 16_000)]
    np.testing.assert_array_equal(clip, expected.sum(axis=1) / np.float32(2))


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path):
    path = tmp_path / "a.flac"
    path.write_bytes(flac(32_000)[:-200])
    with pytest.raises(ClipRefusedError):
        load_clip(path, sample_rate_hz=16_000)
