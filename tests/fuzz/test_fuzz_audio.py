"""Changed audio, in files to pack and in shards whose check sums fit: refused or decoded."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from foreign_tars import audio_of
from hypothesis import strategies as st
from mutations import changed_bytes
from properties import fuzz, tiers

PROGRAM = Path(__file__).with_name("audio_cases.py")
CASES_AT_ONCE = 500
SECONDS_PER_CASE = 5.0
ORIGINALS = {extension: audio_of(0, extension) for extension in ("flac", "wav", "ogg")}
# FLAC's STREAMINFO, from byte 18 on: rate in Hz (20 bits), channels - 1 (3), bits - 1 (5),
# samples (36).
STREAM_INFO = slice(18, 26)
RATES = [0, 1, 8000, 16_000, 44_100, 655_350, 2**20 - 1]
SAMPLES = [0, 1, 15, 2**31, 2**33, 2**36 - 1]
WAV_SIZES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]


def stream_info(rate_hz: int, channels: int, bits: int, samples: int) -> bytes:
    packed = (rate_hz << 44) | ((channels - 1) << 41) | ((bits - 1) << 36) | samples
    return packed.to_bytes(8, "big")


def flac_claiming(rate_hz: int, channels: int, bits: int, samples: int) -> bytes:
    audio = bytearray(ORIGINALS["flac"])
    audio[STREAM_INFO] = stream_info(rate_hz, channels, bits, samples)
    return bytes(audio)


def wav_claiming(place: int, value: int) -> bytes:
    """Another number in the header: RIFF size, format, channels, rate, block, bits, data size."""
    width = {4: 4, 20: 2, 22: 2, 24: 4, 28: 4, 32: 2, 34: 2, 40: 4}[place]
    audio = bytearray(ORIGINALS["wav"])
    audio[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(audio)


changed_audio = st.one_of(
    st.sampled_from(sorted(ORIGINALS)).flatmap(lambda name: changed_bytes(ORIGINALS[name])),
    st.builds(
        flac_claiming,
        st.sampled_from(RATES),
        st.integers(1, 8),
        st.sampled_from([1, 4, 8, 16, 24, 32]),
        st.sampled_from(SAMPLES),
    ),
    st.builds(
        wav_claiming,
        st.sampled_from([4, 20, 22, 24, 28, 32, 34, 40]),
        st.sampled_from([*WAV_SIZES, 2, 3, 255, 65_534]),
    ),
)


def outcomes(cases: list[bytes]) -> list[dict[str, str]]:
    """What became of each case; a crash, a hang or a bug names its case."""
    with tempfile.TemporaryDirectory() as folder:
        for number, audio in enumerate([ORIGINALS["flac"], *cases]):
            (Path(folder) / f"{number}.audio").write_bytes(audio)
        try:
            done = subprocess.run(
                [sys.executable, "-X", "faulthandler", str(PROGRAM), folder],
                capture_output=True,
                text=True,
                check=False,
                timeout=60 + SECONDS_PER_CASE * len(cases),
            )
        except subprocess.TimeoutExpired as error:
            pytest.fail(f"hangs in case {(error.stdout or b'').splitlines()[-1:]}")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode:
            number = lines[-1]["case"]
            case = ([ORIGINALS["flac"], *cases])[number]
            what = f"case {number}: exit status {done.returncode}"
            pytest.fail(f"{what}\n{done.stderr[-3000:]}\n{case[:64]!r}")
    first, *others = [line for line in lines if "load" in line]
    assert (first["build"], first["load"]) == ("packed", "loaded")
    return others


@tiers(100, 3000)
def test_changed_audio_is_refused_or_decoded(num_cases: int):
    cases = drawn(num_cases)
    assert len(set(cases)) > num_cases / 2
    counts: Counter[str] = Counter()
    for start in range(0, num_cases, CASES_AT_ONCE):
        for outcome in outcomes(cases[start : start + CASES_AT_ONCE]):
            counts.update([outcome["build"], outcome["load"]])
    assert counts["packed"] and counts["unreadable"] and counts["loaded"] and counts["refused"]
    assert not counts["loaded, not finite"]


def drawn(num_cases: int) -> list[bytes]:
    cases: list[bytes] = []
    fuzz(num_cases, changed_audio, cases.append)
    return cases[:num_cases]


@pytest.mark.parametrize("samples", [2**31, 2**33, 2**36 - 1])
@pytest.mark.parametrize("rate_hz", [16_000, 655_350])
def test_a_flac_header_takes_no_memory_for_samples_that_are_not_there(samples: int, rate_hz: int):
    (outcome,) = outcomes([flac_claiming(rate_hz, 1, 16, samples)])
    assert outcome["build"] in ("too-long", "truncated", "unreadable")
    assert outcome["load"] == "refused"
