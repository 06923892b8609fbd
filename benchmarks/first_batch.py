"""An index of any size over a few real shards, and what it costs a fresh process to begin there."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_plan import label_index
from psla_wds.labels.class_list import read_class_list
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import CLASS_LABELS, INDEX_FOLDER
from psla_wds.shards.merge import write_index
from psla_wds.shards.tar import ClipColumns, Sidecar, read_sidecar

PROBE = """
import json, sys, time
started = float(sys.argv[1])
def anonymous_mib():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0]) / 1024
from psla_wds import open_indexes, training_batches
imported, base = time.time(), anonymous_mib()
index = open_indexes([sys.argv[2]])
opened = time.time()
with training_batches(index, batch_size=32, seed=0, first_step=int(sys.argv[3])) as batches:
    next(iter(batches))
    first = time.time()
    memory = anonymous_mib()
print(json.dumps({
    "import_s": imported - started, "open_s": opened - imported,
    "plan_and_batch_s": first - opened, "first_batch_s": first - imported,
    "rank_mib": memory - base,
}))
"""


def probe(shards: Path, *, first_step: int) -> dict[str, float]:
    """Seconds and memory of a new process up to its first batch.

    `import_s` is from the start of the process; `first_batch_s` is all that comes after: the index
    is opened, the epoch planned, and a batch read, decoded, and made features. `rank_mib` is what
    the process holds for itself by then, beyond its imports: pages of the index, which is mapped
    and which all processes of a machine share, do not count.
    """
    command = [sys.executable, "-c", PROBE, str(time.time()), str(shards), str(first_step)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process that was measured failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def tiled_index(shards: Path, folder: Path, num_clips: int) -> int:
    """Make in `folder` an index of `num_clips` rows over the tars of `shards`; its size in bytes.

    Rows repeat the byte ranges, labels and checksums of the clips there are, each under an id of
    its own. The tars are links.
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


def tiled_labels(index: ShardIndex, num_clips: int) -> ShardIndex:
    """An index of so many rows that repeat the labels of `index`; nothing else of it is meant."""
    rounds, rest = divmod(num_clips, len(index))
    lengths = np.diff(index.label_starts)
    lengths = np.concatenate([np.tile(lengths, rounds), lengths[:rest]])
    values = np.concatenate(
        [np.tile(index.label_values, rounds), index.label_values[: index.label_starts[rest]]]
    )
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return label_index(starts, values, len(index.classes))


def _tiled(sidecar: Sidecar, num_clips: int, prefix: str) -> Sidecar:
    """The shard as if it held so many clips."""
    columns: dict[str, list[Any]] = {
        name: [values[i % len(values)] for i in range(num_clips)]
        for name, values in vars(sidecar.clips).items()
    }
    columns["clip_id"] = [f"{prefix}_{i:09d}" for i in range(num_clips)]
    return replace(sidecar, clips=ClipColumns(**columns))
