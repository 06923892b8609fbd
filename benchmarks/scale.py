"""Measure the cost of many clips: size of the index, plan of an epoch, start of a rank.

Indexes of growing size repeat the clips of a small corpus. On each, plans of an epoch are timed,
and new processes run until their first batch, at the beginning of a run and far into it.

    python -m benchmarks.scale
"""

import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
from tqdm import tqdm

from benchmarks.corpus import CorpusArgs, make_corpus
from benchmarks.harness import RESULTS, Clips, Column, Row, median_and_spread, record, table, timed
from benchmarks.tables import run_benchmark
from psla_wds import SamplerConfig, ShardIndex, open_indexes
from psla_wds.config import Within
from psla_wds.labels.class_list import read_class_list
from psla_wds.sampling.config import Sampling
from psla_wds.sampling.plan import plan_epoch
from psla_wds.shards.index_files import CLASS_LABELS, INDEX_FOLDER
from psla_wds.shards.merge import write_index
from psla_wds.shards.tar import ClipColumns, Sidecar, read_sidecar

FAR_STEP = 500_000
PLAN_COLUMNS = (
    Column("clips", "clips", "{:,}"),
    Column("draws", "sampling"),
    Column("plan, s", "plan_s", "{:.2f}", "spread"),
    Column("plan, MiB", "plan_mib", "{:,.0f}"),
    Column("spread", "spread", "{:.0%}"),
)
START_COLUMNS = (
    Column("clips", "clips", "{:,}"),
    Column("index, MiB", "index_mib", "{:,.0f}"),
    Column("imports, s", "import_s", "{:.2f}"),
    Column("first batch, s", "first_batch_s", "{:.2f}", "spread"),
    Column(f"at step {FAR_STEP:,}, s", "far_step_s", "{:.2f}"),
    Column("rank, MiB", "rank_mib", "{:,.0f}"),
    Column("spread", "spread", "{:.0%}"),
)
PROBE = """
import json, sys, time
started = float(sys.argv[1])
def anonymous_mib():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0]) / 1024
from psla_wds import open_indexes, training_batches
imported, base = time.time(), anonymous_mib()
index = open_indexes([sys.argv[2]])
with training_batches(index, batch_size=32, seed=0, first_step=int(sys.argv[3])) as batches:
    next(iter(batches))
    first, memory = time.time(), anonymous_mib()
print(json.dumps({
    "import_s": imported - started, "first_batch_s": first - imported, "rank_mib": memory - base
}))
"""


@dataclass(frozen=True)
class Args(CorpusArgs):
    clips: Clips = 200
    """Number of clips that really exist, each ten seconds long."""
    sizes: Annotated[tuple[int, ...], Within(1, 10**8)] = (200_000, 600_000, 2_000_000)
    """Numbers of clips in the indexes."""
    corpus: Path = Path("data/bench-scale")
    """Folder of the clips; made if it does not exist, and used as it is if it does."""
    output: Path = RESULTS / "scale.json"


def measure(args: Args) -> dict[str, Any]:
    """Measure plans and starts on every size; the record for the results folder."""
    make_corpus(args.corpus, args.clips)
    plans, starts = [], []
    for size in tqdm(args.sizes, desc="sizes"):
        with tempfile.TemporaryDirectory() as folder:
            shards = Path(folder) / "shards"
            index_bytes = tiled_index(args.corpus / "shards", shards, size)
            index = open_indexes([str(shards)])
            plans += [plan_row(index, sampling, args.repeats) for sampling in get_args(Sampling)]
            start = start_row(shards, args.repeats)
        starts.append({"clips": size, "index_mib": index_bytes / 2**20} | start)
    title = "Plans of an epoch; a rank's first batch after the imports, and its own memory by then"
    return record(title, [table(PLAN_COLUMNS, plans), table(START_COLUMNS, starts)], args)


def plan_row(index: ShardIndex, sampling: Sampling, repeats: int) -> Row:
    """Median time of a plan, and its peak memory."""
    body = partial(plan, index, sampling)
    peak = peak_mib(body)  # first: the first plan asks the system for its memory
    times_s = [len(index) / timed(body)() for _ in range(repeats)]
    plan_s, spread = median_and_spread(times_s)
    row = {"clips": len(index), "sampling": sampling, "plan_s": plan_s, "plan_mib": peak}
    return row | {"spread": spread}


def plan(index: ShardIndex, sampling: Sampling) -> int:
    """Plan an epoch; returns the number of its draws."""
    return len(plan_epoch(index, SamplerConfig(sampling=sampling), seed=0, epoch=1).rows)


def peak_mib(body: Callable[[], object]) -> float:
    """Peak memory of the body, beyond what was held before."""
    tracemalloc.start()
    try:
        body()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def start_row(shards: Path, repeats: int) -> Row:
    """Medians over new processes that begin at step 0, and the time of one that begins later."""
    starts = [probe(shards, first_step=0) for _ in range(repeats)]
    row: Row = {key: float(np.median([start[key] for start in starts])) for key in starts[0]}
    _, row["spread"] = median_and_spread([start["first_batch_s"] for start in starts])
    return row | {"far_step_s": probe(shards, first_step=FAR_STEP)["first_batch_s"]}


def probe(shards: Path, *, first_step: int) -> dict[str, float]:
    """Seconds and memory of a new process up to its first batch.

    `import_s` begins with the process; `first_batch_s` is the rest: the index is opened, the epoch
    planned, and a batch read, decoded and turned into features. `rank_mib` is the memory that the
    process then has beyond its imports, without the mapped index, which processes share.
    """
    command = [sys.executable, "-c", PROBE, str(time.time()), str(shards), str(first_step)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def tiled_index(shards: Path, folder: Path, num_clips: int) -> int:
    """Make in `folder` an index of `num_clips` rows over the tars of `shards`; its size in bytes.

    Rows repeat the byte ranges, labels and checksums of the real clips, each under its own id. The
    tars are links.
    """
    folder.mkdir(parents=True)
    tars = sorted(shards.glob("*.tar"))
    sidecars = []
    for number, tar in enumerate(tars):
        (folder / tar.name).symlink_to(tar.resolve())
        sidecar = read_sidecar(tar)
        assert sidecar is not None
        share = np.array_split(np.arange(num_clips), len(tars))[number]
        sidecars.append(_tiled(sidecar, len(share), f"s{number}"))
    write_index(folder, sidecars, read_class_list(shards / CLASS_LABELS))
    return sum(file.stat().st_size for file in (folder / INDEX_FOLDER).iterdir())


def _tiled(sidecar: Sidecar, num_clips: int, prefix: str) -> Sidecar:
    """The shard as if it had that many clips."""
    columns: dict[str, list[Any]] = {
        name: [values[i % len(values)] for i in range(num_clips)]
        for name, values in vars(sidecar.clips).items()
    }
    columns["clip_id"] = [f"{prefix}_{i:09d}" for i in range(num_clips)]
    return replace(sidecar, clips=ClipColumns(**columns))


if __name__ == "__main__":
    run_benchmark("benchmarks.scale", __doc__, Args, measure)
