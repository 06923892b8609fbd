#!/usr/bin/env bash
# soundfile 0.14.0 with its libsndfile 1.2.2.
#
# An MP3 that soundfile writes at a constant 48 kbit/s, 44.1 kHz and one channel has no header
# with its length, and libsndfile estimates it, here too long. read() then returns what there is,
# but blocks() trusts the estimate: the last block is filled up with what its buffer still holds,
# the samples at the same place of the block before.
#
# Seen:
#   frames 887741, read() 883584, blocks() 887741
#   the 4157 samples too many repeat the block before: True
#
# Why it matters: every file gets a piece of itself again at its end, at full level, and nothing
# tells a reader of blocks that it is not part of the recording.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet soundfile==0.14.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import soundfile

RATE_HZ = 44_100

assert soundfile.__libsndfile_version__ == "1.2.2"
samples = 0.1 * np.random.default_rng(0).standard_normal(20 * RATE_HZ)
written = io.BytesIO()
soundfile.write(
    written, samples, RATE_HZ, format="MP3", bitrate_mode="CONSTANT", compression_level=0.95
)
mp3 = written.getvalue()
whole, _ = soundfile.read(io.BytesIO(mp3), dtype="float32")
*_, before, last = soundfile.blocks(io.BytesIO(mp3), blocksize=RATE_HZ, dtype="float32")
total = sum(len(block) for block in soundfile.blocks(io.BytesIO(mp3), blocksize=RATE_HZ))
excess = total - len(whole)
repeats = np.array_equal(last[-excess:], before[len(last) - excess : len(last)])
print(f"frames {soundfile.info(io.BytesIO(mp3)).frames}, read() {len(whole)}, blocks() {total}")
print(f"the {excess} samples too many repeat the block before: {repeats}")
assert 0 < excess < len(last)
assert repeats and np.abs(last[-excess:]).max() > 0.1
PYTHON
