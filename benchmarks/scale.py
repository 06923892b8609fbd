"""Project the loader to 200 million clips and 512 GPUs, from what is measured on this machine.

    python -m benchmarks.scale

The first batch, memory of a rank and size of the index are measured in new processes on indexes of
growing size, over a small corpus of real shards; time and memory of a plan on the labels alone, up
to more clips. A line is fitted to all sizes but the largest, which checks it: its error stands in
the record. The rest follows by arithmetic.
"""

import statistics
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.bench_plan import peak_mib, plan
from benchmarks.corpus import make_corpus
from benchmarks.first_batch import probe, tiled_index, tiled_labels
from benchmarks.harness import RESULTS, machine, timed, write
from psla_wds import cli
from psla_wds.shards.index import ShardIndex

FAR_STEP = 500_000
GPUS_PER_NODE = 8
PROJECTED_CLIPS = (2_000_000, 20_000_000, 200_000_000)
PROJECTED_GPUS = (1, 8, 64, 512)
PARTNERS_PER_DRAW = 0.5
"""The paper's share of draws for which a second clip is read."""
STARTS = ("first_batch_s", "rank_mib", "index_mib")
"""Measured in new processes, at `Args.sizes`."""
PLANS = ("plan_s", "plan_mib")
"""Measured in this process, at `Args.plan_sizes`."""


@dataclass(frozen=True)
class Args:
    sizes: tuple[int, ...] = (200_000, 600_000, 2_000_000)
    """Clips of the indexes that are measured, ascending; the last one checks the projection."""
    plan_sizes: tuple[int, ...] = (2_000_000, 6_000_000, 20_000_000)
    """Clips of the plans that are measured, ascending, and too many for the processor's caches."""
    clips: int = 200
    """Clips of ten seconds that there really are."""
    clips_per_s_per_gpu: float = 500.0
    """Speed of training that the loader has to keep up with."""
    repeats: int = 5
    corpus: Path = Path("data/bench-scale")
    """Folder of the clips; made if it is not there."""
    output: Path = RESULTS / "scale.json"


@dataclass(frozen=True)
class Line:
    """What a quantity is without clips, and what each clip adds."""

    fixed: float
    per_clip: float

    def __call__(self, clips: int) -> float:
        return self.fixed + self.per_clip * clips


def fit_line(sizes: list[int], values: list[float]) -> Line:
    """The least squares line; exact for two sizes."""
    per_clip, fixed = np.polyfit(sizes, values, 1)
    return Line(float(fixed), float(per_clip))


def check_prediction(sizes: list[int], values: list[float]) -> dict[str, Any]:
    """The line of all sizes but the last, and how far it is off at the last."""
    line = fit_line(sizes[:-1], values[:-1])
    predicted = line(sizes[-1])
    return {
        "line": asdict(line),
        "fitted_on": dict(zip(map(str, sizes[:-1]), values[:-1], strict=True)),
        "checked_at": sizes[-1],
        "predicted": predicted,
        "measured": values[-1],
        "error": predicted / values[-1] - 1,
    }


def measure(args: Args) -> dict[str, Any]:
    """Measure, check, project; the record for the results folder."""
    index, _ = make_corpus(args.corpus, num_clips=args.clips)
    clip_bytes = float(index.size.mean())
    plans = [measure_plan(index, size, args.repeats) for size in tqdm(args.plan_sizes, "plans")]
    starts = [measure_start(args, size) for size in tqdm(args.sizes, "starts")]
    checks = {
        name: check_prediction([m["clips"] for m in measured], [m[name] for m in measured])
        for names, measured in ((PLANS, plans), (STARTS, starts))
        for name in names
    }
    lines = {name: Line(**check["line"]) for name, check in checks.items()}
    return {
        "title": "Projection to many clips and GPUs",
        "conditions": {
            "clip_bytes": clip_bytes,
            "clips_per_s_per_gpu": args.clips_per_s_per_gpu,
            "gpus_per_node": GPUS_PER_NODE,
            "page_cache": "warm",
            "repeats": args.repeats,
        },
        "machine": machine(),
        "plans": plans,
        "starts": starts,
        "checks": checks,
        "projections": [
            asdict(project(clips, gpus, lines, clip_bytes, args.clips_per_s_per_gpu))
            for clips in PROJECTED_CLIPS
            for gpus in PROJECTED_GPUS
        ],
    }


