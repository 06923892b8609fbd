"""The clips that benchmarks work on: ten seconds each, 16 kHz, loose and as shards."""

from pathlib import Path

from tqdm import tqdm

from psla_wds.audio.decode import load_clip
from psla_wds.audio.encode import encode_clip
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from sharding.build import PackConfig, build
from sharding.sources import AudioSetSource
from sharding.synthesize import Args, synthesize

CLIP_S = 10.0
RATE_HZ = 16_000


def make_corpus(folder: Path, *, num_clips: int) -> tuple[ShardIndex, list[Path]]:
    """Synthetic clips as shards, and the same clips as loose FLAC files in the index's order.

    What lies there already is used again.
    """
    source, loose, shards = folder / "source", folder / "loose", folder / "shards"
    if not (source / "segments.csv").exists():
        synthesize(Args(output=source, clips=num_clips, seed=0, clip_s=CLIP_S))
    audioset = AudioSetSource(
        segments=source / "segments.csv",
        audio_root=source / "audio",
        class_labels=source / "class_labels_indices.csv",
    )
    build(audioset, PackConfig(output=shards, clips_per_shard=500))
    index = open_indexes([str(shards)])
    loose.mkdir(exist_ok=True)
    paths = [loose / f"{index.clip_id(row)}.flac" for row in range(len(index))]
    files = {clip.clip_id: clip.path for clip in audioset.read()[1]}
    for row, path in enumerate(tqdm(paths, desc="loose files")):
        if not path.exists():
            waveform = load_clip(files[index.clip_id(row)], sample_rate_hz=RATE_HZ)
            path.write_bytes(encode_clip(waveform, sample_rate_hz=RATE_HZ, codec="flac"))
    return index, paths
