"""The definition of the log-mel front end in torch: Kaldi's fbank, in few passes over the samples.

`psla_wds.features.dali` computes the same in DALI for batches on a GPU. This one is for batches on
a CPU, for tagging, for exported models, and the reference of the tests.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Int64
from torch import nn

from psla_wds.features.config import FeatureConfig

MEL = 1127.0
"""Mel of a frequency: 1127 ln(1 + f / 700 Hz), as in Kaldi."""
PREEMPHASIS = 0.97  # Kaldi's default
MELS_AT_ONCE = 32
"""Filters of one matrix product: only bins that feed one of them take part."""
FRAMES_AT_ONCE = 1024
"""Frames that pass through all steps together: more leave the caches, and with fewer, threads wait
for one another's calls of operators."""
SMALLEST_ENERGY = torch.finfo(torch.float32).eps  # Kaldi's floor before the logarithm


class LogMel(nn.Module):
    """Waveform in [-1, 1] to log-mel, not normalised, equal to torchaudio's Kaldi fbank.

    A waveform shorter than a window is padded to one frame, with zeros after its mean is removed,
    as the loader does for each clip.
    """

    window: torch.Tensor
    frames_to_spectrum: torch.Tensor
    bins_to_mels: torch.Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        # All follow from the configuration: they move with the module but are not saved.
        # The window is zero at the first sample of a frame, which is left out.
        window = F.pad(hann_window(config)[1:], (0, config.fft_size - config.window_samples + 1))
        for name, values in {
            "window": window.float(),
            "frames_to_spectrum": spectrum_matrix(config).float(),
            "bins_to_mels": mel_matrix(config).T.contiguous(),
        }.items():
            self.register_buffer(name, values, persistent=False)
        self._bands = list(_bands(self.bins_to_mels))

    def forward(
        self, waveform: Float32[torch.Tensor, "*batch samples"]
    ) -> Float32[torch.Tensor, "*batch frames mels"]:
        config = self.config
        missing = max(0, config.window_samples - waveform.shape[-1])
        if missing:  # otherwise each frame loses its own mean
            waveform = F.pad(waveform - waveform.mean(-1, keepdim=True), (0, missing))
        frames = waveform.unfold(-1, config.window_samples, config.hop_samples)
        # Means go before anything else, since a large offset costs digits of a quiet signal.
        means = frames.mean(-1, keepdim=True)
        if torch.compiler.is_exporting():
            return self._by_matrix(frames - means)
        longer = F.pad(waveform, (0, config.fft_size + 1 - config.window_samples))
        frames = longer.unfold(-1, config.fft_size + 1, config.hop_samples)
        at_once = max(1, FRAMES_AT_ONCE // math.prod(frames.shape[:-2]))
        split = zip(frames.split(at_once, -2), means.split(at_once, -2), strict=True)
        parts = [self._by_transform(*part) for part in split]
        return torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0]

    def _by_transform(
        self,
        frames: Float32[torch.Tensor, "*batch frames samples"],
        means: Float32[torch.Tensor, "*batch frames 1"],
    ) -> Float32[torch.Tensor, "*batch frames mels"]:
        """Log-mel of frames as long as the transform and one sample more, of which the window takes
        those that count."""
        centred = frames - means
        emphasised = torch.sub(centred[..., 1:], centred[..., :-1], alpha=PREEMPHASIS)
        spectrum = torch.fft.rfft(emphasised.mul_(self.window))
        squares = torch.view_as_real(spectrum).square()  # all at once, since lone parts take longer
        return self._log_mel(squares[..., 0] + squares[..., 1])

    def _by_matrix(
        self, frames: Float32[torch.Tensor, "*batch frames window"]
    ) -> Float32[torch.Tensor, "*batch frames mels"]:
        """Log-mel of centred frames. Pre-emphasis, window and DFT are linear, so one real matrix
        computes them all: other runtimes multiply faster than they transform."""
        real, imaginary = (frames @ self.frames_to_spectrum).chunk(2, dim=-1)
        return self._log_mel(real.square() + imaginary.square())

    def _log_mel(
        self, power: Float32[torch.Tensor, "*batch frames bins"]
    ) -> Float32[torch.Tensor, "*batch frames mels"]:
        mels = [power[..., bins] @ self.bins_to_mels[bins, some] for bins, some in self._bands]
        return torch.cat(mels, dim=-1).clamp_(min=SMALLEST_ENERGY).log_()


