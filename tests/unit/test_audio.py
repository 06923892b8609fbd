import io
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from conftest import run

from psla_wds.audio import ffmpeg
from psla_wds.audio.decode import (
    EXTENSIONS,
    ClipRefusedError,
    as_mono,
    decode_pcm,
    encode_clip,
    level_dbfs,
    load_clip,
)

RATE_HZ = 16_000
CODECS = list(EXTENSIONS)
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "float": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
}


def sine(rate_hz: int, frequency_hz: float, length_s: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(rate_hz * length_s)) / rate_hz)


def peak_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * RATE_HZ / len(waveform))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (48_000, 2)])
def test_every_format_rate_and_channel_count_becomes_mono(
    tmp_path: Path, name: str, rate_hz: int, channels: int
):
    container, subtype = FORMATS[name]
    waveform = np.repeat(sine(rate_hz, 1000.0)[:, None], channels, axis=1)
    soundfile.write(tmp_path / "clip", waveform, rate_hz, format=container, subtype=subtype)
    loaded = load_clip(tmp_path / "clip", sample_rate_hz=RATE_HZ)
    assert loaded.dtype == np.float32 and abs(len(loaded) - RATE_HZ) < 0.1 * RATE_HZ
    assert peak_hz(loaded) == pytest.approx(1000, abs=3)
    assert loaded.std() == pytest.approx(0.5 / math.sqrt(2), rel=0.05)


def test_channels_are_averaged(tmp_path: Path):
    waveform = np.stack([np.full(1600, 0.5), np.full(1600, -0.25)], axis=1)
    soundfile.write(tmp_path / "clip.wav", waveform, RATE_HZ)
    assert load_clip(tmp_path / "clip.wav", sample_rate_hz=RATE_HZ) == pytest.approx(0.125)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_mean_of_channels_is_exactly_numpys(channels: int):
    waveform = np.random.default_rng(0).standard_normal((50_000, channels)).astype(np.float32)
    mono = as_mono(waveform, RATE_HZ, RATE_HZ)
    assert mono.dtype == np.float32 and np.array_equal(mono, waveform.mean(axis=1))


@pytest.mark.parametrize("rate_hz", [22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("new_rate_hz", [16_000, 8_000])
def test_no_part_of_a_sweep_above_the_new_band_comes_back_as_an_alias(
    tmp_path: Path, rate_hz: int, new_rate_hz: int
):
    length_s = 4.0
    time_s = np.arange(round(rate_hz * length_s)) / rate_hz
    sweep = 0.5 * np.sin(2 * np.pi * rate_hz / 2 * time_s**2 / (2 * length_s))  # 0 to half the rate
    stereo = np.stack([sweep, sweep], axis=1)
    soundfile.write(tmp_path / "clip.wav", stereo, rate_hz, subtype="FLOAT")
    loaded = load_clip(tmp_path / "clip.wav", sample_rate_hz=new_rate_hz)
    swept_hz = np.arange(len(loaded)) / new_rate_hz * rate_hz / 2 / length_s
    in_band = (swept_hz > 100) & (swept_hz < 0.9 * new_rate_hz / 2)
    above = (swept_hz > 1.02 * new_rate_hz / 2) & (swept_hz < 0.99 * rate_hz / 2)
    assert np.abs(loaded[in_band]).max() == pytest.approx(0.5, rel=0.02)
    assert 20 * math.log10(np.abs(loaded[above]).max() / 0.5) < -80


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_gives_the_same_bytes_again_and_keeps_length_and_pitch(codec: str):
    waveform = sine(RATE_HZ, 1000.0, length_s=1.2345).astype(np.float32)
    encoded = encode_clip(waveform, sample_rate_hz=RATE_HZ, codec=codec)
    assert encode_clip(waveform, sample_rate_hz=RATE_HZ, codec=codec) == encoded
    decoded, rate_hz = decode_pcm(encoded)
    assert rate_hz == RATE_HZ and len(decoded) == len(waveform)
    assert peak_hz(decoded / 32768) == pytest.approx(1000, abs=3)
    assert decoded.std() / 32768 == pytest.approx(waveform.std(), rel=0.03)


def test_ogg_pages_carry_the_fixed_serial_and_a_checksum_that_others_compute():
    pages = encode_clip(
        np.random.default_rng(0).normal(0, 0.1, 5 * RATE_HZ).astype(np.float32),
        sample_rate_hz=RATE_HZ,
        codec="vorbis",
    )
    start = num_pages = 0
    while start < len(pages):
        segments = pages[start + 27 : start + 27 + pages[start + 26]]
        page = pages[start : start + 27 + len(segments) + sum(segments)]
        assert page[:4] == b"OggS" and page[14:18] == bytes(4)
        assert int.from_bytes(page[22:26], "little") == slow_checksum(page)
        start, num_pages = start + len(page), num_pages + 1
    assert num_pages > 3


def slow_checksum(page: bytes) -> int:
    """RFC 3533: a CRC of the page without its checksum, by polynomial 0x04c11db7, bit by bit."""
    remainder = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1) ^ (0x104C11DB7 if remainder & 0x80000000 else 0)
    return remainder


def test_ten_minutes_of_vorbis_do_not_overflow_the_stack_of_its_encoder():
    waveform = np.tile(sine(RATE_HZ, 440.0, 10.0).astype(np.float32), 60)
    encoded = encode_clip(waveform, sample_rate_hz=RATE_HZ, codec="vorbis")
    assert soundfile.info(io.BytesIO(encoded)).frames == len(waveform)


def test_a_sixteen_bit_waveform_survives_packing_bit_by_bit():
    pcm = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    for codec in ("flac", "wav"):
        encoded = encode_clip((pcm / 32768).astype(np.float32), sample_rate_hz=RATE_HZ, codec=codec)
        decoded, rate_hz = decode_pcm(encoded)
        assert rate_hz == RATE_HZ and np.array_equal(decoded, pcm)


def test_what_is_louder_than_full_scale_is_clipped_not_wrapped():
    loud = np.array([1.5, -1.5, 0.0], np.float32)
    pcm, _ = decode_pcm(encode_clip(loud, sample_rate_hz=RATE_HZ, codec="wav"))
    assert pcm.tolist() == [32767, -32768, 0]


def flac_file() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, RATE_HZ)
    soundfile.write(buffer, noise, RATE_HZ, format="FLAC")
    return buffer.getvalue()


