"""Settings of the log-mel front end, without torch, so that --help is quick."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError

MOST_NUMBERS = 2**27
"""Limit of the numbers of an array of the front end (512 MiB)."""


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Log-mel front end. The defaults are the paper's, for AudioSet and FSD50K."""

    sample_rate_hz: Annotated[int, Within(1, 768_000)] = 16_000
    """Sample rate of the clips; the shards must have been built at this rate."""
    window_ms: Annotated[float, Within(0, 10_000, without=(0,))] = 25.0
    """Length of the symmetric Hann window of a frame."""
    hop_ms: Annotated[float, Within(0, 10_000, without=(0,))] = 10.0
    """Time from the start of a frame to the start of the next."""
    num_mels: Annotated[int, Within(4, 4096)] = 128  # fewer are an assertion in torchaudio
    """Number of mel filters, and so of features per frame."""
    low_hz: Annotated[float, Within(0, 384_000)] = 20.0
    """Lower edge of the mel filters."""
    high_hz: Annotated[float, Within(0, 384_000, without=(0,))] = 8_000.0
    """Upper edge of the mel filters, at most half the sample rate."""
    num_frames: Annotated[int, Within(1, 1_000_000)] = 1056
    """Frames that the model gets; shorter clips are padded, longer ones cut."""
    mean: Annotated[float, Within(-1e6, 1e6)] = -4.6476
    """Mean of the data set's log-mel values, subtracted from them."""
    std: Annotated[float, Within(0, 1e6, without=(0,))] = 4.5699
    """Standard deviation of the data set's log-mel values, which they are divided by."""

    def __post_init__(self) -> None:
        check_ranges(self, "features")
        for problem, good in self._faults():
            raise ConfigError(problem, where="features", fix=f"set --features.{good}")

    def _faults(self) -> Iterator[tuple[str, str]]:
        """Settings that contradict each other, each with a flag that mends it."""
        window, hop, nyquist_hz = self.window_ms, self.hop_ms, self.sample_rate_hz / 2
        if self.window_samples < 2:
            yield f"window_ms={window:g} holds {self.window_samples} samples", "window-ms 25"
        if self.hop_samples < 1:
            yield f"hop_ms={hop:g} is less than a sample", "hop-ms 10"
        if self.hop_samples > self.window_samples:
            problem = f"hop_ms={hop:g} is longer than window_ms={window:g}: samples between windows"
            yield f"{problem} would never be seen", f"hop-ms {window:g}"
        if not 0 < self.high_hz <= nyquist_hz:
            limits = f"0 and half the sample rate ({nyquist_hz:g})"
            yield f"high_hz={self.high_hz:g} is not between {limits}", f"high-hz {nyquist_hz:g}"
        if not 0 <= self.low_hz < self.high_hz:
            limits = f"0 and high_hz={self.high_hz:g}"
            yield f"low_hz={self.low_hz:g} is not between {limits}", "low-hz 0"
        if self.most_numbers > MOST_NUMBERS:
            problem = f"{self.most_numbers:,} numbers would be in memory for one clip"
            yield problem, "num-frames 1056, --features.num-mels 128 and --features.window-ms 25"

    @property
    def window_samples(self) -> int:
        return _samples(self.window_ms, self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        return _samples(self.hop_ms, self.sample_rate_hz)

    @property
    def fft_size(self) -> int:
        """The next power of two: Kaldi pads a frame with zeros to that length."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def most_numbers(self) -> int:
        """Numbers of the largest array: a matrix of the front end, or a clip's frames."""
        return max(
            self.window_samples * self.fft_size,
            self.num_mels * self.fft_size,
            self.num_frames * max(self.num_mels, self.fft_size),
            self.max_clip_samples,
        )

    @property
    def num_bins(self) -> int:
        return self.fft_size // 2 + 1

    @property
    def max_clip_samples(self) -> int:
        """Samples that `num_frames` frames cover; the rest of a longer clip is cut."""
        return (self.num_frames - 1) * self.hop_samples + self.window_samples


def _samples(length_ms: float, sample_rate_hz: int) -> int:
    return int(sample_rate_hz * length_ms * 0.001)  # torchaudio's rounding, to the letter
