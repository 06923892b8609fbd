"""The CPU version of the graph; tests/gpu compares the GPU's with it."""

import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from lent_buffers import lend
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
    PREFETCH_BATCHES,
    FrontEnd,
    UndecodableBatchError,
    mel_pre_weights,
)
from psla_wds.features.encoded_batch import NULL_WAV, EncodedBatch
from psla_wds.features.log_mel import LogMel, fit, normalise

DEFAULT = FeatureConfig()
FEW_FRAMES = replace(DEFAULT, num_frames=8)  # small outputs, where their size does not matter


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> None:
    torch.set_num_threads(1)  # the clips are small, and DALI has threads of its own


def open_front_end(
    source: Callable[[int], EncodedBatch],
    features: FeatureConfig = FEW_FRAMES,
    *,
    batch_size: int = 4,
    num_threads: int = 1,
) -> FrontEnd:
    sizes = {"batch_size": batch_size, "num_threads": num_threads}
    return FrontEnd(source, features, device=torch.device("cpu"), **sizes)


def run_once(
    batch: EncodedBatch, features: FeatureConfig = DEFAULT, *, num_threads: int = 1
) -> torch.Tensor:
    sizes = {"batch_size": len(batch.audio), "num_threads": num_threads}
    return open_front_end(source_of(batch), features, **sizes).run()


def log_mel_of(output: torch.Tensor, features: FeatureConfig) -> torch.Tensor:
    return output * features.std + features.mean


def numbered_batch(number: int, num_draws: int = 2) -> EncodedBatch:
    """Recognisable: batch `number` is masked at mel `number`, and draws differ."""
    batch = plain_batch([encode(white_noise(1_000 + 100 * number + i)) for i in range(num_draws)])
    batch.masks[:, :2] = [number, 1]
    return batch


# --- the numbers


@pytest.mark.parametrize("num_samples", [48_000, 31_337])
@pytest.mark.parametrize("kind", SIGNALS)
def test_log_mel_equals_torchaudios_fbank(kind: str, num_samples: int):
    audio = encode(SIGNALS[kind](num_samples))
    output = run_once(plain_batch([audio]))[0]
    expected = kaldi_log_mel(decode(audio), DEFAULT)
    assert_same_log_mel(log_mel_of(output, DEFAULT)[: len(expected)], expected)


def test_log_mel_of_real_clips_is_as_exact_as_torchaudios():
    audio = [np.frombuffer(path.read_bytes(), np.uint8) for path in real_clips(24)]
    for clip, output in zip(audio, run_once(plain_batch(audio)), strict=True):
        waveform = decode(clip)
        num_frames = min((len(waveform) - 400) // 160 + 1, DEFAULT.num_frames)
        log_mel = log_mel_of(output, DEFAULT)[:num_frames]
        assert_as_exact_as_torchaudio(log_mel, waveform, DEFAULT)


@pytest.mark.parametrize("container", ["FLAC", "WAV", "OGG"])
def test_mixup_masks_padding_and_cut_equal_the_reference(container: str):
    batch = mixed_batch(container)
    output, expected = run_once(batch), front_end(batch, DEFAULT)
    assert_same_log_mel(log_mel_of(output, DEFAULT), log_mel_of(expected, DEFAULT))


def test_gains_and_shifts_of_clip_and_partner_equal_the_reference():
    plain = mixed_batch("FLAC")
    rng = np.random.default_rng(0)
    shape = (len(plain.audio), 2)
    rolls = rng.uniform(0, 1, shape).astype(np.float32)
    rolls[[0, 4]] = [[0.0, 1 - 2**-24], [0.0, 0.0]]
    batch = replace(plain, gains=rng.uniform(0.3, 2, shape).astype(np.float32), rolls=rolls)
    front = FrontEnd(
        source_of(batch),
        DEFAULT,
        batch_size=len(batch.audio),
        num_threads=1,
        device=torch.device("cpu"),
        rolls=True,
    )
    output, expected = front.run(), front_end(batch, DEFAULT)
    assert_same_log_mel(log_mel_of(output, DEFAULT), log_mel_of(expected, DEFAULT))
    assert not torch.allclose(output, run_once(plain), atol=0.1)


@pytest.mark.parametrize("config", OTHER_CONFIGS.values(), ids=OTHER_CONFIGS)
def test_other_settings_equal_the_reference_too(config: FeatureConfig):
    features = replace(config, num_frames=50)
    batch = plain_batch([encode(white_noise(n)) for n in (300, 20_000, 60_000)])
    output, expected = run_once(batch, features), front_end(batch, features)
    assert_same_log_mel(log_mel_of(output, features), log_mel_of(expected, features))


def test_clips_of_every_length_work():
    lengths = [*range(1, 1_001), 1_519, 1_520, 1_521, 1_680]  # 1520 samples fill the 8 frames
    batch = plain_batch([encode(white_noise(n), "WAV") for n in lengths])
    log_mel = LogMel(FEW_FRAMES)  # held against torchaudio in test_features, and faster
    for audio, output in zip(batch.audio, run_once(batch, FEW_FRAMES), strict=True):
        waveform = decode(audio)
        waveform = waveform - waveform.mean()  # it shows where a clip ends inside its one window
        expected = normalise(fit(log_mel(waveform), FEW_FRAMES.num_frames), FEW_FRAMES)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-3)


