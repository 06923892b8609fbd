#!/usr/bin/env bash
# PyAV 18.1.0 with its FFmpeg libraries (libavformat 62.12, libavcodec 62.28).
#
# MP4 states the true end of AAC audio, in the edit list and in the duration of the last packet,
# and FFmpeg writes both and shows them in stream.duration. Its decoder yet returns whole frames
# of 1,024 samples, with what the encoder put after the end, though it cuts the padding at the
# beginning. Of MP3 it cuts both. A last packet that holds less than a millisecond can be lost
# instead, since the length in the edit list is in whole milliseconds unless the muxer is told
# otherwise, by movie_timescale: 5,121 samples come back as 5,120.
#
# Seen:
#   441000 samples: mp3 441000, mp4 441344 (stream.duration 441000)
#   44100 samples: mp3 44100, mp4 45056 (stream.duration 44100)
#   5121 samples: mp3 5121, mp4 5120 (stream.duration 5116)
#
# Why it matters: the number of samples cannot be told from the header, and clips that should be
# cut seamlessly, or aligned with labels of another copy, have up to 23 ms of padding at their
# ends.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import fractions
import io

import av
import numpy as np

RATE_HZ = 44_100


def coded(samples, container_name, codec):
    file = io.BytesIO()
    with av.open(file, "w", format=container_name) as container:
        stream = container.add_stream(codec, rate=RATE_HZ, layout="mono")
        stream.bit_rate = 96_000
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, 0
        frame.time_base = fractions.Fraction(1, RATE_HZ)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(io.BytesIO(file.getvalue())) as container:
        stream = container.streams.audio[0]
        duration = round(stream.duration * stream.time_base * RATE_HZ)
        return sum(frame.samples for frame in container.decode(stream)), duration


assert av.library_versions["libavcodec"][:2] == (62, 28)
for length, expected in ((441_000, 441_344), (44_100, 45_056), (5_121, 5_120)):
    tone = 0.1 * np.sin(0.05 * np.arange(length, dtype=np.float32))
    mp3, _ = coded(tone, "mp3", "libmp3lame")
    mp4, duration = coded(tone, "mp4", "aac")
    print(f"{length} samples: mp3 {mp3}, mp4 {mp4} (stream.duration {duration})")
    assert mp3 == length
    assert mp4 == expected
    assert abs(duration - length) < RATE_HZ / 1000
PYTHON
