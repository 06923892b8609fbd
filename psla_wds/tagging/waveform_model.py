"""A tagger with its front end as one network, waveforms in and scores out, to use or export."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor, nn

from psla_wds.errors import CheckpointError
from psla_wds.features.config import FeatureConfig
from psla_wds.features.log_mel import WindowFeatures
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.backbones import PROBED_FRAMES
from psla_wds.models.checkpoint import Checkpoint
from psla_wds.models.config import Pooling, Precision
from psla_wds.models.heads import mean_weights
from psla_wds.models.inference import simplify

MOST_NUMBERS = 2**24
"""Limit for a matrix of the front end and for the features of a window (64 MiB), since a file can
claim any size."""


class WaveformModel(nn.Module):
    """One tagger, or several whose scores are averaged, with the front end that they share."""

    column_numbers: Tensor

    def __init__(self, members: Sequence[Checkpoint], precision: Precision = "float32") -> None:
        super().__init__()
        self.features = members[0].features
        _check_sizes(self.features)
        self.front_end = WindowFeatures(self.features)
        self.members = nn.ModuleList(member.build() for member in members)
        short, long = PROBED_FRAMES
        maps = [_map_columns(member, (short, long, self.features.num_frames)) for member in members]
        strides = {(long - short) // (of_long - of_short) for of_short, of_long, _ in maps}
        if len(strides) > 1:
            raise CheckpointError(
                f"frames of these models have several lengths: {sorted(strides)} of log-mel",
                where="ensemble",
                fix="use models whose backbones have one stride",
            )
        (self.stride_frames,) = strides
        """Log-mel frames for each column of the trunk's map, and so for each frame score."""
        self.num_columns = min(columns for _, _, columns in maps)
        columns = torch.arange(self.num_columns)
        self.register_buffer("column_numbers", columns, persistent=False)
        self.embedding_size = sum(tagger.num_features for tagger in self._taggers())
        """Numbers of an embedding: the features of the trunk, in an ensemble those of all."""
        for tagger in self._taggers():
            tagger.precision = precision
        self.eval()

    def forward(
        self,
        waveforms: Float32[Tensor, "batch samples"],
        num_samples: Int64[Tensor, " batch_or_1"] | None = None,
        pooling: Pooling | None = None,
    ) -> tuple[Float32[Tensor, "batch _"] | Float32[Tensor, "batch columns classes"], ...]:
        """Scores (batch, classes) and frame scores (batch, columns, classes) of the first
        `num_samples` of each waveform (default: all), and with `pooling` their embeddings (batch,
        `embedding_size`): the members' side by side, since each has features of its own.

        A waveform is cut or padded to the length that the model takes. Frame i begins at i times
        `stride_frames` hops; scores of frames that begin after the last sample are undefined, and
        these frames have no part in embeddings.
        """
        if num_samples is None:
            num_samples = torch.full((1,), waveforms.shape[1], device=waveforms.device)
        log_mel = self.front_end(waveforms, num_samples)
        scores, frame_scores, embeddings = [], [], []
        for tagger in self._taggers():
            features = tagger.map_columns(log_mel)
            scores.append(tagger.head(features))
            frame_scores.append(tagger.head.score_frames(features)[..., : self.num_columns])
            if pooling:
                columns = features[..., : self.num_columns]
                weigh = mean_weights if pooling == "mean" else tagger.head.weigh_frames
                weights = weigh(columns, self._reached(num_samples))
                embeddings.append((columns.squeeze(2) * weights[:, None]).sum(dim=2))
        results = torch.stack(scores).mean(0), torch.stack(frame_scores).mean(0).mT
        return (*results, torch.cat(embeddings, dim=1)) if pooling else results

    def simplify(self) -> None:
        """Make the trunks faster, for scores alone; they stay the same but for rounding."""
        for tagger in self._taggers():
            simplify(tagger.trunk)

    def _reached(
        self, num_samples: Int64[Tensor, " batch_or_1"]
    ) -> Bool[Tensor, "batch_or_1 columns"]:
        """True for columns that begin before the end of a waveform, and for the first."""
        starts = self.column_numbers * (self.stride_frames * self.features.hop_samples)
        return starts < num_samples.clamp(min=1)[:, None]

    @property
    def frame_s(self) -> float:
        """Seconds from one frame score to the next."""
        return self.stride_frames * self.features.hop_samples / self.features.sample_rate_hz

    def _taggers(self) -> list[AudioTagger]:
        return cast(list[AudioTagger], list(self.members))


def _map_columns(member: Checkpoint, num_frames: Sequence[int]) -> list[int]:
    """Columns of the trunk's map for inputs of these lengths. No library states them, so they are
    found by a forward pass without weights."""
    with torch.device("meta"), torch.inference_mode():
        tagger = AudioTagger(member.model, len(member.classes)).eval()
        inputs = (torch.zeros(1, frames, member.features.num_mels) for frames in num_frames)
        return [tagger.map_columns(log_mel).shape[-1] for log_mel in inputs]


def _check_sizes(features: FeatureConfig) -> None:
    """Raise `CheckpointError` before settings that no model was trained with take memory."""
    if features.most_numbers > MOST_NUMBERS:
        raise CheckpointError(
            f"the features of this model take {features.most_numbers:,} numbers at once",
            where="features",
            fix="use a model with shorter windows, or fewer frames and mels",
        )
