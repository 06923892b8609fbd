"""The same model for other runtimes, front end inside: waveform in, scores out.

As ONNX, and as a program of torch.export. Batch and length are free. Both are compared with the
model when they are written.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float32
from torch.export import Dim, ExportedProgram

from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.labels.class_list import ClassList
from psla_wds.tagging.waveform_model import WaveformModel

TOLERANCE = 1e-4
"""Largest difference of a score from the model's: other libraries sum in another order."""
OUTPUTS = ("scores", "frame_scores")

Waveforms = Float32[np.ndarray, "batch samples"]


def write_pt2(model: WaveformModel, path: Path) -> None:
    """For `torch.export.load(path).module()`, which needs nothing but torch."""
    torch.export.save(_program(model), path)
    loaded = torch.export.load(path).module()

    def run(waveforms: Waveforms) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in loaded(torch.from_numpy(waveforms))]

    _check(model, run, path)


def write_onnx(model: WaveformModel, classes: ClassList, path: Path) -> None:
    """For ONNX Runtime and others; the class list stands in the file's metadata."""
    onnxruntime = _packages()
    with warnings.catch_warnings():  # of torch about its own insides
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            _program(model),
            input_names=["waveform"],
            output_names=list(OUTPUTS),
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    features = model.features
    exported.model.metadata_props.update(
        sample_rate_hz=str(features.sample_rate_hz),
        frame_s=str(model.stride_frames * features.hop_samples / features.sample_rate_hz),
        mids=json.dumps(classes.mids),
        names=json.dumps(classes.names, ensure_ascii=False),
    )
    exported.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    _check(model, lambda waveforms: session.run(OUTPUTS, {"waveform": waveforms}), path)


def _packages() -> ModuleType:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError:
        raise ConfigError(
            "ONNX needs the packages onnx, onnxscript and onnxruntime",
            where="--onnx",
            fix="pip install -c constraints.txt 'psla-wds[export]'",
        ) from None
    return onnxruntime


class _OneInput(torch.nn.Module):
    """Waveforms of one length; other ways to call the model are none of the file's."""

    def __init__(self, model: WaveformModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model(waveform)


def _program(model: WaveformModel) -> ExportedProgram:
    # Two of a second: sizes of 1 and 0 would be taken for constants.
    example = torch.zeros(2, model.features.sample_rate_hz)
    free = {"waveform": {0: Dim("batch", min=1), 1: Dim("samples", min=1)}}
    try:
        with torch.no_grad():
            return torch.export.export(_OneInput(model), (example,), dynamic_shapes=free)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"torch cannot export this network: {reason}",
            where="--onnx, --pt2",
            fix="leave them out, or choose another backbone",
        ) from None


def _check(model: WaveformModel, run: Callable[[Waveforms], list[np.ndarray]], path: Path) -> None:
    """Raise unless a file gives the scores of the model, for other shapes than it was made with."""
    rng = np.random.default_rng(0)
    rate_hz = model.features.sample_rate_hz
    for shape in ((1, 3 * rate_hz // 2), (3, rate_hz // 3), (1, 1)):
        waveforms = (0.1 * rng.standard_normal(shape)).astype(np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(waveforms))
        for found, wanted in zip(run(waveforms), expected, strict=True):
            difference = float(np.abs(found - wanted.numpy()).max())
            if not difference <= TOLERANCE:
                raise CheckpointError(
                    f"scores of {path.name} differ by {difference:.1e} from those of the model",
                    where=path,
                    fix="leave it out; please report this backbone",
                )
