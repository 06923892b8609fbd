#!/usr/bin/env bash
# PyAV 18.1.0 with its FFmpeg libraries (libavformat 62.12, libavcodec 62.28); libsndfile 1.2.2
# (soundfile 0.14.0) writes the files and reads them back right.
#
# Where all audio of an Ogg Vorbis file lies in one page, FFmpeg does not cut the end to the
# length that the page states, but rounds: up, with samples past the end, or, if the length is a
# multiple of the short block, down by one such block, which holds audio. A file of one block
# gives no frame at all. The duration of the stream is right all the same; that of the last packet
# is 0 where a block is lost, and elsewhere a difference below zero, taken as 32 bits without a
# sign. From two pages of audio on the length is right.
#
# Seen, at 16 kHz:
#   256 samples: 0 from FFmpeg, stream.duration 256, last packet 0
#   777 samples: 1024 from FFmpeg, stream.duration 777, last packet 4294967049
#   1024 samples: 768 from FFmpeg, stream.duration 1024, last packet 0
#   64000 samples: 64000 from FFmpeg, stream.duration 64000, last packet 256
#
# Why it matters: such pages hold up to half a second here, so that data sets of short sounds,
# drum hits or bird calls, are affected as a whole: lengths differ from the table, and clips are
# empty.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 soundfile==0.14.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import av
import numpy as np
import soundfile

assert av.library_versions["libavformat"][:2] == (62, 12)
random = np.random.default_rng(0)
for length, expected in ((256, 0), (777, 1024), (1024, 768), (64_000, 64_000)):
    file = io.BytesIO()
    noise = 0.1 * random.standard_normal(length)
    soundfile.write(file, noise, 16_000, format="OGG", subtype="VORBIS")
    ogg = file.getvalue()
    assert len(soundfile.read(io.BytesIO(ogg))[0]) == length
    with av.open(io.BytesIO(ogg)) as container:
        stream = container.streams.audio[0]
        duration = stream.duration
        decoded = sum(frame.samples for frame in container.decode(stream))
    with av.open(io.BytesIO(ogg)) as container:
        *_, last = (packet for packet in container.demux(audio=0) if packet.size)
    text = f"stream.duration {duration}, last packet {last.duration}"
    print(f"{length} samples: {decoded} from FFmpeg, {text}")
    assert decoded == expected and duration == length
    assert length != 777 or last.duration > 2**31
PYTHON
