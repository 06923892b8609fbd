"""Audio in containers that libsndfile does not read, and MP3 whose length is not stated."""

import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from encoded_files import LENGTH_S, RATE_HZ, encode, waveform

from psla_wds.audio import libav
from psla_wds.audio.decode import Excerpt, decode, load_clip
from psla_wds.audio.files import Notes
from psla_wds.errors import ClipRefusedError

CODECS = {
    "a.m4a": ("aac", {"aac_pns": "0"}),  # noise substitution is random: nobody gets it twice
    "a.mov": ("aac", {"aac_pns": "0"}),
    "a.3gp": ("aac", {"aac_pns": "0"}),
    "a.mka": ("aac", {"aac_pns": "0"}),
    "a.webm": ("libopus", {}),
    "vorbis.webm": ("vorbis", {"strict": "-2"}),
    "mp3.mp4": ("libmp3lame", {}),
    "alac.m4a": ("alac", {}),
    "a.wma": ("wmav2", {}),
    "a.aac": ("aac", {"aac_pns": "0"}),
}
EXACT = ("a.m4a", "a.mov", "a.3gp", "a.webm", "vorbis.webm", "mp3.mp4", "alac.m4a")
"""Files that state the samples of the original: the encoder's delay and padding are left out."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoded")
    for name, (codec, options) in CODECS.items():
        encode(folder / name, waveform(), codec, options)
    return folder


def load(source: Path | io.BytesIO, notes: Notes | None = None, **excerpt: Any) -> np.ndarray:
    return load_clip(source, Excerpt(**excerpt), sample_rate_hz=RATE_HZ, notes=notes)


@pytest.mark.parametrize("name", CODECS)
def test_containers_give_the_sound_of_their_source(files: Path, name: str):
    notes = Notes()
    samples = load(files / name, notes=notes)
    assert notes.by_libav and not notes.flags
    expected = waveform().mean(axis=1)
    if name in EXACT:
        assert len(samples) == len(expected)
        error = samples[: len(expected)] - expected
        assert error[RATE_HZ:-RATE_HZ].std() < 0.3 * expected.std()
    else:
        assert len(samples) == pytest.approx(len(expected), abs=3_000)
    np.testing.assert_array_equal(load(io.BytesIO((files / name).read_bytes())), samples)
    np.testing.assert_array_equal(np.concatenate(list(decode(files / name, RATE_HZ))), samples)


def ffmpeg_version() -> int:
    """Major version of the ffmpeg program; 0 if there is none that says so."""
    if shutil.which("ffmpeg") is None:
        return 0
    said = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True)
    found = re.match(r"ffmpeg version n?(\d+)", said.stdout)
    return int(found[1]) if found else 0


@pytest.mark.skipif(ffmpeg_version() < 8, reason="older programs leave the encoder's padding")
@pytest.mark.parametrize("name", CODECS)
def test_samples_are_those_of_the_ffmpeg_program(files: Path, name: str):
    command = ["ffmpeg", "-v", "error", "-i", str(files / name), "-map", "0:a:0"]
    done = subprocess.run([*command, "-f", "f32le", "-"], capture_output=True, check=True)
    theirs = np.frombuffer(done.stdout, "<f4").reshape(-1, 2).mean(axis=1)
    ours = load(files / name)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("start_s", [0.0, 0.0417, 3.2, 5.5])
def test_excerpts_are_parts_of_the_whole(files: Path, name: str, start_s: float):
    whole, start = load(files / name), round(start_s * RATE_HZ)
    part = load(files / name, start_s=start_s, end_s=start_s + 0.4)
    expected = whole[start : start + round(0.4 * RATE_HZ)]
    np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "vorbis.webm", "a.wma"])
def test_excerpts_that_follow_one_another_go_on(
    files: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    whole, path = load(files / name), tmp_path / name
    path.write_bytes((files / name).read_bytes())
    times = [(0.0, 0.5), (0.5, 1.0), (1.2, 1.3), (1.3, 1.9)]
    opened: list[libav.LibavAudio] = []
    open_file = libav.LibavAudio._open

    def counted(decoder: libav.LibavAudio) -> Any:
        opened.append(decoder)
        return open_file(decoder)

    monkeypatch.setattr(libav.LibavAudio, "_open", counted)
    for start_s, end_s in times:
        part = load(path, start_s=start_s, end_s=end_s)
        expected = whole[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]
        np.testing.assert_allclose(part, expected, atol=1e-6)
    assert len(opened) == 1
    load(path, start_s=0.1, end_s=0.2)
    path.write_bytes((files / "a.mka").read_bytes())  # another file of that name
    np.testing.assert_array_equal(load(path), load(files / "a.mka"))


@pytest.mark.parametrize("name", [name for name in CODECS if name != "a.aac"])
def test_containers_cut_anywhere_are_refused(files: Path, name: str, tmp_path: Path):
    content = (files / name).read_bytes()
    for size in (len(content) - 1, len(content) * 2 // 3):
        with pytest.raises(ClipRefusedError) as refused:
            load(io.BytesIO(content[:size]))
        assert refused.value.reason == "truncated"


def test_mp4_in_fragments_or_for_the_web_is_read(tmp_path: Path):
    for flags in ("+faststart", "frag_keyframe+empty_moov"):
        path = encode(tmp_path / "a.m4a", waveform(), "aac", {"/movflags": flags})
        content = path.read_bytes()
        assert len(load(path)) == pytest.approx(LENGTH_S * RATE_HZ, abs=2048)
        with pytest.raises(ClipRefusedError) as refused:
            load(io.BytesIO(content[: len(content) // 2]))
        assert refused.value.reason == "truncated"


@pytest.mark.skipif(
    "libopencore_amrnb" not in av.codecs_available, reason="this PyAV does not write AMR"
)
def test_amr_is_read_to_its_end_and_in_parts(tmp_path: Path):
    rate_hz, frame_size = 8_000, 160
    pcm = np.rint(9_000 * np.sin(np.arange(4 * rate_hz) / 3)).astype(np.int16)
    with av.open(str(tmp_path / "a.amr"), "w") as container:
        stream: Any = container.add_stream("libopencore_amrnb", rate=rate_hz, layout="mono")
        stream.bit_rate = 12_200
        for start in range(0, len(pcm), frame_size):
            part = np.ascontiguousarray(pcm[None, start : start + frame_size])
            frame = av.AudioFrame.from_ndarray(part, "s16", "mono")
            frame.sample_rate, frame.pts = rate_hz, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = load_clip(tmp_path / "a.amr", sample_rate_hz=rate_hz)
    assert len(whole) == pytest.approx(len(pcm), abs=2 * frame_size)
    assert whole.std() == pytest.approx(pcm.std() / 32768, rel=0.4)
    part = load_clip(tmp_path / "a.amr", Excerpt(2.5, 3.0), sample_rate_hz=rate_hz)
    np.testing.assert_array_equal(part, whole[20_000:24_000])


def test_a_video_without_sound_is_refused_as_such(tmp_path: Path):
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream("libvpx", rate=25, width=64, height=64, pix_fmt="yuv420p")
        for _ in range(5):
            image = np.zeros((64, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(ClipRefusedError) as refused:
        load(tmp_path / "a.webm")
    assert refused.value.reason == "no-audio-track"


@pytest.mark.parametrize("content", [b"ffconcat version 1.0\nfile a.wav\n", b"no audio" * 99])
def test_playlists_and_text_are_not_audio(tmp_path: Path, content: bytes):
    (tmp_path / "a.m4a").write_bytes(content)
    with pytest.raises(ClipRefusedError) as refused:
        load(tmp_path / "a.m4a")
    assert refused.value.reason == "unreadable"


def test_a_decoder_that_takes_too_long_is_stopped(files: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(libav, "MAX_CPU_S", -1.0)
    with pytest.raises(ClipRefusedError) as refused:
        load(files / "a.m4a")
    assert refused.value.reason == "too-slow"


# MP3.


def mp3(tmp_path: Path, **options: str) -> Path:
    rng = np.random.default_rng(1)
    loud = 0.3 * rng.standard_normal((RATE_HZ, 2))
    quiet = 0.0005 * rng.standard_normal((5 * RATE_HZ, 2))
    samples = np.concatenate([loud, quiet]).astype(np.float32)
    return encode(tmp_path / "a.mp3", samples, "libmp3lame", options)


@pytest.mark.parametrize("rate", [{"b": "64000"}, {"global_quality": "118", "flags": "+qscale"}])
def test_mp3_without_a_length_is_read_to_its_end(tmp_path: Path, rate: dict[str, str]):
    path = mp3(tmp_path, **{"/write_xing": "0"}, **rate)
    estimate = soundfile.info(str(path)).frames
    samples, notes = load(path), Notes()
    assert len(samples) == pytest.approx(6 * RATE_HZ, abs=3_000)
    assert len(samples) != estimate
    assert len(np.concatenate(list(decode(path, RATE_HZ, notes)))) == len(samples)
    part = load(path, start_s=4.0, end_s=5.0)
    np.testing.assert_allclose(part, samples[4 * RATE_HZ : 5 * RATE_HZ], atol=1e-6)


def test_mp3_with_a_length_is_read_by_libsndfile(tmp_path: Path):
    notes = Notes()
    samples = load(mp3(tmp_path), notes=notes)
    assert not notes.by_libav and len(samples) == 6 * RATE_HZ
    content = mp3(tmp_path).read_bytes()
    with pytest.raises(ClipRefusedError) as refused:
        load(io.BytesIO(content[: len(content) // 2]))
    assert refused.value.reason == "truncated"


def test_several_mp3_in_a_row_are_read_to_the_end(tmp_path: Path):
    content, notes = mp3(tmp_path).read_bytes(), Notes()
    samples = load(io.BytesIO(content + content), notes=notes)
    assert len(samples) == pytest.approx(12 * RATE_HZ, abs=3_000) and "chained" in notes.flags
