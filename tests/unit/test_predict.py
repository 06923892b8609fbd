"""The forward pass of a prediction keeps no graph, and whoever takes the scores is left alone."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from label_index import index_with_labels
from torch import Tensor, nn

from psla_wds.evaluation.predict import Predictor
from psla_wds.features.config import FeatureConfig
from psla_wds.loading.loader import Batch
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.reading.reader import ReaderConfig
from psla_wds.runtime.distributed import World


class Witness(AudioTagger):
    """Notes whether each forward pass was made in inference mode."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.ones(1))
        self.inference: list[bool] = []

    def forward(self, log_mel: Tensor) -> Tensor:
        self.inference.append(torch.is_inference_mode_enabled())
        return self.weight * log_mel.mean(dim=2)


def test_only_the_forward_pass_is_in_inference_mode(monkeypatch: pytest.MonkeyPatch):
    log_mel = torch.ones(1, 4, 8)
    batches = [Batch(log_mel, torch.zeros(1, 4), np.array([row])) for row in range(2)]
    monkeypatch.setattr("psla_wds.evaluation.predict.Loader", lambda *_, **__: nullcontext(batches))
    index, model = index_with_labels([[0], [1]]), Witness()
    predictor = Predictor(model, index.classes, FeatureConfig(), 1, ReaderConfig())
    for rows, scores in predictor.batches(index, World(0, 1, torch.device("cpu"))):
        assert not torch.is_inference_mode_enabled()  # between two batches, the caller's mode holds
        assert len(rows) == len(scores) == 1
    assert model.inference == [True, True]
