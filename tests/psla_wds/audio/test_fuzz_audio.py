"""Changed audio, in files to pack and in shards whose check sums fit: refused or decoded.

Cases run in a process of their own, python test_fuzz_audio.py FOLDER, since native code that
crashes takes its process with it.
"""

import json
import os
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import audio_of
from encoded_files import encode, waveform
from fuzz.mutations import changed_bytes
from fuzz.properties import fuzz, tiers
from hypothesis import strategies as st

from psla_wds.audio.decode import load_clip
from psla_wds.errors import ClipRefusedError, PslaError
from psla_wds.features.config import FeatureConfig
from psla_wds.labels.class_list import ClassList
from psla_wds.loading.batches import evaluation_batches
from psla_wds.loading.loader import LoaderConfig
from psla_wds.reading.config import ReaderConfig
from psla_wds.shards.index_files import read_index
from psla_wds.shards.merge import write_index
from psla_wds.shards.tar import PackedClip, Sidecar, write_sidecar, write_tar

RATE_HZ = 16_000
MEMORY_BYTES = 2 * 2**30
"""Limit beside what a process has once DALI was used; its threads ask for address space."""
LOADER = LoaderConfig(
    features=FeatureConfig(num_frames=64),
    reader=ReaderConfig(threads=1, decode_threads=1),
    device="cpu",
)
ORIGINALS = {extension: audio_of(0, extension) for extension in ("flac", "wav", "ogg")}


def flac_claiming(rate_hz: int, channels: int, bits: int, samples: int) -> bytes:
    """STREAMINFO from byte 18 on: rate (20 bits), channels - 1 (3), bits - 1 (5), samples (36)."""
    numbers = (rate_hz << 44) | ((channels - 1) << 41) | ((bits - 1) << 36) | samples
    return ORIGINALS["flac"][:18] + numbers.to_bytes(8, "big") + ORIGINALS["flac"][26:]


def wav_claiming(place: tuple[int, int], value: int) -> bytes:
    """Another number in the header, at a byte and with a width."""
    start, width = place
    number = (value % 2 ** (8 * width)).to_bytes(width, "little")
    return ORIGINALS["wav"][:start] + number + ORIGINALS["wav"][start + width :]


changed_audio = st.one_of(
    st.sampled_from(sorted(ORIGINALS)).flatmap(lambda name: changed_bytes(ORIGINALS[name])),
    st.builds(
        flac_claiming,
        st.sampled_from([0, 1, 8000, 16_000, 44_100, 655_350, 2**20 - 1]),
        st.integers(1, 8),
        st.sampled_from([1, 4, 8, 16, 24, 32]),
        st.sampled_from([0, 1, 15, 2**31, 2**33, 2**36 - 1]),
    ),
    st.builds(  # RIFF size, format, channels, rate, bytes a second, block, bits, data size
        wav_claiming,
        st.sampled_from([(4, 4), (20, 2), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (40, 4)]),
        st.sampled_from([0, 1, 2, 3, 255, 65_534, 2**31 - 1, 2**31, 2**32 - 1]),
    ),
)


CONTAINERS = {"m4a": "aac", "webm": "libopus", "mka": "vorbis", "wma": "wmav2", "mp3": "libmp3lame"}


def container(folder: Path, suffix: str) -> bytes:
    """Half a second in a container that libsndfile does not read, or MP3 without a length."""
    options = {"/write_xing": "0"} if suffix == "mp3" else {"strict": "-2"}
    path = folder / f"a.{suffix}"
    return encode(path, waveform()[:24_000], CONTAINERS[suffix], options).read_bytes()


def outcomes(
    cases: list[bytes], folder: Path, *, first: bytes = ORIGINALS["flac"], loads: bool = True
) -> list[dict[str, str]]:
    """What became of each case; a crash, a hang or a bug names its case.

    Args:
        first: a case that can be used, to begin with.
        loads: whether the cases are also read by the loader.
    """
    folder.mkdir()
    for number, audio in enumerate([first, *cases]):
        (folder / f"{number}.audio").write_bytes(audio)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__, str(folder), str(loads)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + 5 * len(cases),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        case = [first, *cases][len(lines)]
        pytest.fail(f"exit status {done.returncode}\n{done.stderr[-3000:]}\n{case[:64]!r}")
    assert lines[0]["build"] == "packed" and lines[0].get("load", "loaded") == "loaded"
    return lines[1:]


