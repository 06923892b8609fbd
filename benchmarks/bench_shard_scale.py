"""Packing and indexing at scale: time and memory for many tiny clips, and for AudioSet's 2M.

    python -m benchmarks.bench_shard_scale build
    python -m benchmarks.bench_shard_scale index

Clips of 20 ms, cut from one file, so that what is measured is not the codec. The index of
2M clips is made from sidecars without tars' contents. Each runs in a process of its own.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from tqdm import tqdm
from tyro.conf import Positional

from benchmarks.harness import RESULTS, Result, record, show, write
from benchmarks.shard_jobs import Cost
from psla_wds import cli
from psla_wds.labels.class_list import ClassList, write_class_list
from psla_wds.shards.index_files import CLASS_LABELS
from psla_wds.shards.tar import SHARD_NAME, ClipColumns, Sidecar

CLIP_S, FILE_S, RATE_HZ = 0.02, 60, 16_000
NUM_CLASSES, PER_SHARD = 527, 1000


@dataclass(frozen=True)
class Args:
    part: Positional[Literal["build", "index"]]
    """build: packing. index: merging sidecars into an index, and loading it."""
    sizes: tuple[int, ...] = (2_000, 20_000, 200_000)
    """Clips that are packed."""
    index_clips: int = 2_000_000
    """Clips of the index that is merged and loaded."""
    repeats: int = 2
    output: Path | None = None
    """bench_shard_scale_PART.json among the results unless set."""


def cost(job: str, folder: Path) -> Cost:
    command = [sys.executable, "-m", "benchmarks.shard_jobs", job, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def write_manifest(folder: Path, num_clips: int) -> Path:
    """Rows for so many clips, cut from one file of noise."""
    folder.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, FILE_S * RATE_HZ)
    soundfile.write(folder / "noise.wav", noise, RATE_HZ)
    starts = np.arange(num_clips) * CLIP_S % (FILE_S - CLIP_S)
    rows = [f"noise.wav,0,{i},{s:.4f},{s + CLIP_S:.4f}\n" for i, s in enumerate(starts)]
    (folder / "clips.csv").write_text("path,labels,clip_id,start_s,end_s\n" + "".join(rows))
    (folder / "classes.csv").write_text("index,mid,display_name\n0,/t/0,noise\n")
    return folder


def write_sidecars(folder: Path, num_clips: int) -> Path:
    """Sidecars as of AudioSet: 10 s clips, ids of 12 bytes, two labels. The tars hold nothing."""
    folder.mkdir()
    mids = tuple(f"/m/{number:06x}" for number in range(NUM_CLASSES))
    write_class_list(ClassList(mids, mids), folder / CLASS_LABELS)
    rng = np.random.default_rng(0)
    for number in tqdm(range(num_clips // PER_SHARD), desc="sidecars"):
        tar = folder / SHARD_NAME.format(number=number)
        sizes = rng.integers(150_000, 200_000, PER_SHARD)
        columns = ClipColumns(
            clip_id=[f"Y{number:05d}{i:06d}" for i in range(PER_SHARD)],
            offset=np.cumsum(sizes).tolist(),
            size=sizes.tolist(),
            crc32=rng.integers(0, 2**32, PER_SHARD).tolist(),
            num_samples=[160_000] * PER_SHARD,
            mids=[[mids[j] for j in row] for row in rng.integers(NUM_CLASSES, size=(PER_SHARD, 2))],
            split=["train"] * PER_SHARD,
        )
        with tar.open("wb") as file:
            size_bytes = file.truncate(int(2 * sizes.sum()))
        sidecar = Sidecar(
            shard=tar.name,
            task="",
            size_bytes=size_bytes,
            sha256=f"{number:064x}",
            sample_rate_hz=RATE_HZ,
            clips=columns,
            rejected=[],
            versions={},
        )
        tar.with_suffix(".sidecar.json").write_text(
            json.dumps(sidecar.to_json())
        )  # not synced: 2,000 of them
    return folder


def summary(name: str, num_clips: int, costs: list[Cost]) -> dict[str, Any]:
    """A row of the results: rates as elsewhere, with seconds and memory."""
    seconds = [cost.elapsed_s for cost in costs]
    median_s = statistics.median(seconds)
    spread = (max(seconds) - min(seconds)) / median_s
    return asdict(Result(name, num_clips / median_s, spread, 1.0)) | {
        "elapsed_s": median_s,
        "main_mib": max(cost.main_mib for cost in costs),
        "worker_mib": max(cost.worker_mib for cost in costs),
    }


def jobs_of(args: Args, folder: Path) -> list[tuple[str, int, str, Path]]:
    """Name, clips, job and folder of what is measured."""
    if args.part == "build":
        return [
            (f"build {n:,} clips", n, "build", write_manifest(folder / str(n), n))
            for n in args.sizes
        ]
    sidecars, num_clips = write_sidecars(folder / "sidecars", args.index_clips), args.index_clips
    return [
        (f"{job} an index of {num_clips:,}", num_clips, job, sidecars) for job in ("merge", "load")
    ]


def measure(args: Args, folder: Path) -> dict[str, Any]:
    jobs = jobs_of(args, folder)
    rows = [
        summary(name, num_clips, [cost(job, place) for _ in range(args.repeats)])
        for name, num_clips, job, place in tqdm(jobs, desc="jobs")
    ]
    for row in rows:
        row["speed_up"] = row["clips_per_s"] / rows[0]["clips_per_s"]
    titles = {"build": "Packing of clips of 20 ms", "index": "Index of 10 s clips"}
    content = record(titles[args.part], [], repeats=args.repeats, page_cache="warm")
    return content | {"results": rows}


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_shard_scale")
    with tempfile.TemporaryDirectory() as folder:
        content = measure(args, Path(folder))
    show(content)
    for row in content["results"]:
        memory = f"{row['main_mib']:,.0f} MiB, a worker {row['worker_mib']:,.0f} MiB"
        print(f"{row['name']}: {row['elapsed_s']:.2f} s, {memory}")
    write(content, args.output or RESULTS / f"bench_shard_scale_{args.part}.json")


if __name__ == "__main__":
    cli.run(main)
