#!/usr/bin/env bash
# libsndfile 1.2.2 (soundfile 0.14.0).
#
# A WAV file of GSM 6.10 with an odd number of 65-byte blocks is read back with one block more
# than was written, 320 samples of noise, with or without the byte that pads the data chunk: from
# its odd length libsndfile concludes that the file is cut short inside another block, and decodes
# that. The fact chunk, which libsndfile writes with the right length, is not heeded. An even
# number of blocks, or the same samples in W64, come back right.
#
# Seen:
#   WAV, 1 block written: 640 samples of 320, RMS of those written 0.060, of the others 0.676
#   WAV, 2 blocks written: 640 samples of 640
#   WAV, 3 blocks written: 1280 samples of 960, RMS of those written 0.069, of the others 0.098
#   W64, 3 blocks written: 960 samples of 960
#
# Why it matters: every other telephone recording in this format ends in 40 ms of noise, which may
# be louder than the recording.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet soundfile==0.14.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import soundfile


def rms(samples):
    return np.sqrt((samples**2).mean())


assert soundfile.__libsndfile_version__ == "1.2.2"
for container, num_blocks, extra in (
    ("WAV", 1, 320),
    ("WAV", 2, 0),
    ("WAV", 3, 320),
    ("W64", 3, 0),
):
    tone = 0.1 * np.sin(2 * np.pi * 300 * np.arange(320 * num_blocks) / 8000)
    file = io.BytesIO()
    soundfile.write(file, tone, 8000, format=container, subtype="GSM610")
    read, _ = soundfile.read(io.BytesIO(file.getvalue()))
    levels = ""
    if len(read) > len(tone):
        levels = f", RMS of those written {rms(read[: len(tone)]):.3f}"
        levels += f", of the others {rms(read[len(tone) :]):.3f}"
    blocks = f"{num_blocks} block{'s'[: num_blocks > 1]}"
    print(f"{container}, {blocks} written: {len(read)} samples of {len(tone)}{levels}")
    assert len(read) == len(tone) + extra
    assert not extra or rms(read[len(tone) :]) > rms(read[: len(tone)])
PYTHON