class WindowFeatures(nn.Module):
    """Waveforms to the model's input: log-mel, cut or padded to `num_frames`, normalised.

    The shape does not depend on the length, and all operators can be exported: a waveform is padded
    with zeros, and frames after its end become the padding of `fit`.
    """

    frame_numbers: torch.Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config)
        self.register_buffer("frame_numbers", torch.arange(config.num_frames), persistent=False)

    def forward(
        self,
        waveforms: Float32[torch.Tensor, "batch samples"],
        num_samples: Int64[torch.Tensor, " batch_or_1"],
    ) -> Float32[torch.Tensor, "batch frames mels"]:
        """Log-mel of the first `num_samples` (at least 1) of each waveform."""
        config = self.config
        padded = F.pad(waveforms, (0, config.max_clip_samples))[:, : config.max_clip_samples]
        padded = self._centred_if_short(padded, num_samples)
        frames = (num_samples - config.window_samples) // config.hop_samples + 1
        reached = self.frame_numbers < frames.clamp(min=1)[:, None]
        log_mel = torch.where(reached[:, :, None], self.log_mel(padded), 0.0)
        return normalise(log_mel, config)

    def _centred_if_short(
        self,
        padded: Float32[torch.Tensor, "batch samples"],
        num_samples: Int64[torch.Tensor, " batch_or_1"],
    ) -> Float32[torch.Tensor, "batch samples"]:
        """Waveforms that are shorter than a window without their means, as in `LogMel`."""
        window = self.config.window_samples
        within = torch.arange(window, device=padded.device) < num_samples[:, None]
        begin = torch.where(within, padded[:, :window], 0.0)
        mean = begin.sum(-1, keepdim=True) / num_samples[:, None]
        is_short = num_samples[:, None] < window
        begin = torch.where(is_short, torch.where(within, begin - mean, 0.0), padded[:, :window])
        return torch.cat([begin, padded[:, window:]], dim=1)


def fit(
    log_mel: Float[torch.Tensor, "*batch frames mels"], num_frames: int
) -> Float[torch.Tensor, "*batch fitted_frames mels"]:
    """Log-mel cut, or padded with zeros, to `num_frames`.

    As in the paper's code, padding is 0 before normalisation: neither silence (-15.9) nor the mean.
    """
    log_mel = log_mel[..., :num_frames, :]
    return F.pad(log_mel, (0, 0, 0, num_frames - log_mel.shape[-2]))


def normalise(
    log_mel: Float[torch.Tensor, "*batch frames mels"], config: FeatureConfig
) -> Float[torch.Tensor, "*batch frames mels"]:
    """Log-mel less the data set's mean, divided by its standard deviation."""
    return (log_mel - config.mean) / config.std


def hann_window(config: FeatureConfig) -> Float64[torch.Tensor, " window"]:
    """Symmetric Hann window, as Kaldi's: its first and last values are zero."""
    return torch.hann_window(config.window_samples, periodic=False, dtype=torch.float64)


def spectrum_matrix(config: FeatureConfig) -> Float64[torch.Tensor, "window twice_bins"]:
    """Matrix from a centred frame to its spectrum: the real parts of all bins, then the imaginary.

    A row is the output of Kaldi's chain for a frame that is 1 at one sample and 0 elsewhere.
    """
    impulses = torch.eye(config.window_samples, dtype=torch.float64)
    previous = torch.cat([impulses[:, :1], impulses[:, :-1]], dim=1)
    windowed = (impulses - PREEMPHASIS * previous) * hann_window(config)
    spectrum = torch.fft.rfft(windowed, config.fft_size)
    return torch.cat([spectrum.real, spectrum.imag], dim=1)


def _bands(bins_to_mels: Float32[torch.Tensor, "bins mels"]) -> Iterator[tuple[slice, slice]]:
    """Groups of neighbouring filters: the bins that feed any of them, and the filters."""
    for start in range(0, bins_to_mels.shape[1], MELS_AT_ONCE):
        some = slice(start, start + MELS_AT_ONCE)
        bins = bins_to_mels[:, some].any(dim=1).nonzero().flatten().tolist() or [0]
        yield slice(bins[0], bins[-1] + 1), some


def mel_matrix(config: FeatureConfig) -> Float32[torch.Tensor, "mels bins"]:
    """Kaldi's triangular filters, linear in mel, not normalised. A narrow filter can be empty: with
    the defaults, filter 3 is, and its feature is always log(eps).
    """
    high_hz = config.high_hz if config.high_hz > 0 else config.high_hz + config.sample_rate_hz / 2
    low, high = (MEL * math.log(1 + hz / 700) for hz in (config.low_hz, high_hz))
    step, number = (high - low) / (config.num_mels + 1), torch.arange(config.num_mels)[:, None]
    left, centre, right = (
        low + number * step,
        low + (number + 1.0) * step,
        low + (number + 2.0) * step,
    )
    bins_hz = config.sample_rate_hz / config.fft_size * torch.arange(config.fft_size / 2)
    mel = MEL * (1 + bins_hz / 700).log()
    filters = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre))
    return F.pad(filters.clamp(min=0), (0, 1))  # the bin at half the sample rate feeds no filter
