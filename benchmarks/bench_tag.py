"""Tagging on the CPU, as times real time: networks, runtimes, and whole files.

    python -m benchmarks.bench_tag

Windows of 10.6 s without overlap, from waveforms in memory: by PyTorch one at a time and in
batches, by ONNX Runtime and by the program of torch.export, whose scores must agree; then what
eval.tag does with a FLAC file of stereo at 44.1 kHz, decoding and resampling included. Weights are
random, which takes as long.
"""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.harness import RESULTS, compare, record, show, timed, write
from eval.exporting.portable import write_onnx, write_pt2
from psla_wds import cli
from psla_wds.audio.decode import decode
from psla_wds.errors import PslaError
from psla_wds.features.config import FeatureConfig
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.checkpoint import Checkpoint
from psla_wds.models.config import Head, ModelConfig
from psla_wds.tagging.config import WindowConfig
from psla_wds.tagging.tagger import Tagger
from psla_wds.tagging.waveform_model import WaveformModel

NETWORKS: dict[str, tuple[str, Head]] = {
    "mobilenet-v2, linear": ("mobilenet-v2", "linear"),
    "efficientnet-b0, 1 head": ("efficientnet-b0", "single-head-attention"),
    "efficientnet-b2, 4 heads": ("efficientnet-b2", "multi-head-attention"),
}
FILE_RATE_HZ = 44_100
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Args:
    windows: int = 8
    """Windows that each way has in a round."""
    batch_size: int = 4
    classes: int = 527
    threads: int = 2
    """Of each runtime."""
    repeats: int = 5
    output: Path = RESULTS / "bench_tag.json"


def measure(args: Args) -> dict[str, Any]:
    """Compare the ways of each network; the record for the results folder."""
    torch.set_num_threads(args.threads)
    results: list[dict[str, Any]] = []
    for network, (backbone, head) in NETWORKS.items():
        member = _member(ModelConfig(backbone=backbone, head=head, initial_weights="none"), args)
        with tempfile.TemporaryDirectory(prefix="bench_tag-") as folder:
            ways = _ways(member, args, Path(folder))
            sizes = _mebibytes(member, Path(folder))
            window_s = member.features.max_clip_samples / member.features.sample_rate_hz
            for result in compare(ways, repeats=args.repeats):
                more = {
                    "level": network,
                    "times_real_time": result.clips_per_s * window_s,
                    "mebibytes": sizes[result.name.partition(",")[0]],
                }
                results.append(asdict(result) | more)
    content = record(
        "Tagging on a CPU",
        [],
        windows=args.windows,
        batch_size=args.batch_size,
        threads=args.threads,
        classes=args.classes,
        repeats=args.repeats,
        page_cache="warm",
    )
    return content | {"results": results}


def _member(config: ModelConfig, args: Args) -> Checkpoint:
    torch.manual_seed(0)
    weights = AudioTagger(config, args.classes).state_dict()
    names = tuple(f"class {number}" for number in range(args.classes))
    return Checkpoint(weights, config, FeatureConfig(), ClassList(names, names), epoch=0)


def _ways(member: Checkpoint, args: Args, folder: Path) -> dict[str, Callable[[], float]]:
    features = member.features
    waveforms = _sound(args.windows * features.max_clip_samples).reshape(args.windows, -1)
    model = WaveformModel([member])
    write_onnx(model, member.classes, folder / "model.onnx")
    write_pt2(model, folder / "model.pt2")
    runs = {
        "PyTorch": _by_torch(model),
        "ONNX Runtime": _by_onnx_runtime(folder / "model.onnx", args.threads),
        "torch.export": _by_torch(torch.export.load(folder / "model.pt2").module()),
    }
    _check_equal(runs, waveforms[:2])
    ways = {}
    for size in dict.fromkeys((1, args.batch_size)):
        for name, run in runs.items():
            ways[f"{name}, batches of {size}"] = timed(partial(_run, run, waveforms, size))
    tagger = Tagger([member], windows=WindowConfig(overlap=0.0), device="cpu")
    path = folder / "recording.flac"
    _write_stereo(path, args.windows * features.max_clip_samples / features.sample_rate_hz)
    ways["eval.tag, a FLAC file at 44.1 kHz"] = timed(partial(_tag_file, tagger, path))
    return ways


Run = Callable[[np.ndarray], np.ndarray]


def _by_torch(model: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Run:
    def run(waveforms: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(waveforms))[0].numpy()

    return run


def _by_onnx_runtime(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(waveforms: np.ndarray) -> np.ndarray:
        return session.run(["scores"], {"waveform": waveforms})[0]

    return run


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


def _write_stereo(path: Path, length_s: float) -> None:
    sound = _sound(round(length_s * FILE_RATE_HZ))
    soundfile.write(path, np.stack([sound, sound[::-1]], axis=1), FILE_RATE_HZ)


def _mebibytes(member: Checkpoint, folder: Path) -> dict[str, float]:
    """What each way has to load."""
    tensors = member.weights.values()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return {
        "PyTorch": weights / 2**20,
        "ONNX Runtime": (folder / "model.onnx").stat().st_size / 2**20,
        "torch.export": (folder / "model.pt2").stat().st_size / 2**20,
        "eval.tag": weights / 2**20,
    }


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_tag")
    content = measure(args)
    show(content)
    for r in content["results"]:
        rate = f"{r['times_real_time']:,.0f} times real time"
        print(f"{r['level']}, {r['name']}: {rate}, {r['mebibytes']:.1f} MiB to load")
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