WITHOUT_SAMPLES = encode_clip(np.zeros(0, np.float32), sample_rate_hz=RATE_HZ, codec="wav")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        (b"", "unreadable"),
        (b"no audio", "unreadable"),
        (flac_file()[:2000], "unreadable"),
        (flac_file()[:400] + bytes(100) + flac_file()[500:], "unreadable"),
        (WITHOUT_SAMPLES, "empty"),
    ],
    ids=["missing", "no bytes", "no audio", "cut short", "damaged", "no samples"],
)
def test_a_file_that_cannot_be_used_is_refused_with_a_reason(
    tmp_path: Path, content: bytes | None, reason: str
):
    if content is not None:
        (tmp_path / "clip").write_bytes(content)
    with pytest.raises(ClipRefusedError) as caught:
        load_clip(tmp_path / "clip", sample_rate_hz=RATE_HZ)
    assert caught.value.reason == reason


def wav_file(length_s: float, **settings: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, round(length_s * RATE_HZ))
    soundfile.write(buffer, noise, RATE_HZ, format="WAV", **settings)
    return buffer.getvalue()


@pytest.mark.parametrize("in_memory", [False, True])
def test_of_a_wav_file_that_was_cut_short_only_what_is_whole_is_taken(
    tmp_path: Path, in_memory: bool
):
    content = wav_file(2.0)[: 44 + 3 * RATE_HZ]  # 1.5 s of it
    path = tmp_path / "clip.wav"
    path.write_bytes(content)

    def length(**excerpt: float) -> int:
        source = io.BytesIO(content) if in_memory else path
        return len(load_clip(source, sample_rate_hz=RATE_HZ, **excerpt))

    with pytest.raises(ClipRefusedError, match="ends before its header says so") as caught:
        length()
    assert caught.value.reason == "truncated"
    assert length(start_s=0.2, end_s=1.2) == RATE_HZ
    with pytest.raises(ClipRefusedError, match="ends before"):
        length(start_s=1.0, end_s=2.0)


