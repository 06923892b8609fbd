"""What containers claim about their length: cut, never completed, chained and misnamed files."""

import io
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fuzz.mutations import changed_bytes
from fuzz.properties import fuzz, tiers
from hypothesis import strategies as st

from psla_wds.audio.containers import W64_DATA, claim_of, lacks, ogg_streams
from psla_wds.audio.decode import Excerpt, decode, load_clip
from psla_wds.audio.files import Notes
from psla_wds.audio.kinds import kind_of
from psla_wds.errors import AudioError, ClipRefusedError

RATE_HZ = 16_000
FORMATS = ("WAV", "RF64", "W64", "AIFF", "AU", "CAF", "OGG", "OPUS", "NIST", "VOC")
NOISE = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE_HZ)


def file_of(format: str, subtype: str | None = None, waveform: np.ndarray = NOISE) -> bytes:
    container = "OGG" if format == "OPUS" else format
    subtype = subtype or {"OGG": "VORBIS", "OPUS": "OPUS"}.get(format, "PCM_16")
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, RATE_HZ, format=container, subtype=subtype)
    return buffer.getvalue()


def loaded(content: bytes, **excerpt: float) -> tuple[int, set[str]]:
    """Samples of a clip in memory, and its flags."""
    notes = Notes()
    waveform = load_clip(
        io.BytesIO(content), Excerpt(**excerpt), sample_rate_hz=RATE_HZ, notes=notes
    )
    return len(waveform), set(notes.flags)


def cut_short(file: io.BytesIO) -> str:
    return lacks(file, claim_of(file, kind_of(file)))


def assert_truncated(content: bytes, path: Path) -> None:
    """Every way of reading refuses the file."""
    path.write_bytes(content)
    for source in (path, io.BytesIO(content)):
        with pytest.raises(ClipRefusedError) as refused:
            load_clip(source, sample_rate_hz=RATE_HZ)
        assert refused.value.reason == "truncated"
    with pytest.raises(AudioError):
        list(decode(path, RATE_HZ))
    assert cut_short(io.BytesIO(content))