def test_stereo_is_mixed_down():
    batch = plain_batch([encode(np.stack([white_noise(5_000), white_noise(5_000)[::-1]], 1))])
    assert_same_log_mel(run_once(batch), front_end(batch, DEFAULT))


def test_an_empty_filter_is_constant_at_the_floor():
    log_mel = log_mel_of(run_once(plain_batch([encode(white_noise(5_000))])), DEFAULT)[0, :20, 3]
    assert np.allclose(log_mel, np.log(np.finfo(np.float32).eps), rtol=0, atol=1e-5)


def test_masks_are_zero_before_normalisation():
    batch = plain_batch([encode(0.01 * white_noise(160_000))])  # far from 0 in log-mel
    batch.masks[0] = [10, 5, 700, 30]
    log_mel = log_mel_of(run_once(batch), DEFAULT)[0]
    masked = log_mel.abs() < 1e-5
    assert masked[:, 10:15].all() and masked[700:730].all()
    assert not masked[:700, :10].any() and not masked[730:998, 15:].any()


def test_the_number_of_threads_does_not_matter():
    batch = mixed_batch("FLAC")
    assert torch.equal(run_once(batch, num_threads=1), run_once(batch, num_threads=2))


def test_the_null_partner_is_one_silent_sample():
    assert NULL_WAV.nbytes == 46
    assert decode(NULL_WAV).tolist() == [0.0]


def test_filters_that_no_weight_can_mend_are_refused():
    kaldi = np.ones((3, 1), np.float32)  # the bin feeds filters 0 and 2, in other proportions
    dali = np.array([[1.0], [1.0], [0.5]], np.float32)
    with pytest.raises(ConfigError, match=r"--features\.num-mels"):
        mel_pre_weights(kaldi, dali)


# --- the order of batches, and what stops them


def test_batches_come_in_the_order_of_the_source_and_may_be_smaller():
    batches = [
        numbered_batch(0, 4),
        numbered_batch(1, 4),
        numbered_batch(2, 4),
        numbered_batch(3, 1),
    ]
    front = open_front_end(source_of(*batches))
    for batch in batches:
        torch.testing.assert_close(front.run(), front_end(batch, FEW_FRAMES), rtol=0, atol=1e-3)
    for _ in range(2):
        with pytest.raises(StopIteration):
            front.run()


def test_an_output_stays_valid_while_later_batches_are_made():
    front = open_front_end(source_of(*[numbered_batch(i) for i in range(8)]))
    first = front.run()
    copy = first.clone()
    for _ in range(7):
        front.run()
    assert torch.equal(first, copy)


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("error", [ShardError("a clip is damaged"), KeyError("a bug")], ids=repr)
def test_an_error_of_the_source_arrives_as_itself_after_the_batches_before_it(
    error: Exception, at: int
):
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


@pytest.mark.parametrize("damage", [without_end, without_header, with_a_flipped_bit])
@pytest.mark.parametrize("bad", [{0}, {1, 2}, {3, 4, 7}], ids=str)
def test_a_damaged_clip_costs_its_batch_and_no_other(
    damage: Callable[[np.ndarray], np.ndarray], bad: set[int]
):
    batches = [numbered_batch(i) for i in range(8)]
    for i in bad:
        batches[i].audio[1] = damage(batches[i].audio[1])
    front = open_front_end(source_of(*batches), num_threads=2)
    for i, batch in enumerate(batches):
        if i in bad:
            with pytest.raises(UndecodableBatchError) as caught:
                front.run()
            assert caught.value.iteration == i
        else:
            expected = front_end(batch, FEW_FRAMES)
            torch.testing.assert_close(front.run(), expected, rtol=0, atol=1e-3)
    with pytest.raises(StopIteration):
        front.run()


def test_a_damaged_partner_is_reported_too():
    batch = numbered_batch(0)
    batch.partner_audio[0] = without_end(batch.audio[0])
    with pytest.raises(UndecodableBatchError):
        run_once(batch)


# --- buffers


class RecyclingSource:
    """Fills a batch's buffers with garbage as soon as nobody holds the arrays over them."""

    def __init__(self, batches: list[EncodedBatch]) -> None:
        self._source = source_of(*batches)
        self.alive: set[int] = set()

    def __call__(self, iteration: int) -> EncodedBatch:
        batch = self._source(iteration)
        lam = lend(batch.lam)
        self.alive.add(iteration)
        weakref.finalize(lam, self.alive.remove, iteration)
        audio, partner_audio = map(lend, batch.audio), map(lend, batch.partner_audio)
        return EncodedBatch(list(audio), list(partner_audio), lam, batch.masks)


def test_buffers_are_released_soon_after_their_use_and_never_before():
    batches = [replace(numbered_batch(i, 4), lam=np.full(4, 0.5, np.float32)) for i in range(20)]
    source = RecyclingSource(batches)
    front = open_front_end(source, num_threads=2)
    for iteration, batch in enumerate(batches):
        output = front.run()
        assert iteration in source.alive
        assert len(source.alive) <= PREFETCH_BATCHES + 1
        torch.testing.assert_close(output, front_end(batch, FEW_FRAMES), rtol=0, atol=1e-3)
    with pytest.raises(StopIteration):
        front.run()
    assert len(source.alive) <= 1


def test_a_front_end_that_is_dropped_frees_its_pipeline():
    front = open_front_end(source_of(numbered_batch(0)))
    front.run()
    pipeline = weakref.ref(front._pipeline)
    del front
    assert pipeline() is None