@tiers(60, 3000)
def test_changed_audio_is_refused_or_decoded(num_cases: int, tmp_path: Path):
    cases: list[bytes] = []
    fuzz(num_cases, changed_audio, cases.append)
    assert len(set(cases)) > num_cases / 2
    counts: Counter[str] = Counter()
    for start in range(0, num_cases, 500):
        part = cases[start : min(start + 500, num_cases)]
        for outcome in outcomes(part, tmp_path / str(start)):
            counts.update(outcome.values())
    assert counts["packed"] and counts["unreadable"] and counts["loaded"] and counts["refused"]
    assert not counts["loaded, not finite"]


@pytest.mark.parametrize("suffix", CONTAINERS)
@tiers(40, 1000)
def test_changed_containers_are_refused_or_decoded(suffix: str, num_cases: int, tmp_path: Path):
    whole, cases = container(tmp_path, suffix), list[bytes]()
    fuzz(num_cases, changed_bytes(whole), cases.append)
    found = outcomes(cases, tmp_path / "cases", first=whole, loads=False)
    counts = Counter(outcome["build"] for outcome in found)
    assert counts["packed"] + counts["unreadable"] + counts["truncated"] > num_cases / 2


def test_a_header_takes_no_memory_for_its_claims(tmp_path: Path):
    claims = [(rate, n) for rate in (16_000, 655_350) for n in (2**31, 2**33, 2**36 - 1)]
    cases = [flac_claiming(rate_hz, 1, 16, samples) for rate_hz, samples in claims]
    for outcome in outcomes(cases, tmp_path / "cases"):
        assert outcome["build"] in ("too-long", "truncated", "unreadable")
        assert outcome["load"] == "refused"


def build_outcome(path: Path) -> str:
    """What packing makes of a file."""
    try:
        waveform = load_clip(path, sample_rate_hz=RATE_HZ)
    except ClipRefusedError as error:
        return error.reason
    assert np.isfinite(waveform).all()
    return "packed"


def load_outcome(shards: Path, audio: bytes) -> str:
    """What training makes of these bytes in a shard whose check sums fit them."""
    tar = shards / "shard-000000.tar"
    clip = PackedClip("a", audio, "flac", RATE_HZ // 4, RATE_HZ, ("/t/0",), "train", "x")
    written = write_tar(tar, [clip])
    sidecar = Sidecar(
        shard=tar.name,
        task="task",
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        sample_rate_hz=RATE_HZ,
        clips=written.clips,
        rejected=[],
        versions={},
    )
    write_sidecar(tar, sidecar)
    write_index(shards, [sidecar], ClassList(("/t/0",), ("low",)))
    try:
        with evaluation_batches(read_index(shards), batch_size=1, config=LOADER) as batches:
            (log_mel,) = (batch.log_mel for batch in batches)
    except PslaError:
        return "refused"
    assert tuple(log_mel.shape) == (1, 64, 128)
    return "loaded" if torch.isfinite(log_mel).all() else "loaded, not finite"


def run_cases(folder: Path, *, loads: bool) -> None:
    (folder / "shards").mkdir()
    for number in range(len(list(folder.glob("*.audio")))):
        path, outcome = folder / f"{number}.audio", {}
        if loads:
            outcome["load"] = load_outcome(folder / "shards", path.read_bytes())
        print(json.dumps(outcome | {"build": build_outcome(path)}), flush=True)
        if number == 0:  # case 0 is unchanged: it makes what is made once
            in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES,) * 2)


if __name__ == "__main__":
    run_cases(Path(sys.argv[1]), loads=sys.argv[2] == "True")
