"""Embeddings: the features that a head sees, pooled over the frames of a recording."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import FEATURES, RATE_HZ, sweep, tiny_checkpoint

from psla_wds.features.log_mel import LogMel, fit, normalise
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.checkpoint import Checkpoint, save_checkpoint
from psla_wds.models.epochs import epoch_path
from psla_wds.tagging.tagger import Tagger
from psla_wds.tagging.windows import EmbeddingMean

PAGE = Path(__file__).resolve().parents[3] / "docs" / "use_the_model.md"
CELL_SAMPLES = 32 * FEATURES.hop_samples
CLASSES = ("clock_tick", "crickets", "keyboard_typing", "rain", "rooster", "sea_waves")
CLIPS_PER_CLASS = 8


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint(head="multi-head-attention", num_heads=4)


@pytest.fixture(scope="module")
def tagger(checkpoint: Checkpoint) -> Tagger:
    return Tagger([checkpoint], batch_size=3, device="cpu")


def trunk_map(checkpoint: Checkpoint, waveform: np.ndarray) -> torch.Tensor:
    """The trunk's map of a window, averaged over mels: (channels, columns)."""
    log_mel = fit(LogMel(FEATURES)(torch.from_numpy(waveform)), FEATURES.num_frames)
    image = normalise(log_mel, FEATURES).T[None, None]
    with torch.inference_mode():
        return checkpoint.build().trunk(image).mean(2)[0]


def attention_of(checkpoint: Checkpoint, columns: torch.Tensor) -> torch.Tensor:
    """Normalised attention, averaged over classes and heads."""
    weights = []
    for number in range(checkpoint.model.num_heads):
        name = f"head.heads.{number}.attention"
        kernel = checkpoint.weights[f"{name}.weight"][:, :, 0, 0]
        logits = kernel @ columns + checkpoint.weights[f"{name}.bias"][:, None]
        attention = torch.sigmoid(logits)
        weights.append(attention / attention.sum(1, keepdim=True))
    return torch.stack(weights).mean((0, 1))


