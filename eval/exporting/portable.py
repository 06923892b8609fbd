"""The model as ONNX, front end inside: waveform in, scores out, of any batch and length; on request
also embeddings.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from psla_wds.errors import CheckpointError, optional_package
from psla_wds.labels.class_list import ClassList
from psla_wds.models.config import Pooling
from psla_wds.tagging.waveform_model import WaveformModel

TOLERANCE = 1e-4
"""Largest allowed difference from the model's outputs (of embeddings, as a share of the largest
number): other libraries sum in another order."""
OUTPUTS = ("scores", "frame_scores", "embeddings")


def write_onnx(
    model: WaveformModel,
    classes: ClassList,
    path: Path,
    pooling: Pooling | None = None,
    *,
    thresholds: Sequence[float | None] | None = None,
) -> None:
    """Write a file for ONNX Runtime and others; classes and thresholds are in its metadata.

    Args:
        pooling: pooling of the third output, the embeddings; default: there are none.

    Raises `CheckpointError` if torch cannot export the network, or if ONNX Runtime's scores differ
    from the model's.
    """
    install = "onnx onnxruntime onnxscript"
    optional_package("onnxscript", "ONNX models", where="--onnx", install=install)
    onnxruntime = optional_package("onnxruntime", "ONNX models", where="--onnx", install=install)
    program = _program(model, pooling)
    with warnings.catch_warnings():  # torch warns about its own internals
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            input_names=["waveform"],
            output_names=list(OUTPUTS if pooling else OUTPUTS[:2]),
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    exported.model.metadata_props.update(
        sample_rate_hz=str(model.features.sample_rate_hz),
        frame_s=str(model.frame_s),
        mids=json.dumps(classes.mids),
        names=json.dumps(classes.names, ensure_ascii=False),
    )
    if thresholds:
        exported.model.metadata_props["thresholds"] = json.dumps(thresholds)
    if pooling:
        exported.model.metadata_props["pooling"] = pooling
    exported.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    check_scores(model, session, path, pooling)


def _program(model: WaveformModel, pooling: Pooling | None) -> ExportedProgram:
    # Two waveforms of a second: torch takes sizes of 0 and 1 for constants.
    example = torch.zeros(2, model.features.sample_rate_hz)
    free = {
        "waveforms": {0: Dim("batch", min=1), 1: Dim("samples", min=1)},
        "num_samples": None,
        "pooling": None,
    }
    try:
        with torch.no_grad():
            return torch.export.export(model, (example, None, pooling), dynamic_shapes=free)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"torch cannot export this network: {reason}",
            where="--onnx",
            fix="leave it out, or choose another backbone",
        ) from None


def check_scores(
    model: WaveformModel, session: Any, path: Path, pooling: Pooling | None = None
) -> None:
    """Raise `CheckpointError` if a session of ONNX Runtime gives other outputs than the model, for
    inputs of other shapes than the export's."""
    rng = np.random.default_rng(0)
    rate_hz = model.features.sample_rate_hz
    for shape in ((1, 3 * rate_hz // 2), (3, rate_hz // 3), (1, 1)):
        waveforms = (0.1 * rng.standard_normal(shape)).astype(np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(waveforms), pooling=pooling)
        found = session.run(OUTPUTS[: len(expected)], {"waveform": waveforms})
        for name, one, other in zip(OUTPUTS, found, expected, strict=False):
            scale = max(1.0, float(other.abs().max()))
            difference = float(np.abs(one - other.numpy()).max()) / scale
            if not difference <= TOLERANCE:
                raise CheckpointError(
                    f"{name} of {path.name} differ by {difference:.1e} from those of the model",
                    where=path,
                    fix="leave --onnx out; please report this backbone",
                )
