"""The training step: with data on the device, through the loader, and the paper's way.

    python -m benchmarks.bench_step

On a GPU at the paper's size (EfficientNet-B2, 1056 frames, batch 100) and with one setting after
another changed; on a CPU at a small size. All steps are of 527 classes, on balanced draws of 10 s
clips, half of them mixed, masked; that all ways feed such batches is checked first. The paper's way
is float32, eager, with features by torchaudio in the workers of a DataLoader. Ends with a
projection of the paper's schedules, by the operations that model_cost counts.
"""

import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.corpus import make_corpus
from benchmarks.harness import RESULTS, compare, machine, write
from benchmarks.model_cost import Cost, cost
from benchmarks.step_ways import (
    RESIDENT_WARMUP,
    Change,
    Sources,
    Steps,
    check_same_work,
    new_learner,
    official_learner,
)
from benchmarks.table_forms import steps as steps_table
from psla_wds import cli
from psla_wds.features.config import FeatureConfig
from psla_wds.models.config import ModelConfig
from train.config import TrainConfig
from train.recipes import AUDIOSET_FULL, RECIPES

RESIDENT, LOADER, PAPER = "data on the device: the limit", "psla-wds loader", "paper's way"
H200_TFLOP_PER_S, H200_GB_PER_S = 989.0, 4800.0
COUNTED_CLIPS = 4
"""Of a pass whose cost is counted: few, since it is the same for each but for the weights."""
PAPERS_CLIPS = {"audioset-full": 1_953_082, "audioset-balanced": 20_785, "fsd50k": 37_134}
"""Clips that the paper's authors could get (PSLA table I), each drawn once an epoch on average."""
ON_GPU: tuple[Change, ...] = (
    "float32",
    "float16",
    "contiguous",
    "compile",
    "cuda-graphs",
    "default-adam",
)


@dataclass(frozen=True)
class Args:
    """What is None depends on the device."""

    clips: int = 1000
    """Clips of ten seconds that are drawn from."""
    backbone: str | None = None
    """efficientnet-b2 on a GPU, else efficientnet-b0; both with the paper's four heads."""
    num_frames: int | None = None
    """1056 on a GPU, else 256."""
    batch_size: int | None = None
    """100 on a GPU, else 16."""
    changes: tuple[Change, ...] | None = None
    """Settings changed one by one, with data on the device; all on a GPU, else none. contiguous:
    not channels_last. default-adam: what torch chooses, not the fused one."""
    tflop_per_s: float | None = None
    """Peak of the device, to state the share reached; NVIDIA's for an H200 in bfloat16 (989) on a
    GPU, else no share is stated."""
    gb_per_s: float | None = None
    """Bandwidth of its memory, likewise; 4800 on a GPU."""
    repeats: int = 5
    seconds: float = 5.0
    """Time that each way is measured for in each round, once it runs steadily."""
    corpus: Path = Path("data/bench")
    """Folder of the clips; made if it is not there."""
    output: Path = RESULTS / "bench_step.json"

    def for_device(self, device: torch.device) -> "Args":
        """With a value for all that depends on the device; None is left where there is none."""
        on_gpu = device.type == "cuda"
        defaults = {
            "backbone": "efficientnet-b2" if on_gpu else "efficientnet-b0",
            "num_frames": 1056 if on_gpu else 256,
            "batch_size": 100 if on_gpu else 16,
            "changes": ON_GPU if on_gpu else (),
            "tflop_per_s": H200_TFLOP_PER_S if on_gpu else None,
            "gb_per_s": H200_GB_PER_S if on_gpu else None,
        }
        missing = {n: value for n, value in defaults.items() if getattr(self, n) is None}
        return replace(self, **missing)