def measure_plan(index: ShardIndex, num_clips: int, repeats: int) -> dict[str, float]:
    """Median time of balanced plans, and what one holds at most."""
    body = partial(plan, tiled_labels(index, num_clips), "balanced")
    body()  # the first asks the system for its memory
    times = [num_clips / timed(body)() for _ in range(repeats)]
    median = statistics.median(times)
    spread = (max(times) - min(times)) / median
    return {
        "clips": num_clips,
        "plan_s": median,
        "plan_mib": peak_mib(body),
        "plan_spread": spread,
    }


def measure_start(args: Args, num_clips: int) -> dict[str, float]:
    """Medians over new processes that begin at step 0, and the time of one that begins far on."""
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        index_bytes = tiled_index(args.corpus / "shards", shards, num_clips)
        starts = [
            (probe(shards, first_step=0), probe(shards, first_step=FAR_STEP))
            for _ in range(args.repeats + 1)
        ][1:]  # the first fills the page cache
    near, far = (
        {name: [run[name] for run in runs] for name in runs[0]}
        for runs in zip(*starts, strict=True)
    )
    medians = {name: statistics.median(values) for name, values in near.items()}
    spread = (max(near["first_batch_s"]) - min(near["first_batch_s"])) / medians["first_batch_s"]
    return medians | {
        "clips": num_clips,
        "index_mib": index_bytes / 2**20,
        "first_batch_at_far_step_s": statistics.median(far["first_batch_s"]),
        "first_batch_spread": spread,
    }


@dataclass(frozen=True)
class Projection:
    """What one size of data and machine asks for; the first five are extrapolated."""

    clips: int
    gpus: int
    plan_s: float
    """Of an epoch, on each rank, beside training."""
    plan_mib: float
    """At most, while it is made."""
    rank_mib: float
    """Of the loader at its first batch."""
    index_mib: float
    first_batch_s: float
    """After the imports."""
    node_mb_per_s: float
    """Read by a node, in millions of bytes a second."""
    node_requests_per_s: float
    epoch_hours: float


def project(
    clips: int, gpus: int, lines: dict[str, Line], clip_bytes: float, clips_per_s_per_gpu: float
) -> Projection:
    """By the lines, and by arithmetic from the speed of training."""
    gpus_of_node = min(gpus, GPUS_PER_NODE)
    requests = gpus_of_node * clips_per_s_per_gpu * (1 + PARTNERS_PER_DRAW)
    return Projection(
        clips=clips,
        gpus=gpus,
        **{name: line(clips) for name, line in lines.items()},
        node_mb_per_s=requests * clip_bytes / 1e6,
        node_requests_per_s=requests,
        epoch_hours=clips / (gpus * clips_per_s_per_gpu) / 3600,
    )


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.scale")
    content = measure(args)
    for m in content["plans"]:
        print(
            f"{m['clips']:>11,} clips: plan {m['plan_s']:.2f} s, {m['plan_mib']:,.0f} MiB at most"
        )
    for m in content["starts"]:
        print(
            f"{m['clips']:>11,} clips: imports {m['import_s']:.1f} s, then first batch after "
            f"{m['first_batch_s']:.2f} s, at step {FAR_STEP:,} {m['first_batch_at_far_step_s']:.2f}"
            f" s; {m['rank_mib']:,.0f} MiB"
        )
    for name, check in content["checks"].items():
        print(
            f"{name} at {check['checked_at']:,} clips: predicted {check['predicted']:.3g}, "
            f"measured {check['measured']:.3g} ({check['error']:+.0%})"
        )
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
