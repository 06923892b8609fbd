"""The exported model.onnx in ONNX Runtime, in place of the network."""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from psla_wds.errors import CheckpointError, ConfigError, optional_package
from psla_wds.models.config import Pooling
from psla_wds.models.model_folder import ONNX


class OnnxForward:
    """Forward passes as those of `WaveformModel`, on the cores of a CPU."""

    def __init__(self, folder: Path, mids: Sequence[str]) -> None:
        """`mids` are the classes of the folder's weights, which must be those of its model.onnx."""
        install = "onnxruntime"
        runtime = optional_package(install, "ONNX models", where="--runtime onnx", install=install)
        path, self.threads = folder / ONNX, torch.get_num_threads()
        if not path.is_file():
            raise ConfigError(
                f"the model has no {ONNX}",
                where=folder,
                fix="export it with: psla-wds export MODEL --onnx --output FOLDER",
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        try:
            self._session = runtime.InferenceSession(path, options, ["CPUExecutionProvider"])
            facts = self._session.get_modelmeta().custom_metadata_map
            if tuple(json.loads(facts["mids"])) != tuple(mids):
                raise ValueError("its classes are not those of the weights")
        except Exception as error:  # of many types, which are not public
            raise CheckpointError(
                f"cannot use the model: {(str(error) or repr(error)).splitlines()[0]}",
                where=path,
                fix="export it again with --onnx",
            ) from None
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._pooling = facts.get("pooling")

    def __call__(
        self, waveforms: Tensor, num_samples: Tensor, *, pooling: Pooling | None = None
    ) -> tuple[Tensor, ...]:
        """Scores, frame scores, and with `pooling` embeddings; `ConfigError` if the file has no
        embeddings of this pooling."""
        if pooling not in (None, self._pooling):
            raise ConfigError(
                f"{ONNX} has no embeddings by {pooling}",
                where="--runtime onnx",
                fix=f"export it with --onnx-embeddings {pooling}, or leave --runtime out",
            )
        names, results, begin = self._outputs[: 3 if pooling else 2], [], 0
        for length, alike in groupby(num_samples.tolist()):  # the file takes waveforms of one
            end = begin + len(list(alike))
            part = waveforms[begin:end, :length].numpy()
            results.append(self._session.run(names, {"waveform": part}))
            begin = end
        return tuple(
            torch.from_numpy(np.concatenate(parts)) for parts in zip(*results, strict=True)
        )
