"""Decodes changed audio, and says what came of each case; a process of its own, as native code
that crashes takes the process with it.

python audio_cases.py FOLDER      files 0, 1, 2, ... in FOLDER; a line of JSON each, on stdout
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from psla_wds.audio.decode import ClipRefusedError, load_clip
from psla_wds.errors import PslaError
from psla_wds.features.config import FeatureConfig
from psla_wds.labels.class_list import ClassList
from psla_wds.loading.batches import evaluation_batches
from psla_wds.loading.loader import LoaderConfig
from psla_wds.reading.reader import ReaderConfig
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import read_index
from psla_wds.shards.merge import write_index
from psla_wds.shards.tar import PackedClip, Sidecar, write_sidecar, write_tar

MEMORY_BYTES = 2 * 2**30
"""Beside what the process has once DALI was used; its thread pools ask for address space."""
RATE_HZ = 16_000
FEATURES = FeatureConfig(num_frames=64)


def build_outcome(path: Path) -> str:
    """What packing makes of a file."""
    try:
        waveform = load_clip(path, sample_rate_hz=RATE_HZ)
    except ClipRefusedError as error:
        return error.reason
    assert np.isfinite(waveform).all()
    return "packed"


def load_outcome(shards: Path, audio: bytes) -> str:
    """What training makes of these bytes in a shard whose check sums fit them."""
    tar = shards / "shard-000000.tar"
    clip = PackedClip("a", audio, "flac", RATE_HZ // 4, RATE_HZ, ("/t/0",), "train", "x")
    written = write_tar(tar, [clip])
    sidecar = Sidecar(
        shard=tar.name,
        task="task",
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        sample_rate_hz=RATE_HZ,
        clips=written.clips,
        rejected=[],
        versions={},
    )
    write_sidecar(tar, sidecar)
    write_index(shards, [sidecar], ClassList(("/t/0",), ("low",)))
    try:
        log_mels = loaded(read_index(shards))
    except PslaError:
        return "refused"
    assert [tuple(log_mel.shape) for log_mel in log_mels] == [(1, 64, 128)]
    return "loaded" if torch.isfinite(log_mels[0]).all() else "loaded, not finite"


def loaded(index: ShardIndex) -> list[torch.Tensor]:
    reader = ReaderConfig(threads=1, decode_threads=1)
    config = LoaderConfig(features=FEATURES, reader=reader, device="cpu")
    with evaluation_batches(index, batch_size=1, config=config) as batches:
        return [batch.log_mel for batch in batches]


def limit_memory() -> None:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES,) * 2)


def main() -> None:
    folder = Path(sys.argv[1])
    shards = folder / "shards"
    shards.mkdir()
    for number in range(len(list(folder.glob("*.audio")))):
        print(json.dumps({"case": number}), flush=True)  # known if it is the last word
        path = folder / f"{number}.audio"
        outcome = {"build": build_outcome(path), "load": load_outcome(shards, path.read_bytes())}
        if number == 0:  # case 0 is unchanged: it makes what is made once
            limit_memory()
        print(json.dumps({"case": number} | outcome), flush=True)


if __name__ == "__main__":
    main()
