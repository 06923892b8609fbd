"""The definition of the log-mel front end in torch: Kaldi's fbank as one matrix product.

`psla_wds.features.dali` computes the same in DALI for training; this one tags single files, is
exported with a model, and is the reference of the tests.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Int64
from torch import nn
from torchaudio.compliance.kaldi import get_mel_banks

from psla_wds.errors import ConfigError

PREEMPHASIS = 0.97  # Kaldi's default
SMALLEST_ENERGY = torch.finfo(torch.float32).eps  # Kaldi's floor before the logarithm
FEWEST_MELS = 4  # get_mel_banks asserts more than 3


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Log-mel front end. The defaults are the paper's, for AudioSet and FSD50K."""

    sample_rate_hz: int = 16_000
    """Sample rate of the clips; the shards must have been built at this rate."""
    window_ms: float = 25.0
    """Length of the symmetric Hann window of a frame."""
    hop_ms: float = 10.0
    """Time from the start of a frame to the start of the next."""
    num_mels: int = 128
    """Mel filters, and so features per frame."""
    low_hz: float = 20.0
    """Lower edge of the mel filters."""
    high_hz: float = 8_000.0
    """Upper edge of the mel filters, at most half the sample rate."""
    num_frames: int = 1056
    """Frames given to the model; shorter clips are padded, longer ones cut."""
    mean: float = -4.6476
    """Mean of the log-mel values of the data set, subtracted from them."""
    std: float = 4.5699
    """Standard deviation of the log-mel values of the data set, which divides them."""

    def __post_init__(self) -> None:
        self._check_framing()
        self._check_filters()
        _require(self.std > 0, f"std={self.std:g} divides the features", "--features.std 4.5699")

    def _check_framing(self) -> None:
        _require(
            self.sample_rate_hz > 0,
            f"sample_rate_hz={self.sample_rate_hz} is not positive",
            "--features.sample-rate-hz 16000",
        )
        _require(
            self.window_samples >= 2,
            f"window_ms={self.window_ms:g} holds {self.window_samples} samples",
            "--features.window-ms 25",
        )
        _require(
            self.hop_samples >= 1,
            f"hop_ms={self.hop_ms:g} is less than a sample",
            "--features.hop-ms 10",
        )
        _require(
            self.hop_samples <= self.window_samples,
            f"hop_ms={self.hop_ms:g} is longer than window_ms={self.window_ms:g}: "
            "samples between windows would never be seen",
            f"--features.hop-ms {self.window_ms:g}",
        )
        _require(
            self.num_frames >= 1, f"num_frames={self.num_frames}", "--features.num-frames 1056"
        )

    def _check_filters(self) -> None:
        nyquist_hz = self.sample_rate_hz / 2
        _require(
            self.num_mels >= FEWEST_MELS,
            f"num_mels={self.num_mels} is less than {FEWEST_MELS}",
            "--features.num-mels 128",
        )
        _require(
            0 < self.high_hz <= nyquist_hz,
            f"high_hz={self.high_hz:g} is not between 0 and half the sample rate ({nyquist_hz:g})",
            f"--features.high-hz {nyquist_hz:g}",
        )
        _require(
            0 <= self.low_hz < self.high_hz,
            f"low_hz={self.low_hz:g} is not between 0 and high_hz={self.high_hz:g}",
            "--features.low-hz 0",
        )

    @property
    def window_samples(self) -> int:
        return _samples(self.window_ms, self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        return _samples(self.hop_ms, self.sample_rate_hz)

    @property
    def fft_size(self) -> int:
        """The next power of two: Kaldi pads the frame with zeros up to it."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def num_bins(self) -> int:
        return self.fft_size // 2 + 1

    @property
    def max_clip_samples(self) -> int:
        """Samples that `num_frames` frames see; what follows them in a clip is cut."""
        return (self.num_frames - 1) * self.hop_samples + self.window_samples


class LogMel(nn.Module):
    """Waveform in [-1, 1] to log-mel, not normalised, as torchaudio's Kaldi fbank gives it.

    Pre-emphasis, window and DFT of a frame are linear, so one real matrix does them all. A
    waveform shorter than a window is padded with zeros to one frame.
    """

    frames_to_spectrum: torch.Tensor
    bins_to_mels: torch.Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.window_samples = config.window_samples
        self.hop_samples = config.hop_samples
        # Both follow from the configuration: they move with the module, checkpoints omit them.
        self.register_buffer(
            "frames_to_spectrum", spectrum_matrix(config).float(), persistent=False
        )
        self.register_buffer("bins_to_mels", mel_matrix(config).T.contiguous(), persistent=False)

    def forward(
        self, waveform: Float32[torch.Tensor, "*batch samples"]
    ) -> Float32[torch.Tensor, "*batch frames mels"]:
        missing = max(0, self.window_samples - waveform.shape[-1])
        frames = F.pad(waveform, (0, missing)).unfold(-1, self.window_samples, self.hop_samples)
        # The matrix could remove the mean as well, but in float32 a large offset then costs the
        # digits of a quiet signal: 1e-3 in log-mel instead of 4e-5.
        frames = frames - frames.mean(-1, keepdim=True)
        real, imaginary = (frames @ self.frames_to_spectrum).chunk(2, dim=-1)
        mel = (real.square() + imaginary.square()) @ self.bins_to_mels
        return mel.clamp(min=SMALLEST_ENERGY).log()


class WindowFeatures(nn.Module):
    """Waveforms to what the model gets: log-mel, cut or padded to `num_frames`, normalised.

    One shape whatever the length, and operators that can be exported: a waveform is padded with
    zeros, and frames that it does not reach become the padding that `fit` gives.
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
        """Of each waveform the first `num_samples`, of which there is one at least."""
        config = self.config
        padded = F.pad(waveforms, (0, config.max_clip_samples))[:, : config.max_clip_samples]
        frames = (num_samples - config.window_samples) // config.hop_samples + 1
        reached = self.frame_numbers < frames.clamp(min=1)[:, None]
        log_mel = torch.where(reached[:, :, None], self.log_mel(padded), 0.0)
        return normalise(log_mel, config)


def fit(
    log_mel: Float[torch.Tensor, "*batch frames mels"], num_frames: int
) -> Float[torch.Tensor, "*batch fitted_frames mels"]:
    """Cut, or padded with zeros, to `num_frames`.

    Zero before normalisation, as in the paper's code: neither silence (-15.9) nor the mean.
    """
    log_mel = log_mel[..., :num_frames, :]
    return F.pad(log_mel, (0, 0, 0, num_frames - log_mel.shape[-2]))


def normalise(
    log_mel: Float[torch.Tensor, "*batch frames mels"], config: FeatureConfig
) -> Float[torch.Tensor, "*batch frames mels"]:
    return (log_mel - config.mean) / config.std


def hann_window(config: FeatureConfig) -> Float64[torch.Tensor, " window"]:
    """Symmetric, as Kaldi's: the first sample is zero, so is the last."""
    return torch.hann_window(config.window_samples, periodic=False, dtype=torch.float64)


def spectrum_matrix(config: FeatureConfig) -> Float64[torch.Tensor, "window twice_bins"]:
    """A centred frame times this is its spectrum: the real parts of all bins, then the imaginary.

    Its rows are what Kaldi's chain makes of a frame that is 1 at one sample, 0 elsewhere.
    """
    impulses = torch.eye(config.window_samples, dtype=torch.float64)
    previous = torch.cat([impulses[:, :1], impulses[:, :-1]], dim=1)
    windowed = (impulses - PREEMPHASIS * previous) * hann_window(config)
    spectrum = torch.fft.rfft(windowed, config.fft_size)
    return torch.cat([spectrum.real, spectrum.imag], dim=1)


def mel_matrix(config: FeatureConfig) -> Float32[torch.Tensor, "mels bins"]:
    """Kaldi's triangles, linear in mel, not normalised. A narrow filter can hold no bin: at the
    defaults filter 3 is empty, and constant at log(eps).
    """
    filters, _ = get_mel_banks(
        config.num_mels,
        config.fft_size,
        config.sample_rate_hz,
        config.low_hz,
        config.high_hz,
        vtln_low=100.0,  # without effect: no warping
        vtln_high=-500.0,
        vtln_warp_factor=1.0,
    )
    return F.pad(filters, (0, 1))  # the bin at half the sample rate feeds no filter


def _samples(length_ms: float, sample_rate_hz: int) -> int:
    return int(sample_rate_hz * length_ms * 0.001)  # torchaudio's rounding, to the letter


def _require(holds: bool, what: str, fix: str) -> None:
    if not holds:
        raise ConfigError(what, where="features", fix=f"set {fix}")
