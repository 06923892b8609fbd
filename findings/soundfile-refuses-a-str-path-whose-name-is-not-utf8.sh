#!/usr/bin/env bash
# soundfile 0.14.0 cannot open a file whose name is not UTF-8 if its path is a str as os.listdir and pathlib give it
# (surrogateescape): it encodes the path strictly and raises UnicodeEncodeError, where open() and wave.open() read the
# file. The same path as bytes (os.fsencode) works.
#
# Output seen on Linux x86-64, Python 3.11, soundfile 0.14.0 (libsndfile 1.2.2):
#   wave.open, path as str:        160 frames
#   soundfile.read, path as bytes: 160 frames
#   soundfile.read, path as str:   UnicodeEncodeError
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet soundfile==0.14.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import sys
import wave

import numpy as np
import soundfile

path = os.path.join(sys.argv[1], os.fsdecode(b"caf\xe9.wav"))
soundfile.write(os.fsencode(path), np.zeros(160), 16_000)
with wave.open(path) as file:
    frames = file.getnframes()
print(f"wave.open, path as str:        {frames} frames")
samples, _ = soundfile.read(os.fsencode(path))
print(f"soundfile.read, path as bytes: {len(samples)} frames")
try:
    soundfile.read(path)
except UnicodeEncodeError as error:
    print(f"soundfile.read, path as str:   {type(error).__name__}")
else:
    sys.exit("soundfile reads it now")
assert frames == len(samples) == 160
PYTHON
