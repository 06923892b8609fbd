#!/usr/bin/env bash
# libsndfile 1.2.2 (soundfile 0.14.0); the MP3 comes from the LAME in PyAV 18.1.0.
#
# Of an MP3 of variable bit rate without a Xing header libsndfile estimates the length as if all
# frames were as large as the first, and reading stops there, without an error, though the file
# goes on: reading until nothing comes does not help. LAME makes the first frame large even where
# the audio begins quietly, so that such files are cut as well.
#
# Seen:
#   loud, then quiet: 469748 samples of 1323000 in one read, 469748 in blocks
#   quiet, then loud: 552371 samples of 1323000 in one read, 552371 in blocks
#   loud, then quiet, with the header: 1323000 samples of 1323000 in one read, 1323000 in blocks
#
# Why it matters: recordings from streams and cuts of files have no such header. A third of the
# clip looks like a valid short clip.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet soundfile==0.14.0 av==18.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import fractions
import io

import av
import numpy as np
import soundfile

RATE_HZ = 44_100


def encoded(samples, has_header):
    file = io.BytesIO()
    with av.open(
        file, "w", format="mp3", options={"write_xing": str(int(has_header))}
    ) as container:
        options = {"flags": "+qscale", "global_quality": "236"}  # LAME: -V 2
        stream = container.add_stream("libmp3lame", rate=RATE_HZ, layout="mono", options=options)
        planes = samples.astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, 0
        frame.time_base = fractions.Fraction(1, RATE_HZ)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


assert soundfile.__libsndfile_version__ == "1.2.2"
samples = 0.3 * np.random.default_rng(0).standard_normal(30 * RATE_HZ)
samples[10 * RATE_HZ :] *= 1e-4
for name, clip, has_header in (
    ("loud, then quiet", samples, False),
    ("quiet, then loud", samples[::-1], False),
    ("loud, then quiet, with the header", samples, True),
):
    mp3 = encoded(clip, has_header)
    at_once = len(soundfile.read(io.BytesIO(mp3))[0])
    file, in_blocks = soundfile.SoundFile(io.BytesIO(mp3)), 0
    while length := len(file.read(4096)):
        in_blocks += length
    print(f"{name}: {at_once} samples of {len(clip)} in one read, {in_blocks} in blocks")
    assert at_once == in_blocks
    assert at_once == len(clip) if has_header else at_once < 0.6 * len(clip)
PYTHON
