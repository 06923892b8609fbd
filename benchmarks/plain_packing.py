"""Pack clips as you would without a library: decode, mix, resample, encode, ShardWriter.

python -m benchmarks.plain_packing CLIPS.csv OUTPUT
"""

import argparse
import csv
import io
from pathlib import Path

import numpy as np
import soundfile
import soxr
import webdataset

RATE_HZ, PER_SHARD = 16_000, 250


def to_pcm(waveform: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)


def pack(clips: Path, output: Path) -> None:
    with clips.open() as file:
        paths = [clips.parent / row["path"] for row in csv.DictReader(file)]
    output.mkdir()
    pattern = str(output / "%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=PER_SHARD, encoder=False, verbose=0) as writer:
        for path in paths:
            stereo, rate_hz = soundfile.read(path, dtype="float32")
            mono = sum(stereo.T) / np.float32(2)  # stereo.mean(axis=1) takes 7 ms more
            waveform = soxr.resample(mono, rate_hz, RATE_HZ, quality="HQ")
            buffer = io.BytesIO()
            soundfile.write(buffer, to_pcm(waveform), RATE_HZ, format="FLAC", subtype="PCM_16")
            label = b'{"labels": ["/t/0"]}'
            writer.write({"__key__": path.stem, "flac": buffer.getvalue(), "json": label})


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.plain_packing", description=__doc__)
    parser.add_argument("clips", type=Path, help="CSV with a column path, from its own folder on")
    parser.add_argument("output", type=Path, help="folder to make")
    pack(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
