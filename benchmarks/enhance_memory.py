"""Label enhancement of 2M clips and 527 classes: time, and the most memory that it takes.

    python -m benchmarks.enhance_memory

There is no audio: an index of labels, as unevenly spread as AudioSet's, and a folder of scores.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_plan import label_index
from benchmarks.harness import RESULTS, machine, write
from psla_wds import cli
from psla_wds.evaluation.score_folder import ROWS_AT_ONCE, ScoreFolder
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import COLUMN_DTYPES, INDEX_FOLDER
from psla_wds.shards.tar import FORMAT_VERSION

LABELS_PER_CLIP = 2
COMMAND = """
from pathlib import Path
from eval.enhance import main
main()
print(Path("/proc/self/status").read_text())
"""


@dataclass(frozen=True)
class Args:
    clips: int = 2_000_000
    classes: int = 527
    folder: Path = Path(tempfile.gettempdir())
    """Where scores are put for the time being: 5.3 GB."""
    output: Path = RESULTS / "enhance_memory.json"


def measure(args: Args) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        index = many_clips(rng, args.clips, args.classes)
        write_index(folder / "shards", index)
        _write_scores(folder / "scores", rng, index)
        (folder / "ontology.json").write_text(json.dumps(_nodes(index.classes.mids)))
        words = {"index": "shards", "ontology": "ontology.json", "output": "overlay"}
        flags = [f"--{word}={folder / file}" for word, file in words.items()]
        command = [sys.executable, "-c", COMMAND, str(folder / "scores"), *flags]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, "--allow-empty-classes"], check=True, stdout=subprocess.PIPE, text=True
        )
        elapsed_s = time.perf_counter() - started
        report = json.loads((folder / "overlay" / "report.json").read_text())
    return {
        "title": "Label enhancement, both types, from a folder of scores",
        "clips": args.clips,
        "classes": args.classes,
        "labels_before": report["labels_before"],
        "labels_added": report["labels_added"],
        "elapsed_s": elapsed_s,
        # Mapped pages of files count, too. (ru_maxrss would have those of this process as well.)
        "peak_mib": int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0]) / 1024,
        "machine": machine(),
    }


def many_clips(rng: np.random.Generator, num_clips: int, num_classes: int) -> ShardIndex:
    """Clips with two labels each; class k is as frequent as 1 / (k + 1)."""
    shares = 1 / np.arange(1, num_classes + 1)
    drawn = rng.choice(num_classes, (num_clips, LABELS_PER_CLIP), p=shares / shares.sum())
    drawn[:, 1] += drawn[:, 1] == drawn[:, 0]
    labels = np.sort(drawn % num_classes, axis=1).astype(np.uint16)
    starts = LABELS_PER_CLIP * np.arange(num_clips + 1)
    ids = b"".join(b"%011d" % number for number in range(num_clips))
    return replace(
        label_index(starts, labels.ravel(), num_classes),
        shards=(Path("none.tar"),),
        shard_sizes=(1,),
        size=np.ones(num_clips, np.int64),
        id_starts=11 * np.arange(num_clips + 1),
        id_bytes=np.frombuffer(ids, np.uint8),
    )


def write_index(shards: Path, index: ShardIndex) -> None:
    """Write an index as sharding.build does, of shards that are not there."""
    folder = shards / INDEX_FOLDER
    folder.mkdir(parents=True)
    for name, dtype in COLUMN_DTYPES.items():
        np.save(folder / f"{name}.npy", getattr(index, name).astype(dtype))
    meta = {
        "format_version": FORMAT_VERSION,
        "fingerprint": index.fingerprint,
        "sample_rate_hz": index.sample_rate_hz,
        "num_clips": len(index),
        "shards": [{"name": "none.tar", "size_bytes": 1}],
        "splits": index.splits,
        "mids": index.classes.mids,
        "names": index.classes.names,
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def _write_scores(output: Path, rng: np.random.Generator, index: ShardIndex) -> None:
    """The same random scores for every so many clips; all are written, and so are read."""
    folder = ScoreFolder(output, index.classes)
    folder.begin(index.clip_ids)
    scores = folder.open("scores")
    block = rng.random((ROWS_AT_ONCE, len(index.classes)), np.float32)
    for first in range(0, len(index), ROWS_AT_ONCE):
        part = scores[first : first + ROWS_AT_ONCE]
        part[:] = block[: len(part)]
    folder.finish()


def _nodes(mids: tuple[str, ...]) -> list[dict[str, Any]]:
    """A tree where each class has up to four children."""
    return [
        {"id": mid, "child_ids": list(mids[4 * k + 1 : 4 * k + 5]), "restrictions": []}
        for k, mid in enumerate(mids)
    ]


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.enhance_memory")
    content = measure(args)
    print(
        f"{content['labels_added']:,} labels added to {content['labels_before']:,} of "
        f"{content['clips']:,} clips in {content['elapsed_s']:.0f} s; "
        f"at most {content['peak_mib']:,.0f} MiB"
    )
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
