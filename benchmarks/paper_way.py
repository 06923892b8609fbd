"""The baseline: how the paper's code feeds its model, written anew from its description.

Loose audio files, `WeightedRandomSampler`, and per clip in a `DataLoader` worker: decode, a second
decode for mixup, torchaudio's Kaldi fbank, padding, masks, normalisation (PSLA III; FIELD habits).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from psla_wds.features.config import FeatureConfig
from psla_wds.features.log_mel import fit, normalise
from psla_wds.sampling.augment import AugmentConfig


@dataclass(frozen=True)
class Recipe:
    """How a clip becomes features."""

    features: FeatureConfig
    augment: AugmentConfig


class LooseFiles(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A clip a file; features are computed when a clip is asked for."""

    def __init__(self, paths: list[Path], targets: torch.Tensor, recipe: Recipe) -> None:
        self._paths, self._targets, self._recipe = paths, targets, recipe

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        augment = self._recipe.augment
        target = self._targets[row]
        partner, lam = None, 1.0
        if np.random.random() < augment.mixup_rate:
            other = np.random.randint(len(self))
            lam = float(np.random.beta(augment.mixup_alpha, augment.mixup_alpha))
            partner, target = self._paths[other], lam * target + (1 - lam) * self._targets[other]
        log_mel = clip_features(self._paths[row], partner, lam, self._recipe.features)
        masked = torchaudio.transforms.FrequencyMasking(augment.freq_mask)(log_mel.T[None])
        masked = torchaudio.transforms.TimeMasking(augment.time_mask)(masked)[0].T
        return normalise(masked, self._recipe.features), target


def clip_features(
    path: Path, partner: Path | None, lam: float, features: FeatureConfig
) -> torch.Tensor:
    """Log-mel (frames, mels) of a clip, mixed with another if there is one; not normalised."""
    waveform = _load(path)
    if partner is not None:
        other = _load(partner)[: len(waveform)]
        other = torch.nn.functional.pad(other, (0, len(waveform) - len(other)))
        waveform = lam * waveform + (1 - lam) * other
        waveform = waveform - waveform.mean()
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


def _load(path: Path) -> torch.Tensor:
    waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    return waveform - waveform.mean()


NEVER_ENDS = 200_000
"""Draws of an epoch: a benchmark that meets its end would time the start of new workers."""


def data_loader(
    files: LooseFiles, weights: np.ndarray, *, batch_size: int, workers: int
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Balanced draws with replacement, without end for a benchmark, by worker processes."""
    sampler = WeightedRandomSampler(weights.tolist(), NEVER_ENDS, replacement=True)
    return DataLoader(
        files,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        drop_last=True,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


LOUD_ENOUGH = -13.0
"""Log-mel below this is rounding near the floor of -15.9, in every implementation."""
LARGEST_DIFFERENCE = 5e-3
"""In normalised units; on real clips torchaudio differs by half of it from its own float64."""


def check_same(
    name: str, features: torch.Tensor, reference: torch.Tensor, config: FeatureConfig
) -> None:
    """Speed is compared between ways that give the same numbers, or not at all."""
    loud = reference > (LOUD_ENOUGH - config.mean) / config.std
    difference = float((features - reference)[loud].abs().max())
    if difference > LARGEST_DIFFERENCE:
        raise AssertionError(f"{name} differs by {difference:.2g} from torchaudio")