@pytest.mark.parametrize("num_samples", [300, 1 + 2 * CELL_SAMPLES, FEATURES.max_clip_samples])
def test_only_frames_that_begin_in_the_recording_count(tagger, checkpoint, num_samples: int):
    waveform = sweep(2.0)[:num_samples]
    reached = min(-(-num_samples // CELL_SAMPLES), 4)
    columns = trunk_map(checkpoint, waveform)[:, :reached]
    by_attention = tagger.embed(waveform, RATE_HZ)
    by_mean = tagger.embed(waveform, RATE_HZ, "mean")
    expected = (columns * attention_of(checkpoint, columns)).sum(1)
    np.testing.assert_allclose(by_attention.embedding, expected, atol=1e-5)
    np.testing.assert_allclose(by_mean.embedding, columns.mean(1), atol=1e-5)
    assert by_mean.embedding.dtype == np.float32 and len(by_mean.embedding) == 1280
    assert tagger.embedding_size == 1280
    differ = not np.allclose(by_attention.embedding, by_mean.embedding, atol=1e-5)
    assert differ == (reached > 1)


@pytest.mark.parametrize("head", ["single-head-attention", "mean-pooling", "linear"])
def test_heads_without_attention_pool_by_the_mean(head: str):
    tagger = Tagger([tiny_checkpoint(head=head)], device="cpu")
    one, other = (tagger.embed(sweep(1.0), RATE_HZ, way).embedding for way in ("attention", "mean"))
    assert np.allclose(one, other, atol=1e-6) == (head != "single-head-attention")


def test_scores_stay_and_no_forward_pass_is_added(checkpoint: Checkpoint, monkeypatch):
    passes, forward = [], AudioTagger.map_columns
    monkeypatch.setattr(
        AudioTagger, "map_columns", lambda *given: passes.append(len(given[1])) or forward(*given)
    )
    tagger = Tagger([checkpoint], batch_size=3, device="cpu")
    passes.clear()  # the constructor's
    plain, embedded = tagger(sweep(3.0), RATE_HZ), tagger.embed(sweep(3.0), RATE_HZ)
    assert passes == [3, 1, 3, 1]
    np.testing.assert_array_equal(plain.window_scores, embedded.window_scores)
    np.testing.assert_array_equal(plain.frame_scores, embedded.frame_scores)
    assert plain.embedding is None and plain.window_embeddings is None
    assert embedded.window_embeddings.shape == (4, 1280)


def test_a_recording_has_the_mean_of_its_windows_by_length(tagger: Tagger):
    tags = tagger.embed(sweep(3.0), RATE_HZ)
    lengths_s = tags.window_ends_s - tags.window_starts_s
    assert lengths_s[-1] < lengths_s[0]
    expected = np.average(tags.window_embeddings, axis=0, weights=lengths_s)
    np.testing.assert_allclose(tags.embedding, expected, rtol=1e-5, atol=1e-7)
    assert not np.allclose(tags.embedding, tags.window_embeddings.mean(0), atol=1e-6)
    alone = tagger.embed(sweep(0.5), RATE_HZ)
    np.testing.assert_array_equal(alone.embedding, alone.window_embeddings[0])


def test_a_recording_without_a_sample_has_an_embedding(tagger: Tagger):
    (window,) = tagger.stream([iter(())], "mean")
    mean = EmbeddingMean()
    mean.add(window.embedding, window.length_s)
    assert window.length_s == 0 and np.isfinite(mean.value()).all()
    np.testing.assert_array_equal(mean.value(), window.embedding)


def test_recordings_that_share_batches_embed_as_alone(tagger: Tagger):
    waveforms = [sweep(length, seed=i) for i, length in enumerate([0.3, 2.3, 0.01])]
    for waveform, tags in zip(waveforms, tagger.many(waveforms, RATE_HZ, "attention"), strict=True):
        alone = tagger.embed(waveform, RATE_HZ)
        np.testing.assert_allclose(tags.window_embeddings, alone.window_embeddings, atol=1e-5)
        np.testing.assert_allclose(tags.embedding, alone.embedding, atol=1e-5)


def test_an_ensemble_has_the_vectors_of_its_members_in_order(checkpoint: Checkpoint):
    members = [tiny_checkpoint(1, backbone="mobilenet-v2", head="linear"), checkpoint]
    together, waveform = Tagger(members, device="cpu"), sweep(1.7)
    each = [Tagger([member], device="cpu").embed(waveform, RATE_HZ) for member in members]
    expected = np.concatenate([tags.embedding for tags in each])
    assert together.embedding_size == len(expected) == 2560
    found = together.embed(waveform, RATE_HZ).embedding
    np.testing.assert_allclose(found, expected, atol=1e-6)


def probe_of_the_page() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (probe,) = [block for block in blocks if "LogisticRegression" in block]
    return probe


def test_the_probe_of_the_page_beats_chance(real_clips: Path, tmp_path: Path, monkeypatch):
    """Features of random weights, since no trained ones can be had here."""
    with (real_clips / "manifest.csv").open(encoding="utf-8") as file:
        rows = {row["group"]: row for row in csv.DictReader(file)}  # a clip of each source
    for label in CLASSES:
        (tmp_path / "clips" / label).mkdir(parents=True)
        of_label = [row["path"] for row in rows.values() if row["native_label"] == label]
        for path in of_label[:CLIPS_PER_CLASS]:
            (tmp_path / "clips" / label / Path(path).name).symlink_to(real_clips / path)
    features = replace(FEATURES, num_frames=512)
    member = replace(tiny_checkpoint(), features=features)
    save_checkpoint(member, epoch_path(tmp_path / "runs" / "full", 1))
    monkeypatch.chdir(tmp_path)
    probe = probe_of_the_page()
    assert len([line for line in probe.splitlines() if line]) <= 15
    namespace: dict[str, object] = {}
    exec(compile(probe, PAGE.name, "exec"), namespace)
    assert len(namespace["labels"]) == len(CLASSES) * CLIPS_PER_CLASS
    # Chance is 17%: by chance, more than 17 of 48 clips are right once in 2,000 times.
    assert namespace["accuracy"] > 17 / 48