def test_a_wav_file_whose_header_does_not_know_its_length_is_taken(tmp_path: Path):
    content = bytearray(wav_file(1.0))
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"  # as ffmpeg writes into a pipe
    (tmp_path / "clip.wav").write_bytes(content)
    assert len(load_clip(tmp_path / "clip.wav", sample_rate_hz=RATE_HZ)) == RATE_HZ


def test_a_codec_that_cannot_seek_is_read_from_its_start(tmp_path: Path):
    (tmp_path / "clip.wav").write_bytes(wav_file(1.0, subtype="GSM610"))
    length = len(load_clip(tmp_path / "clip.wav", sample_rate_hz=RATE_HZ))
    assert length == pytest.approx(RATE_HZ, abs=320)


def test_what_is_told_of_bytes_that_are_no_audio_is_the_same_each_time():
    with pytest.raises(ClipRefusedError) as refused:
        load_clip(io.BytesIO(b"no audio at all"), sample_rate_hz=RATE_HZ)
    assert str(refused.value) == "Format not recognised."


def test_a_range_beyond_the_end_is_refused_and_one_across_it_is_cut(tmp_path: Path):
    soundfile.write(tmp_path / "clip.wav", sine(RATE_HZ, 440.0), RATE_HZ)
    cut = load_clip(tmp_path / "clip.wav", start_s=0.75, end_s=9.0, sample_rate_hz=RATE_HZ)
    assert len(cut) == RATE_HZ // 4
    with pytest.raises(ClipRefusedError, match="the file has 1 s"):
        load_clip(tmp_path / "clip.wav", start_s=2.0, end_s=3.0, sample_rate_hz=RATE_HZ)


def test_a_header_that_promises_hours_costs_no_memory(tmp_path: Path):
    header = bytearray(flac_file())
    header[21:26] = bytes([0xF0 | header[21] & 0xF, 0xFF, 0xFF, 0xFF, 0xFF])  # samples in all
    (tmp_path / "clip").write_bytes(header)
    with pytest.raises(ClipRefusedError):
        load_clip(tmp_path / "clip", sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize(
    ("length_s", "start_s", "end_s", "taken"),
    [
        (10.0, 30.0, 40.0, (0, 10)),
        (10.9, 30.0, 40.0, (0, 10.9)),
        (8.0, 30.0, 40.0, (0, 8)),
        (60.0, 30.0, 40.0, (30, 40)),
        (39.5, 30.0, 40.0, (30, 39.5)),
        (12.0, 0.0, 10.0, (0, 10)),
        (25.0, 30.0, 40.0, None),
    ],
    ids=["cut", "cut, a second more", "cut, less", "whole", "whole, its end", "whole", "neither"],
)
def test_length_tells_a_cut_clip_from_the_whole_recording(
    tmp_path: Path, length_s: float, start_s: float, end_s: float, taken: tuple[float, float] | None
):
    rate_hz = 1000
    ramp = np.arange(round(length_s * rate_hz)) / 100_000  # a sample says where it comes from
    soundfile.write(tmp_path / "clip.wav", ramp, rate_hz, subtype="FLOAT")

    def load() -> np.ndarray:
        times = {"start_s": start_s, "end_s": end_s, "may_be_cut": True}
        return load_clip(tmp_path / "clip.wav", **times, sample_rate_hz=rate_hz)

    if taken is None:
        with pytest.raises(ClipRefusedError, match="neither the excerpt"):
            load()
        return
    waveform = load()
    assert len(waveform) == round((taken[1] - taken[0]) * rate_hz)
    assert waveform[0] == pytest.approx(taken[0] * rate_hz / 100_000)


def test_no_more_than_the_most_is_kept(tmp_path: Path):
    soundfile.write(tmp_path / "clip.wav", sine(RATE_HZ, 440.0, 3.0), RATE_HZ)
    path = tmp_path / "clip.wav"
    assert len(load_clip(path, max_s=2.0, sample_rate_hz=RATE_HZ)) == 2 * RATE_HZ
    rest = load_clip(path, start_s=2.5, max_s=2.0, sample_rate_hz=RATE_HZ)
    assert len(rest) == RATE_HZ // 2


def test_level_is_that_of_the_sound_and_not_of_an_offset():
    assert level_dbfs(sine(RATE_HZ, 100.0).astype(np.float32) + 0.3) == pytest.approx(
        -9.03, abs=0.01
    )
    assert level_dbfs(np.full(100, 0.5, np.float32)) < -100


def made_by_ffmpeg(path: Path, rate_hz: int) -> Path:
    if ffmpeg.version() is None:
        pytest.skip("there is no ffmpeg on PATH")
    soundfile.write(path.parent / "source.wav", sine(rate_hz, 1000.0, 3.0), rate_hz)
    run(["ffmpeg", "-v", "error", "-i", str(path.parent / "source.wav"), f"file:{path}"])
    return path


@pytest.mark.parametrize("name", ["-c:v.m4a", "clip.webm", "clip.MP4", "clip.mkv", "clip.wma"])
def test_what_libsndfile_does_not_read_is_read_by_ffmpeg(tmp_path: Path, name: str):
    path = made_by_ffmpeg(tmp_path / name, 48_000)
    waveform = load_clip(path, start_s=1.0, end_s=2.0, sample_rate_hz=RATE_HZ)
    assert len(waveform) == RATE_HZ and peak_hz(waveform) == pytest.approx(1000, abs=3)
    assert waveform.std() == pytest.approx(0.5 / math.sqrt(2), rel=0.05)


def test_ffmpeg_reads_no_playlist_and_its_reason_is_told(tmp_path: Path):
    wav = made_by_ffmpeg(tmp_path / "clip.m4a", 48_000).with_name("source.wav")
    playlist = tmp_path / "list.m4a"
    playlist.write_text(f"ffconcat version 1.0\nfile {wav.name}\n")
    (tmp_path / "empty.webm").touch()
    for path in (playlist, tmp_path / "empty.webm"):
        with pytest.raises(ClipRefusedError, match="ffmpeg: ") as caught:
            load_clip(path, sample_rate_hz=RATE_HZ)
        assert caught.value.reason == "unreadable"


def test_without_ffmpeg_its_files_are_refused_with_that_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "clip.m4a").write_bytes(b"...")
    monkeypatch.setattr(ffmpeg, "version", lambda: None)
    with pytest.raises(ClipRefusedError, match=r"install ffmpeg to read \.m4a") as caught:
        load_clip(tmp_path / "clip.m4a", sample_rate_hz=RATE_HZ)
    assert caught.value.reason == "needs-ffmpeg"