def measure(args: Args) -> dict[str, Any]:
    """Check, measure, project; the record for the results folder."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args = args.for_device(device)
    config = step_config(args, device)
    index, paths = make_corpus(args.corpus, num_clips=args.clips)
    sources = Sources(index, paths, config, device)
    feeds = {LOADER: sources.loader, RESIDENT: sources.resident, PAPER: sources.papers_way}
    check_same_work(feeds)
    ways = ways_to_train(sources, args)
    results = compare({n: steps.rate for n, steps in ways.items()}, repeats=args.repeats)
    waits = {n: statistics.median(steps.data_waits[1:]) for n, steps in ways.items()}
    rates = {result.name: result.clips_per_s for result in results}
    counted = cost_of(config.model, config.features.num_frames)
    return {
        "title": f"Steps of {args.backbone}, {args.num_frames} frames, batch {args.batch_size}",
        "conditions": conditions(args, config, device),
        "machine": machine(),
        "results": [asdict(result) | {"data_wait": waits[result.name]} for result in results],
        "limit": shares_of_peak(args, counted, rates[RESIDENT]),
        "projections": projections(counted, rates),
    }


def ways_to_train(sources: Sources, args: Args) -> dict[str, Steps]:
    """The limit comes first: the others are compared with it."""
    config, device = sources.config, sources.device
    timing = {"batch_size": config.batch_size, "seconds": args.seconds}
    on_device = timing | {"open": sources.resident, "warmup": RESIDENT_WARMUP}
    learner = new_learner(config, device)
    return {
        RESIDENT: Steps(learner, **on_device),
        LOADER: Steps(learner, open=sources.loader, **timing),
        PAPER: Steps(official_learner(config, device), open=sources.papers_way, **timing),
    } | {
        f"limit, {change}": Steps(new_learner(config, device, change), **on_device)
        for change in args.changes or ()
    }


def step_config(args: Args, device: torch.device) -> TrainConfig:
    """The recipe of the full AudioSet at the size that is measured, from random weights."""
    assert args.backbone and args.num_frames and args.batch_size
    paper = AUDIOSET_FULL
    time_mask = paper.augment.time_mask * args.num_frames // paper.features.num_frames
    return replace(
        paper,
        precision="bfloat16" if device.type == "cuda" else "float32",
        batch_size=args.batch_size,
        features=FeatureConfig(num_frames=args.num_frames),
        augment=replace(paper.augment, time_mask=time_mask),
        model=ModelConfig(backbone=args.backbone, initial_weights="none"),
    )


def conditions(args: Args, config: TrainConfig, device: torch.device) -> dict[str, Any]:
    return {
        "device": device.type,
        "precision": config.precision,
        "backbone": args.backbone,
        "num_frames": args.num_frames,
        "batch_size": args.batch_size,
        "clips": args.clips,
        "codec": "flac",
        "page_cache": "warm",
        "repeats": args.repeats,
    }


def cost_of(model: ModelConfig, num_frames: int) -> Cost:
    return cost(model.backbone, model.head, batch_size=COUNTED_CLIPS, num_frames=num_frames)


def shares_of_peak(args: Args, counted: Cost, clips_per_s: float) -> dict[str, float | None]:
    """What a rate makes of the device: operations, and bytes that cannot be fused away.

    The bytes are counted with the trunk in bfloat16.
    """
    tflop_per_s = clips_per_s * counted.training_gflop / 1e3
    gb_per_s = clips_per_s * counted.fused_mib * 2**20 / 1e9
    return {
        "tflop_per_s": tflop_per_s,
        "tflop_per_s_peak": args.tflop_per_s,
        "gb_per_s": gb_per_s,
        "gb_per_s_peak": args.gb_per_s,
    }


def projections(counted: Cost, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Hours that the paper's schedules would take at rates that were measured.

    Their clips cost as many of those measured as they need more operations, which is exact for
    the network and frames that were measured, and an extrapolation for others.
    """
    rows = []
    for name, clips in PAPERS_CLIPS.items():
        recipe = RECIPES[name][1]
        presented = clips // recipe.batch_size * recipe.batch_size * recipe.epochs
        own = cost_of(recipe.model, recipe.features.num_frames)
        relative = own.training_gflop / counted.training_gflop
        rows.append(
            {
                "kind": "projection",
                "schedule": name,
                "clips": presented,
                "cost": relative,
                "hours": {way: presented * relative / rates[way] / 3600 for way in (LOADER, PAPER)},
            }
        )
    return rows


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_step")
    content = measure(args)
    print(steps_table(content))
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
