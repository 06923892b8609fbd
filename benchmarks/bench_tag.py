"""Time tagging on the CPU, in multiples of real time: networks, runtimes, and whole files.

Windows of 10.6 s without overlap, from waveforms in memory: PyTorch and ONNX Runtime, one at a time
and in batches, whose scores must agree; then the work of eval.tag on a 44.1 kHz stereo FLAC file,
with decoding and resampling. Weights are random, which takes as long.

    python -m benchmarks.bench_tag
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import torch

from benchmarks.harness import (
    RATES,
    RESULTS,
    BatchSize,
    Classes,
    Clips,
    Column,
    Rate,
    Repeats,
    compare,
    record,
    table,
    timed,
)
from benchmarks.tables import run_benchmark
from eval.exporting.portable import write_onnx
from psla_wds import FeatureConfig, Tagger, WindowConfig
from psla_wds.audio.decode import decode
from psla_wds.config import Within
from psla_wds.errors import PslaError
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.checkpoint import Checkpoint
from psla_wds.models.config import Head, ModelConfig
from psla_wds.tagging.waveform_model import WaveformModel

NETWORKS: dict[str, tuple[str, Head]] = {
    "mobilenet-v2, linear": ("mobilenet-v2", "linear"),
    "efficientnet-b0, 1 head": ("efficientnet-b0", "single-head-attention"),
    "efficientnet-b2, 4 heads": ("efficientnet-b2", "multi-head-attention"),
}
FILE_RATE_HZ = 44_100
TOLERANCE = 1e-4
COLUMNS = (
    Column("network", "network"),
    Column("", "name"),
    Column("times real time", "times_real_time", "{:,.0f}", "spread"),
    Column("MiB", "mebibytes", "{:.1f}"),
    *RATES[1:],
)

Run = Callable[[np.ndarray], np.ndarray]
"""Waveforms (windows, samples) to scores (windows, classes)."""


@dataclass(frozen=True)
class Args:
    windows: Clips = 8
    """Windows that each way tags in a round."""
    batch_size: BatchSize = 4
    classes: Classes = 527
    threads: Annotated[int, Within(1, 1024)] = 2
    """Threads of each runtime."""
    repeats: Repeats = 5
    output: Path = RESULTS / "bench_tag.json"


def measure(args: Args) -> dict[str, Any]:
    """Compare the ways of each network; the record for the results folder."""
    torch.set_num_threads(args.threads)
    rows = []
    for network, (backbone, head) in NETWORKS.items():
        config = ModelConfig(backbone=backbone, head=head, initial_weights="none")
        member = _member(config, args.classes)
        window_s = member.features.max_clip_samples / member.features.sample_rate_hz
        with tempfile.TemporaryDirectory(prefix="bench_tag-") as folder:
            ways = _ways(member, args, Path(folder))
            sizes = _mebibytes(member, Path(folder))
            for row in compare(ways, repeats=args.repeats):
                row["network"] = network
                row["times_real_time"] = row["clips_per_s"] * window_s
                row["mebibytes"] = sizes[row["name"].partition(",")[0]]
                rows.append(row)
    return record("Tagging on a CPU", [table(COLUMNS, rows)], args)


def _member(config: ModelConfig, num_classes: int) -> Checkpoint:
    torch.manual_seed(0)
    weights = AudioTagger(config, num_classes).state_dict()
    names = tuple(f"class {number}" for number in range(num_classes))
    return Checkpoint(weights, config, FeatureConfig(), ClassList(names, names), epoch=0)


def _ways(member: Checkpoint, args: Args, folder: Path) -> dict[str, Rate]:
    features = member.features
    waveforms = _sound(args.windows * features.max_clip_samples).reshape(args.windows, -1)
    model = WaveformModel([member]).to(memory_format=torch.channels_last)
    write_onnx(model, member.classes, folder / "model.onnx")
    model.simplify()  # as Tagger does
    runs = {
        "PyTorch": _by_torch(model),
        "ONNX Runtime": _by_onnx_runtime(folder / "model.onnx", args.threads),
    }
    _check_equal(runs, waveforms[:2])
    ways = {
        f"{name}, batches of {size}": timed(partial(_run, run, waveforms, size))
        for size in dict.fromkeys((1, args.batch_size))
        for name, run in runs.items()
    }
    path = folder / "recording.flac"
    length_s = args.windows * features.max_clip_samples / features.sample_rate_hz
    sound = _sound(round(length_s * FILE_RATE_HZ))
    soundfile.write(path, np.stack([sound, sound[::-1]], axis=1), FILE_RATE_HZ)
    taggers = [Tagger([member], windows=WindowConfig(overlap=0.0), device="cpu") for _ in range(2)]
    taggers[1].use_onnx_runtime(folder)
    names = ("eval.tag, a FLAC file at 44.1 kHz", "eval.tag, the same, --runtime onnx")
    return ways | {
        name: timed(partial(_tag_file, tagger, path))
        for name, tagger in zip(names, taggers, strict=True)
    }


def _by_torch(model: WaveformModel) -> Run:
    def run(waveforms: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(waveforms))[0].numpy()

    return run


def _by_onnx_runtime(path: Path, threads: int) -> Run:
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda waveforms: session.run(["scores"], {"waveform": waveforms})[0]


def _check_equal(runs: dict[str, Run], waveforms: np.ndarray) -> None:
    expected, *others = (run(waveforms) for run in runs.values())
    difference = max(float(np.abs(found - expected).max()) for found in others)
    if not difference <= TOLERANCE:
        raise PslaError(f"the runtimes' scores differ by {difference:.1e}", fix="a bug: report it")


def _run(run: Run, waveforms: np.ndarray, batch_size: int) -> int:
    for start in range(0, len(waveforms), batch_size):
        run(waveforms[start : start + batch_size])
    return len(waveforms)


def _tag_file(tagger: Tagger, path: Path) -> int:
    blocks = decode(path, tagger.features.sample_rate_hz)
    return sum(1 for _ in tagger.stream([blocks]))


def _sound(num_samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(num_samples)).astype(np.float32)


def _mebibytes(member: Checkpoint, folder: Path) -> dict[str, float]:
    """Size of the file that each way loads."""
    weights = sum(tensor.nbytes for tensor in member.weights.values())
    sizes = {
        "PyTorch": weights,
        "ONNX Runtime": (folder / "model.onnx").stat().st_size,
        "eval.tag": weights,
    }
    return {name: size / 2**20 for name, size in sizes.items()}


if __name__ == "__main__":
    run_benchmark("benchmarks.bench_tag", __doc__, Args, measure)
