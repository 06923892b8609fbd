#!/usr/bin/env bash
# PyAV 18.1.0 with its FFmpeg libraries (libavcodec 62.28).
#
# The native AAC encoder replaces noise-like bands by their level alone unless aac_pns is 0, and
# the decoder fills them from a random generator whose state runs on from frame to frame. A seek
# starts it at another place of its sequence, so that no run-up, however long, gives the samples
# of a decoder that came from the beginning. Without aac_pns one frame of run-up gives them bit by
# bit.
#
# Seen:
#   aac_pns=1: 8 s after a seek, 10.2 dB, 94 frames of 344 equal
#   aac_pns=0: 8 s after a seek, inf dB, 344 frames of 344 equal
#
# Why it matters: clips cut out of long files by seeking differ from the same clips cut out of the
# decoded file, by far more than rounding, and a test for equality fails only with such encoders.
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


def decoded(m4a, start_s=0):
    with av.open(io.BytesIO(m4a)) as container:
        stream = container.streams.audio[0]
        if start_s:
            container.seek(int(start_s / stream.time_base), stream=stream)
        frames = list(container.decode(stream))
        return frames[0].pts, np.concatenate([frame.to_ndarray()[0] for frame in frames])


assert av.library_versions["libavcodec"][:2] == (62, 28)
noise = 0.1 * np.random.default_rng(0).standard_normal(10 * RATE_HZ).astype(np.float32)
for aac_pns in "10":
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"aac_pns": aac_pns} if aac_pns == "0" else {}
        stream = container.add_stream("aac", rate=RATE_HZ, layout="mono", options=options)
        stream.bit_rate = 96_000
        frame = av.AudioFrame.from_ndarray(noise[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, 0
        frame.time_base = fractions.Fraction(1, RATE_HZ)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _, whole = decoded(file.getvalue())
    start, part = decoded(file.getvalue(), start_s=2)
    part, reference = part[1024:], whole[start + 1024 :]  # without the frame of run-up
    assert len(part) == len(reference)
    equal = (part == reference).reshape(-1, 1024).all(axis=1)
    with np.errstate(divide="ignore"):
        ratio_db = 10 * np.log10((reference**2).sum() / ((part - reference) ** 2).sum())
    frames = f"{equal.sum()} frames of {len(equal)} equal"
    print(
        f"aac_pns={aac_pns}: {len(part) / RATE_HZ:.0f} s after a seek, {ratio_db:.1f} dB, {frames}"
    )
    assert equal.all() if aac_pns == "0" else ratio_db < 20 and equal.mean() < 0.5
PYTHON