@pytest.mark.parametrize("format", ["OGG", "OPUS"])
def test_ogg_with_damage_in_the_middle_is_refused(format: str, tmp_path: Path):
    whole = file_of(format, waveform=np.tile(NOISE, 4))
    pages = [whole.index(b"OggS")]
    while (place := whole.find(b"OggS", pages[-1] + 1)) > 0:
        pages.append(place)
    assert len(pages) > 6
    start, end = pages[-3], pages[-2]
    flipped = bytes([whole[(start + end) // 2] ^ 1])
    for content in (
        whole[:start] + whole[end:],  # a page is lost
        whole[: (start + end) // 2] + flipped + whole[(start + end) // 2 + 1 :],
        whole[:start] + b"oggs" + whole[start + 4 :],
        whole[: start + 30] + whole[start + 90 :],
    ):
        (tmp_path / "clip").write_bytes(content)
        for source in (tmp_path / "clip", io.BytesIO(content)):
            with pytest.raises(ClipRefusedError, match=r"damaged|missing|no page") as refused:
                load_clip(source, Excerpt(0.0, 1.0), sample_rate_hz=RATE_HZ)
            assert refused.value.reason == "damaged"
    headers = pages[2]
    joined = whole[:headers] + whole[pages[4] :]  # a broadcast from where a listener came
    assert not claim_of(io.BytesIO(joined), "ogg").damage


@tiers(40, 2000)
@pytest.mark.parametrize("format", FORMATS)
def test_a_cut_is_refused_wherever_it_is(format: str, num_cases: int):
    whole = file_of(format)

    def cut(size: int) -> None:
        with pytest.raises(ClipRefusedError):
            loaded(whole[:size])

    fuzz(num_cases, st.integers(0, len(whole) - 1), cut)


@tiers(40, 2000)
@pytest.mark.parametrize("format", ["OGG", "OPUS"])
def test_changed_ogg_is_refused_or_the_same(format: str, num_cases: int):
    whole = file_of(format, waveform=np.tile(NOISE, 2))
    expected = load_clip(io.BytesIO(whole), sample_rate_hz=RATE_HZ)

    def changed(content: bytes) -> None:
        with suppress(ClipRefusedError):
            found = load_clip(io.BytesIO(content), sample_rate_hz=RATE_HZ)
            assert np.array_equal(found, expected)

    fuzz(num_cases, changed_bytes(whole), changed)


@pytest.mark.parametrize("cut", [36, 44])
def test_a_cut_is_no_header_that_counts_itself(cut: int, tmp_path: Path):
    assert_truncated(file_of("WAV")[:-cut], tmp_path / "clip")


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_anywhere_is_refused(format: str, tmp_path: Path):
    whole = file_of(format)
    assert loaded(whole) == (len(NOISE), set()) and not cut_short(io.BytesIO(whole))
    for size in (len(whole) - 1, len(whole) - 100, len(whole) // 2):
        assert_truncated(whole[:size], tmp_path / "clip")


@pytest.mark.parametrize("format", ["OGG", "OPUS"])
def test_ogg_cut_between_pages_is_refused(format: str, tmp_path: Path):
    whole = file_of(format, waveform=np.tile(NOISE, 5))
    last_page = whole.rindex(b"OggS")
    assert_truncated(whole[:last_page], tmp_path / "clip")
    unknown = whole[:last_page].replace(b"libVorbis", b"sthg_else").replace(b"libopus", b"other__")
    for name in (b"Lavf", b"Lavc", b"libsndfile"):
        unknown = unknown.replace(name, b"x" * len(name))
    # The checksum of the page with the encoder's name no longer fits: only the claim is read.
    assert cut_short(io.BytesIO(unknown)) == ""
    assert list(claim_of(io.BytesIO(unknown), "ogg").flags) == ["no-end-mark"]


def patched(content: bytes, name: bytes, value: bytes, skip: int = 0) -> bytes:
    """The bytes after a chunk's name replaced."""
    start = content.index(name) + len(name) + skip
    return content[:start] + value + content[start + len(value) :]


ZERO = bytes(4)
REPAIRED = {
    "wav of size 0": patched(patched(file_of("WAV"), b"RIFF", ZERO), b"data", ZERO),
    "wav whose size wrapped": patched(file_of("WAV"), b"data", struct.pack("<I", 1000)),
    "wav that counts itself": patched(
        file_of("WAV"), b"data", struct.pack("<I", len(file_of("WAV")) - 8)
    ),
    "rf64 of size 0": patched(file_of("RF64"), b"ds64", bytes(16), skip=4),
    "w64 of size 0": patched(file_of("W64"), W64_DATA, struct.pack("<q", 24)),
    "w64 whose size is empty": patched(file_of("W64"), W64_DATA, bytes(8)),
    "au of size 0": patched(file_of("AU"), b".snd", ZERO, skip=4),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_a_header_that_was_not_completed_is_repaired(name: str, tmp_path: Path):
    assert loaded(REPAIRED[name]) == (len(NOISE), {"header-repaired"})
    (tmp_path / "a.wav").write_bytes(REPAIRED[name])
    notes = Notes()
    assert sum(map(len, decode(tmp_path / "a.wav", RATE_HZ, notes))) == len(NOISE)
    assert "header-repaired" in notes.flags


UNKNOWN = {
    "au": patched(file_of("AU"), b".snd", b"\xff" * 4, skip=4),
    "caf": patched(file_of("CAF"), b"data", b"\xff" * 8),
    "w64": patched(file_of("W64"), W64_DATA, struct.pack("<q", 2**63 - 1)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_stream_of_unknown_size_is_whole(name: str):
    """As programs write it that cannot go back to the header."""
    assert loaded(UNKNOWN[name]) == (len(NOISE), set())


@pytest.mark.parametrize("after", [b"", b"LIST" + struct.pack("<I", 4) + b"INFO"])
def test_an_empty_wav_stays_empty(after: bytes):
    with pytest.raises(ClipRefusedError) as refused:
        loaded(file_of("WAV", waveform=NOISE[:0]) + after)
    assert refused.value.reason == "empty"
    assert loaded(file_of("WAV") + after) == (len(NOISE), set())


def test_an_aiff_of_size_0_is_refused():
    content = patched(file_of("AIFF"), b"SSND", ZERO)
    with pytest.raises(ClipRefusedError, match="header says 0 bytes") as refused:
        loaded(content)
    assert refused.value.reason == "truncated"


@pytest.mark.parametrize("format", ["OGG", "OPUS"])
def test_chained_ogg_is_read_to_its_end(format: str):
    one, other = file_of(format), file_of(format, waveform=NOISE[:8_000])
    assert len(ogg_streams(io.BytesIO(one + other))) == 2
    assert loaded(one + other) == (len(NOISE) + 8_000, {"chained"})
    alone = load_clip(io.BytesIO(other), sample_rate_hz=RATE_HZ)
    end_s = len(NOISE) / RATE_HZ
    both = load_clip(io.BytesIO(one + other), Excerpt(start_s=end_s), sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(both, alone)
    assert loaded(one + other, start_s=end_s - 0.25, end_s=end_s + 0.25)[0] == RATE_HZ // 2


def test_a_chain_of_several_rates_is_refused():
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE, 44_100, format="OGG", subtype="VORBIS")
    with pytest.raises(ClipRefusedError) as refused:
        loaded(file_of("OGG") + buffer.getvalue())
    assert refused.value.reason == "chained"


@pytest.mark.parametrize("num_blocks", [50, 51])
def test_gsm_has_the_samples_of_its_blocks(num_blocks: int):
    buffer = io.BytesIO()
    tone = 0.2 * np.sin(np.arange(320 * num_blocks) / 5)
    soundfile.write(buffer, tone, RATE_HZ, format="WAV", subtype="GSM610")
    assert loaded(buffer.getvalue()) == (320 * num_blocks, set())


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32"])
def test_excerpts_of_codecs_that_cannot_seek(subtype: str):
    content = file_of("WAV", subtype)
    whole = load_clip(io.BytesIO(content), sample_rate_hz=RATE_HZ)
    part = load_clip(io.BytesIO(content), Excerpt(0.5, 1.5), sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(part, whole[RATE_HZ // 2 : 3 * RATE_HZ // 2])


def test_what_is_odd_is_flagged():
    stereo = np.stack([NOISE, -NOISE], axis=1)
    assert loaded(file_of("WAV", waveform=stereo))[1] == {"channels-cancel"}
    quiet_side = np.stack([NOISE, -0.5 * NOISE], axis=1)
    assert loaded(file_of("WAV", waveform=quiet_side))[1] == set()
    loud = NOISE * (1.3 / np.abs(NOISE).max())
    assert loaded(file_of("WAV", "FLOAT", loud))[1] == {"over-full-scale"}


def test_content_decides_and_not_the_name(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(file_of("FLAC"))
    notes = Notes()
    assert len(load_clip(tmp_path / "a.wav", sample_rate_hz=RATE_HZ, notes=notes)) == len(NOISE)
    assert notes.flags == {"misnamed": "named .wav, is flac"}
