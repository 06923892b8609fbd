#!/usr/bin/env bash
# soundfile 0.14.0 with its libsndfile 1.2.2.
#
# Reading an MP3 of few bits per second block by block, with SoundFile.read or blocks(), gives
# other samples than one read of the whole: after every read soundfile seeks to where it already
# is, and libsndfile then decodes on from too few of the frames before, so that bits that a frame
# borrows from earlier ones are missing. Nothing is raised; at most the decoder grumbles on
# stderr. A subclass whose seekable() is False reads the same blocks without the fault.
#
# Seen:
#   56 kbit/s, 882000 samples in blocks of 22050
#   seekable():     largest error 0.717866, 17.2 dB
#   not seekable(): largest error 0.000000
#
# Why it matters: features of long files, read in blocks to save memory, have bursts of noise and
# holes that the same files do not have when they are short enough to be read at once.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet soundfile==0.14.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import soundfile

RATE_HZ, BLOCK = 44_100, 22_050


class Forward(soundfile.SoundFile):
    def seekable(self):
        return False


def read_in_blocks(kind):
    file, blocks = kind(io.BytesIO(mp3)), []
    while len(block := file.read(BLOCK, dtype="float32")):
        blocks.append(block)
    return np.concatenate(blocks)


assert soundfile.__libsndfile_version__ == "1.2.2"
times_s = np.arange(20 * RATE_HZ) / RATE_HZ
bursts = np.random.default_rng(0).standard_normal(len(times_s)) * (times_s % 1 < 0.1)
written = io.BytesIO()
soundfile.write(
    written,
    0.3 * bursts + 0.05 * np.sin(2 * np.pi * 440 * times_s),
    RATE_HZ,
    format="MP3",
    bitrate_mode="CONSTANT",
    compression_level=0.9,
)
mp3 = written.getvalue()
whole, _ = soundfile.read(io.BytesIO(mp3), dtype="float32")
error = np.abs(read_in_blocks(soundfile.SoundFile) - whole)
forward_error = np.abs(read_in_blocks(Forward) - whole)
ratio_db = 10 * np.log10((whole**2).sum() / (error**2).sum())
print(f"{len(mp3) * 8 / 20 / 1000:.0f} kbit/s, {len(whole)} samples in blocks of {BLOCK}")
print(f"seekable():     largest error {error.max():.6f}, {ratio_db:.1f} dB")
print(f"not seekable(): largest error {forward_error.max():.6f}")
assert error.max() > 0.1 and ratio_db < 30
assert forward_error.max() < 1e-5
PYTHON
