"""The forward pass of a prediction: its mode, its precision, and the clips that it scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import FEATURES, tiny_checkpoint
from torch import Tensor, nn

from psla_wds import (
    FeatureConfig,
    ReaderConfig,
    ShardIndex,
    Tagger,
    WaveformConfig,
    evaluation_waveforms,
    open_indexes,
)
from psla_wds.errors import ConfigError, ShardError
from psla_wds.evaluation.predict import Predictor, gather_scores
from psla_wds.features.log_mel import LogMel, fit, normalise
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.config import Precision
from psla_wds.runtime.distributed import World

ALONE = World(0, 1, torch.device("cpu"))


class Witness(AudioTagger):
    """Notes the mode of each forward pass and the precision of its products."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.ones(128, 4) / 128)
        self.inference: list[bool] = []
        self.dtypes: set[torch.dtype] = set()

    def forward(self, log_mel: Tensor) -> Tensor:
        self.inference.append(torch.is_inference_mode_enabled())
        products = log_mel.mean(dim=1) @ self.weight
        self.dtypes.add(products.dtype)
        return products.float()


@pytest.fixture(scope="module")
def index(shards: Path) -> ShardIndex:
    return open_indexes([f"{shards}:eval"])


def predictor(index: ShardIndex, model: AudioTagger, **options: Precision) -> Predictor:
    features = FeatureConfig(num_frames=128)  # all of each clip
    reader = ReaderConfig(decode_threads=1)
    return Predictor(model, index.classes, features, batch_size=5, reader=reader, **options)


def test_a_process_alone_gives_each_core_a_clip(index: ShardIndex):
    of_one = replace(predictor(index, Witness()), batch_size=1)
    expected = np.concatenate([scores for _, scores in of_one.batches(index, ALONE)])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batches = list(of_one.batches(index, ALONE))
    finally:
        torch.set_num_threads(threads)
    assert {len(rows) for rows, _ in batches[:-1]} == {2}
    np.testing.assert_allclose(np.concatenate([s for _, s in batches]), expected, rtol=1e-5)


def test_only_the_forward_pass_is_in_inference_mode(index: ShardIndex):
    model, rows = Witness(), []
    for batch_rows, scores in predictor(index, model).batches(index, ALONE):
        assert not torch.is_inference_mode_enabled()  # between two batches, the caller's mode holds
        assert scores.shape == (len(batch_rows), 4)
        rows += batch_rows.tolist()
    assert rows == list(range(12)) and model.inference == [True] * 3


def test_the_precision_is_float32_unless_another_is_asked_for(index: ShardIndex):
    exact, rounded = Witness(), Witness()
    scores = gather_scores(predictor(index, exact), index, ALONE)
    close = gather_scores(predictor(index, rounded, precision="bfloat16"), index, ALONE)
    assert (exact.dtypes, rounded.dtypes) == ({torch.float32}, {torch.bfloat16})
    np.testing.assert_allclose(close.scores, scores.scores, rtol=0.02)
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        gather_scores(predictor(index, Witness(), precision="float16"), index, ALONE)


class Lengthy(Witness):
    """Scores of a clip do not depend, by a bit, on the clips beside it."""

    def forward(self, log_mel: Tensor) -> Tensor:
        return log_mel.double().mean(dim=1)[:, 8::32].float()


def of_ranks(predictor: Predictor, index: ShardIndex, num_ranks: int) -> np.ndarray:
    """Scores of all clips in the order of the index, by ranks one after another."""
    scores = np.full((len(index), 4), np.nan, np.float32)
    for rank in range(num_ranks):
        for rows, of_rows in predictor.batches(index, World(rank, num_ranks, torch.device("cpu"))):
            assert np.isnan(scores[rows]).all()
            scores[rows] = of_rows
    return scores


def test_a_long_clip_has_the_mean_of_windows_over_all_of_it(index: ShardIndex):
    features = FeatureConfig(num_frames=40)
    long = replace(predictor(index, Lengthy()), features=features)
    window = features.max_clip_samples
    with evaluation_waveforms(index, batch_size=12) as batches:
        (waveforms,) = (batch.waveforms for batch in batches)
    log_mel, expected = LogMel(features), []
    for waveform in waveforms:
        count = -(-len(waveform) // window)
        starts = np.linspace(0, max(len(waveform) - window, 0), count).round().astype(int)
        cut = [torch.from_numpy(waveform[start : start + window]) for start in starts]
        heard = torch.stack([normalise(fit(log_mel(part), 40), features) for part in cut])
        expected.append(long.model(heard).mean(0))
    assert {-(-len(w) // window) for w in waveforms} == {1, 2, 3}
    scores = of_ranks(long, index, 1)
    np.testing.assert_allclose(scores, torch.stack(expected), atol=2e-3)  # a sample's shift
    for ranks, batch_size in ((1, 1), (1, 7), (2, 3), (5, 2)):
        again = of_ranks(replace(long, batch_size=batch_size), index, ranks)
        assert np.array_equal(again, scores)
    first = of_ranks(replace(long, windows=1), index, 1)
    differs = (first != scores).any(axis=1)
    assert differs.tolist() == [len(w) > window + features.hop_samples for w in waveforms]


def test_a_long_clip_must_be_as_long_as_the_index_says(index: ShardIndex):
    num_samples = index.num_samples.copy()
    num_samples[5] += 1
    wrong = replace(index, num_samples=num_samples)
    long = replace(predictor(index, Lengthy()), features=FeatureConfig(num_frames=40))
    with pytest.raises(ShardError, match=f"{num_samples[5]:,} samples by the index") as caught:
        of_ranks(long, wrong, 1)
    assert index.clip_id(5) in str(caught.value)


def scores_of_both(index: ShardIndex, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all clips as eval.predict has them, and as eval.tag has them."""
    checkpoint, reader = tiny_checkpoint(), ReaderConfig(decode_threads=1)
    predictor = Predictor(
        checkpoint.build(), checkpoint.classes, FEATURES, 4, reader, precision=precision
    )
    parts = [scores for _, scores in predictor.batches(index, ALONE)]
    tagger = Tagger([checkpoint], device="cpu", precision=precision)
    config = WaveformConfig(reader=reader)
    with evaluation_waveforms(index, batch_size=4, config=config) as batches:
        clips = [waveform for batch in batches for waveform in batch.waveforms]
    return np.concatenate(parts), np.stack([tags.scores for tags in tagger.many(clips, 16_000)])


def test_predicting_and_tagging_agree_in_each_precision(index: ShardIndex):
    exact, tagged_exact = scores_of_both(index, "float32")
    rounded, tagged_rounded = scores_of_both(index, "bfloat16")
    np.testing.assert_allclose(tagged_exact, exact, atol=1e-3)  # DALI's features, and torch's
    assert np.abs(rounded - exact).max() > 5e-3
    assert np.abs(tagged_rounded - tagged_exact).max() > 5e-3
    for some in (rounded, tagged_rounded):
        assert np.abs(some - exact).max() < 0.3  # random weights magnify rounding
