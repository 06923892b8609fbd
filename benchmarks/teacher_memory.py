"""A teacher's scores of 2M clips: what they take on disk, in memory and in time while a run learns.

    python -m benchmarks.teacher_memory

There is no audio: an index of labels, and random scores, the 20 highest of 527 a clip. The
peak counts mapped files, which the ranks of a node share.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.enhance_memory import many_clips, write_index
from benchmarks.harness import RESULTS, machine, write
from psla_wds import cli
from psla_wds.evaluation.score_folder import ROWS_AT_ONCE, ScoreFolder
from psla_wds.shards.index import ShardIndex

PROBE = """
import json, re, sys, time
from pathlib import Path
import numpy as np
from psla_wds.shards.index_files import read_index
from psla_wds.evaluation.teacher import apply_teacher
def mib(kind):
    return int(re.findall(kind + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024
index = read_index(Path(sys.argv[1]))
if sys.argv[3] == "subset":
    index = index.select_random(len(index) // 2, seed=0)
started = time.perf_counter()
taught = apply_teacher(index, Path(sys.argv[2]))
opened_s, own_mib, peak_mib = time.perf_counter() - started, mib("RssAnon"), mib("VmHWM")
rows = np.random.default_rng(0).integers(0, len(index), (2000, 100))
started = time.perf_counter()
for batch in rows:
    taught.soft_labels.targets(batch)
us = (time.perf_counter() - started) / rows.size * 1e6
print(json.dumps({"opened_s": opened_s, "own_mib": own_mib, "peak_mib": peak_mib, "us_per_clip": us}))
"""  # noqa: E501 (a program)


@dataclass(frozen=True)
class Args:
    clips: int = 2_000_000
    classes: int = 527
    top_k: int = 20
    folder: Path = Path(tempfile.gettempdir())
    """Where index and scores are put for the time being: 0.3 GB."""
    output: Path = RESULTS / "teacher_memory.json"


def measure(args: Args) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        index = many_clips(rng, args.clips, args.classes)
        write_index(folder / "shards", index)
        _write_teacher(folder / "teacher", rng, index, args.top_k)
        size = sum(path.stat().st_size for path in (folder / "teacher").iterdir())
        results = {}
        for choice in ("all", "subset"):
            words = [str(folder / "shards"), str(folder / "teacher"), choice]
            done = subprocess.run(
                [sys.executable, "-c", PROBE, *words], check=True, stdout=subprocess.PIPE
            )
            results[choice] = json.loads(done.stdout)
    return {
        "title": "A teacher's scores: all clips of the index, and a random half of them",
        "clips": args.clips,
        "classes": args.classes,
        "top_k": args.top_k,
        "disk_mib": size / 2**20,
        "results": results,
        "machine": machine(),
    }


def _write_teacher(output: Path, rng: np.random.Generator, index: ShardIndex, top_k: int) -> None:
    """The same random scores for every so many clips."""
    folder = ScoreFolder(output, index.classes, top_k=top_k)
    folder.begin(index.clip_ids)
    block = rng.random((ROWS_AT_ONCE, len(index.classes)), np.float32)
    folder.write(np.arange(min(ROWS_AT_ONCE, len(index))), block[: len(index)])
    for name in ("scores", "classes"):
        column = folder.open(name)
        for first in range(ROWS_AT_ONCE, len(index), ROWS_AT_ONCE):
            part = column[first : first + ROWS_AT_ONCE]
            part[:] = column[: len(part)]
    folder.finish()


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.teacher_memory")
    content = measure(args)
    print(f"{content['disk_mib']:,.0f} MiB on disk")
    for choice, r in content["results"].items():
        print(
            f"{choice}: opened in {r['opened_s']:.1f} s; a process with index and scores has "
            f"{r['own_mib']:,.0f} MiB, {r['peak_mib']:,.0f} at most with what is mapped; "
            f"{r['us_per_clip']:.1f} us a draw"
        )
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
