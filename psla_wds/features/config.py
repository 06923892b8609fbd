"""Settings of the log-mel front end. Without torch, so that a command can list them at once."""

from dataclasses import dataclass
from typing import Annotated

from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Log-mel front end. The defaults are the paper's, for AudioSet and FSD50K."""

    sample_rate_hz: Annotated[int, Within(1)] = 16_000
    """Sample rate of the clips; the shards must have been built at this rate."""
    window_ms: float = 25.0
    """Length of the symmetric Hann window of a frame."""
    hop_ms: float = 10.0
    """Time from the start of a frame to the start of the next."""
    num_mels: Annotated[int, Within(4)] = 128  # fewer are an assertion in torchaudio
    """Mel filters, and so features per frame."""
    low_hz: float = 20.0
    """Lower edge of the mel filters."""
    high_hz: float = 8_000.0
    """Upper edge of the mel filters, at most half the sample rate."""
    num_frames: Annotated[int, Within(1)] = 1056
    """Frames given to the model; shorter clips are padded, longer ones cut."""
    mean: Annotated[float, Within()] = -4.6476
    """Mean of the log-mel values of the data set, subtracted from them."""
    std: Annotated[float, Within(0, without=(0,))] = 4.5699
    """Standard deviation of the log-mel values of the data set, which divides them."""

    def __post_init__(self) -> None:
        check_ranges(self, "features")
        nyquist_hz = self.sample_rate_hz / 2
        rules = (
            (
                self.window_samples >= 2,
                f"window_ms={self.window_ms:g} holds {self.window_samples} samples",
                "--features.window-ms 25",
            ),
            (
                self.hop_samples >= 1,
                f"hop_ms={self.hop_ms:g} is less than a sample",
                "--features.hop-ms 10",
            ),
            (
                self.hop_samples <= self.window_samples,
                f"hop_ms={self.hop_ms:g} is longer than window_ms={self.window_ms:g}: samples "
                "between windows would never be seen",
                f"--features.hop-ms {self.window_ms:g}",
            ),
            (
                0 < self.high_hz <= nyquist_hz,
                f"high_hz={self.high_hz:g} is not between 0 and half the sample rate "
                f"({nyquist_hz:g})",
                f"--features.high-hz {nyquist_hz:g}",
            ),
            (
                0 <= self.low_hz < self.high_hz,
                f"low_hz={self.low_hz:g} is not between 0 and high_hz={self.high_hz:g}",
                "--features.low-hz 0",
            ),
        )
        for holds, problem, good in rules:
            if not holds:
                raise ConfigError(problem, where="features", fix=f"set {good}")

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


def _samples(length_ms: float, sample_rate_hz: int) -> int:
    return int(sample_rate_hz * length_ms * 0.001)  # torchaudio's rounding, to the letter
