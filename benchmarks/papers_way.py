"""The paper's way to features, written after its section III: loose files,
`WeightedRandomSampler`, and torchaudio clip by clip in the workers of a DataLoader."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from benchmarks.corpus import Corpus
from benchmarks.harness import Open
from benchmarks.torchaudio_import import torchaudio
from psla_wds import Batch, FeatureConfig, LoaderConfig
from psla_wds.features.log_mel import fit, normalise
from psla_wds.sampling.plan import clip_weights

NEVER_ENDS = 200_000
"""Draws of an epoch, so many that no benchmark times the start of new workers."""
CHECKED_BATCHES = 16
LARGEST_DEVIATION = 5.0
"""Standard errors by which the means of two sources may differ."""


class TorchaudioFeatures(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Features and targets of a clip, computed on request."""

    def __init__(self, corpus: Corpus, config: LoaderConfig) -> None:
        self._paths, self._config = corpus.paths, config
        self._targets = torch.from_numpy(corpus.index.targets(np.arange(len(corpus.index))))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        augment, features = self._config.augment, self._config.features
        waveform, target = load(self._paths[row]), self._targets[row]
        if np.random.random() < augment.mixup_rate:
            other = np.random.randint(len(self))
            lam = float(np.random.beta(augment.mixup_alpha, augment.mixup_alpha))
            waveform = _mixed(waveform, load(self._paths[other]), lam)
            target = lam * target + (1 - lam) * self._targets[other]
        log_mel = torchaudio_log_mel(waveform, features)
        masked = torchaudio.transforms.FrequencyMasking(augment.freq_mask)(log_mel.T[None])
        masked = torchaudio.transforms.TimeMasking(augment.time_mask)(masked)[0].T
        return normalise(masked, features), target


def load(path: Path) -> torch.Tensor:
    """The waveform (samples,) of a file, without its mean."""
    waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    return waveform - waveform.mean()


def _mixed(waveform: torch.Tensor, other: torch.Tensor, lam: float) -> torch.Tensor:
    other = other[: len(waveform)]
    other = torch.nn.functional.pad(other, (0, len(waveform) - len(other)))
    waveform = lam * waveform + (1 - lam) * other
    return waveform - waveform.mean()


def torchaudio_log_mel(waveform: torch.Tensor, features: FeatureConfig) -> torch.Tensor:
    """Log-mel (frames, mels) of a waveform without its mean; not normalised."""
    log_mel = torchaudio.compliance.kaldi.fbank(
        waveform[None],
        htk_compat=True,
        sample_frequency=features.sample_rate_hz,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=features.num_mels,
        dither=0.0,
        frame_shift=features.hop_ms,
    )
    return fit(log_mel, features.num_frames)


def balanced_sampler(corpus: Corpus) -> WeightedRandomSampler:
    return WeightedRandomSampler(clip_weights(corpus.index).tolist(), NEVER_ENDS, replacement=True)


def use_one_thread(_: int) -> None:
    """The start of a worker process."""
    torch.set_num_threads(1)


@contextmanager
def papers_batches(
    corpus: Corpus, batch_size: int, config: LoaderConfig, *, workers: int
) -> Iterator[Iterator[Batch]]:
    """Endless batches of balanced draws on the device of `config`."""
    loader = DataLoader(
        TorchaudioFeatures(corpus, config),
        batch_size,
        sampler=balanced_sampler(corpus),
        num_workers=workers,
        prefetch_factor=4,
        drop_last=True,
        worker_init_fn=use_one_thread,
    )
    pairs = iter(loader)
    rows = np.arange(batch_size)
    yield (Batch(*(part.to(config.device) for part in pair), rows) for pair in pairs)
    del pairs  # its workers end with it


def check_same_work(sources: dict[str, Open]) -> None:
    """Raise `AssertionError` unless all sources give features of one shape, and targets and values
    that differ only by chance."""
    found = {}
    for name, opened in sources.items():
        with opened() as batches:
            some = list(itertools.islice(batches, CHECKED_BATCHES))
            clips = torch.cat([_statistics(batch) for batch in some])
        found[name] = {(b.log_mel.shape, b.targets.shape, b.targets.dtype) for b in some}, clips
    (first_name, (first_shapes, first)), *others = found.items()
    for name, (shapes, clips) in others:
        if shapes != first_shapes or len(shapes) != 1:
            raise AssertionError(f"{name} feeds {shapes}, {first_name} {first_shapes}")
        error = (clips.var(0) / len(clips) + first.var(0) / len(first)).sqrt()
        deviation = (clips.mean(0) - first.mean(0)).abs() / error
        if float(deviation.max()) > LARGEST_DEVIATION:
            raise AssertionError(
                f"{name} differs from {first_name} by {deviation.tolist()} standard errors "
                "in the mean of targets, share of mixed clips, or mean of features"
            )


def _statistics(batch: Batch) -> torch.Tensor:
    """(clips, 3): sum of targets, whether a clip is mixed, mean of its features."""
    targets = batch.targets
    mixed = ((targets > 0) & (targets < 1)).any(dim=1).float()
    return torch.stack([targets.sum(1), mixed, batch.log_mel.mean((1, 2))], 1).double().cpu()