def test_real_recordings_as_44_1_khz_stereo_files_come_back(real_clips: Path, tmp_path: Path):
    """With a noise above the band that is left, which must not come back into it."""
    files = sorted((real_clips / "esc50").glob("*.flac"))[::100]
    assert len(files) >= 5
    for path in files:
        source, rate_hz = soundfile.read(path, dtype="float32")
        up = soxr.resample(source, rate_hz, 44_100, quality="VHQ")
        hiss = highpass(np.random.default_rng(0).normal(0, 0.1, len(up)), 44_100, 9_000.0)
        stereo = np.stack([1.5 * up + hiss, 0.5 * up + hiss], axis=1)
        soundfile.write(tmp_path / "clip.wav", stereo, 44_100, subtype="FLOAT")
        loaded = load_clip(tmp_path / "clip.wav", sample_rate_hz=rate_hz)
        assert len(loaded) == pytest.approx(len(source), abs=1)
        num_samples = min(len(loaded), len(source))
        inside = slice(rate_hz // 10, -rate_hz // 10)  # filters ring where a file begins and ends
        difference = highpass(
            loaded[:num_samples] - source[:num_samples], rate_hz, 7_000.0, above=False
        )
        assert np.abs(difference[inside]).max() < 1e-3 * max(np.abs(source).max(), 0.01), path


def highpass(
    waveform: np.ndarray, rate_hz: int, edge_hz: float, *, above: bool = True
) -> np.ndarray:
    """What lies above a frequency, or below."""
    spectrum = np.fft.rfft(waveform)
    higher = np.fft.rfftfreq(len(waveform), 1 / rate_hz) > edge_hz
    return np.fft.irfft(np.where(higher == above, spectrum, 0), len(waveform))


@pytest.mark.parametrize("position", [0, 5000, 22_049])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_one_value_that_is_not_finite_refuses_the_clip(position: int, value: float, rate_hz: int):
    waveform = np.full((22_050, 2), 0.1, np.float32)
    waveform[position, 1] = value
    with pytest.raises(ClipRefusedError) as refused:
        as_mono(waveform, rate_hz, 16_000)
    assert refused.value.reason == "not-finite"
