"""The front end of a CPU, and DALI's graph on a CPU, which tests/gpu compares the GPU's with."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from reference.front_end import (
    assert_as_exact_as_torchaudio,
    assert_same_log_mel,
    decode,
    front_end,
    kaldi_log_mel,
)
from reference.signals import (
    OTHER_CONFIGS,
    SIGNALS,
    encode,
    mixed_batch,
    plain_batch,
    real_clips,
    source_of,
    white_noise,
)

from psla_wds.errors import ConfigError, ShardError
from psla_wds.features.config import FeatureConfig
from psla_wds.features.dali import (
    Feed,
    FrontEnd,
    UndecodableBatchError,
    mel_pre_weights,
)
from psla_wds.features.encoded_batch import EncodedBatch
from psla_wds.features.log_mel import LogMel, WindowFeatures, fit, normalise
from psla_wds.features.on_cpu import CpuFrontEnd
from psla_wds.sampling.augment import Change

DEFAULT = FeatureConfig()
FEW_FRAMES = replace(DEFAULT, num_frames=8)  # small outputs, where their size does not matter
CPU = torch.device("cpu")


class By:
    """The front end of a test."""

    dali = True


@pytest.fixture(autouse=True, params=[True, False], ids=["DALI", "CPU"])
def front_ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(By, "dali", request.param)


def open_front_end(
    source: Callable[[int], EncodedBatch], features: FeatureConfig = FEW_FRAMES, **options: Any
) -> FrontEnd | CpuFrontEnd:
    settings = {"batch_size": 4, "num_threads": 1} | options
    changes = settings.pop("changes", ())
    if By.dali:
        return FrontEnd(Feed(source, features, changes), device=CPU, **settings)
    return CpuFrontEnd(source, features, changes, num_threads=settings["num_threads"])


def run_once(
    batch: EncodedBatch, features: FeatureConfig = DEFAULT, **options: Any
) -> torch.Tensor:
    """Normalised log-mel of the batch."""
    options = {"batch_size": len(batch.audio)} | options
    output, delivered = open_front_end(source_of(batch), features, **options).run()
    assert delivered is batch
    return output


def log_mel_of(output: torch.Tensor, features: FeatureConfig = DEFAULT) -> torch.Tensor:
    return output * features.std + features.mean


def assert_equals_reference(
    batch: EncodedBatch, features: FeatureConfig = DEFAULT, **options: Any
) -> None:
    output, expected = run_once(batch, features, **options), front_end(batch, features)
    assert_same_log_mel(log_mel_of(output, features), log_mel_of(expected, features))


def numbered_batch(number: int, num_draws: int = 2) -> EncodedBatch:
    """Recognisable: batch `number` is masked at mel `number`, and draws differ."""
    batch = plain_batch([encode(white_noise(1_000 + 100 * number + i)) for i in range(num_draws)])
    batch.draws.masks[:, :2] = [number, 1]
    return batch


def assert_next(front: FrontEnd | CpuFrontEnd, batch: EncodedBatch) -> None:
    """The front end gives this batch, with its features."""
    output, delivered = front.run()
    assert delivered is batch
    torch.testing.assert_close(output, front_end(batch, FEW_FRAMES), rtol=0, atol=1e-3)


# --- the numbers


def test_log_mel_equals_torchaudios_fbank():
    audio = [encode(SIGNALS[kind](31_337)) for kind in SIGNALS]
    stereo = np.stack([white_noise(5_000), white_noise(5_000)[::-1]], 1)
    audio.append(encode(stereo))
    for clip, log_mel in zip(audio, log_mel_of(run_once(plain_batch(audio))), strict=True):
        expected = kaldi_log_mel(decode(clip), DEFAULT)
        assert_same_log_mel(log_mel[: len(expected)], expected)


def test_log_mel_of_real_clips_is_as_exact_as_torchaudios():
    audio = [np.frombuffer(path.read_bytes(), np.uint8) for path in real_clips(12)]
    for clip, output in zip(audio, run_once(plain_batch(audio)), strict=True):
        waveform = decode(clip)
        num_frames = min((len(waveform) - 400) // 160 + 1, DEFAULT.num_frames)
        assert_as_exact_as_torchaudio(log_mel_of(output)[:num_frames], waveform, DEFAULT)


@pytest.mark.parametrize("container", ["FLAC", "WAV", "OGG"])
def test_mixup_masks_padding_and_cut_equal_the_reference(container: str):
    batch = mixed_batch(container)
    assert_equals_reference(batch)
    assert torch.equal(run_once(batch), run_once(batch, num_threads=2))


def test_the_rest_of_a_batch_does_not_matter():
    batch = mixed_batch("FLAC")
    for row, expected in enumerate(run_once(batch)):
        draws = replace(batch.draws, **{k: v[[row]] for k, v in vars(batch.draws).items()})
        alone = EncodedBatch(draws, batch.audio[row : row + 1], batch.partner_audio[row : row + 1])
        assert torch.equal(run_once(alone)[0], expected)


def test_gains_and_shifts_equal_the_reference():
    plain = mixed_batch("FLAC")
    rng = np.random.default_rng(0)
    shape = (len(plain.audio), 2)
    rolls = rng.uniform(0, 1, shape).astype(np.float32)
    rolls[[0, 4]] = [[0.0, 1 - 2**-24], [0.0, 0.0]]
    gains = rng.uniform(0.3, 2, shape).astype(np.float32)
    batch = replace(plain, draws=replace(plain.draws, gains=gains, rolls=rolls))
    assert_equals_reference(batch, changes=["rolls"])
    assert not torch.allclose(run_once(batch, changes=["rolls"]), run_once(plain), atol=0.1)


@pytest.mark.parametrize("changes", [["crops"], ["rolls", "crops"]])
def test_places_in_long_clips_equal_the_reference(changes: list[Change]):
    batch, rng = mixed_batch("FLAC"), np.random.default_rng(0)
    uncropped = run_once(batch)
    batch.draws.crops[:] = rng.uniform(0, 1, (len(batch.audio), 2))
    batch.draws.crops[[5, 7]] = [[0.5, 1.0], [1 - 2**-24, 0.3]]
    cropped = run_once(batch, changes=["crops"])
    if "rolls" in changes:
        batch.draws.rolls[:] = rng.uniform(0, 1, batch.draws.rolls.shape)
    assert_equals_reference(batch, changes=changes)
    changed = [not torch.equal(*pair) for pair in zip(cropped, uncropped, strict=True)]
    assert changed == [i in (5, 7) for i in range(8)]  # the last is longer, and 5's partner


@pytest.mark.parametrize("config", OTHER_CONFIGS.values(), ids=OTHER_CONFIGS)
def test_other_settings_equal_the_reference_too(config: FeatureConfig):
    batch = plain_batch([encode(white_noise(n)) for n in (300, 20_000, 60_000)])
    assert_equals_reference(batch, replace(config, num_frames=50))


def test_clips_of_every_length_work():
    lengths = [*range(1, 1_001, 3), 1_519, 1_520, 1_521, 1_680]  # 1520 samples fill the 8 frames
    # The offset shows where a clip ends inside its one window.
    batch = plain_batch([encode(0.3 + 0.5 * white_noise(n), "WAV") for n in lengths])
    log_mel = LogMel(FEW_FRAMES)  # held against torchaudio in test_log_mel, and faster
    tagging = WindowFeatures(FEW_FRAMES)
    for audio, output in zip(batch.audio, run_once(batch, FEW_FRAMES), strict=True):
        waveform = decode(audio)
        expected = normalise(fit(log_mel(waveform), FEW_FRAMES.num_frames), FEW_FRAMES)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-3)
        after_end = torch.cat([waveform, torch.ones(50)])
        (tagged,) = tagging(after_end[None], torch.tensor([len(waveform)]))
        torch.testing.assert_close(tagged, expected, rtol=0, atol=1e-3)


def test_masks_are_zero_before_normalisation():
    batch = plain_batch([encode(0.01 * white_noise(160_000))])  # far from 0 in log-mel
    batch.draws.masks[0] = [10, 5, 700, 30]
    masked = log_mel_of(run_once(batch))[0].abs() < 1e-5
    assert masked[:, 10:15].all() and masked[700:730].all()
    assert not masked[:700, :10].any() and not masked[730:998, 15:].any()


def test_filters_that_no_weight_can_mend_are_refused():
    kaldi = np.ones((3, 1), np.float32)  # the bin feeds filters 0 and 2, in other proportions
    dali = np.array([[1.0], [1.0], [0.5]], np.float32)
    with pytest.raises(ConfigError, match=r"--features\.num-mels"):
        mel_pre_weights(kaldi, dali)


# --- the order of batches, and what stops them


def test_batches_come_in_order_and_may_be_smaller():
    batches = [numbered_batch(number, size) for number, size in enumerate((4, 4, 4, 1))]
    front = open_front_end(source_of(*batches))
    first, _ = front.run()
    copy = first.clone()
    for batch in batches[1:]:
        assert_next(front, batch)
    assert torch.equal(first, copy)  # it stays valid while later ones are made
    for _ in range(2):
        with pytest.raises(StopIteration):
            front.run()
    resources = weakref.ref(front._pipeline if By.dali else front._pool)
    del front
    assert resources() is None


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("error", [ShardError("a clip is damaged"), KeyError("a bug")], ids=repr)
def test_an_error_of_the_source_comes_after_the_batches_before(error: Exception, at: int):
    def source(iteration: int) -> EncodedBatch:
        if iteration == at:
            raise error
        return numbered_batch(iteration)

    front = open_front_end(source)
    for _ in range(at):
        front.run()
    with pytest.raises(type(error)) as caught:
        front.run()
    assert caught.value is error
    assert error.__suppress_context__


def without_end(audio: np.ndarray) -> np.ndarray:
    return audio[: len(audio) // 2]


def without_header(audio: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(64, np.uint8), audio[64:]])


def with_a_flipped_bit(audio: np.ndarray) -> np.ndarray:
    damaged = audio.copy()
    damaged[len(damaged) // 2] ^= 1
    return damaged


@pytest.mark.parametrize(
    ("damage", "bad"),
    [(without_end, {0}), (without_header, {1, 2}), (with_a_flipped_bit, {3, 4, 7})],
)
def test_a_damaged_clip_costs_its_batch_alone(
    damage: Callable[[np.ndarray], np.ndarray], bad: set[int]
):
    batches = [numbered_batch(i) for i in range(8)]
    for i in bad:
        clips = (batches[i].audio, batches[i].partner_audio)[i % 2]
        clips[1] = damage(batches[i].audio[1])
        batches[i].draws.partners[1] = 0  # it has a partner, though of no weight
    front = open_front_end(source_of(*batches), num_threads=2)
    for i, batch in enumerate(batches):
        if i not in bad:
            assert_next(front, batch)
            continue
        with pytest.raises(UndecodableBatchError) as caught:
            front.run()
        assert caught.value.batch is batch
    with pytest.raises(StopIteration):
        front.run()
