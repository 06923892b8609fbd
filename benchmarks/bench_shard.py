"""Packing: the local engine against a plain loop, and against a program started for each file.

    python -m benchmarks.bench_shard

All make 16 kHz mono FLAC of the same 44.1 kHz stereo files. The plain loop and the engine give the
same samples, which is checked; sox and ffmpeg resample by filters of their own, which is allowed
for. The engine makes index, CRC-32, SHA-256 and checks as well; starting its workers counts.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import webdataset
from tqdm import tqdm

from benchmarks.harness import RESULTS, compare, record, show, write
from psla_wds import cli
from psla_wds.audio import as_mono, decode_pcm
from psla_wds.errors import PslaError
from psla_wds.shards import PackedClip, key_of, sha256_of, write_tar

RATE_HZ, SOURCE_RATE_HZ, CLIP_S = 16_000, 44_100, 10
PER_SHARD = 250
PER_FILE_SHARE = 10
"""The programs are tried on one clip of so many: they are slow."""
PROGRAMS = {
    "sox": "sox -R {source} -r 16000 -c 1 -b 16 {target}",
    "ffmpeg": "ffmpeg -nostdin -v error -y -i {source} -ac 1 -ar 16000 -sample_fmt s16 {target}",
}
MAX_DIFFERENCE = 0.05
"""Of RMS, between resamplers; their filters end at other frequencies."""
NUM_STAGED = 100


@dataclass(frozen=True)
class Args:
    clips: int = 1000
    repeats: int = 5
    output: Path = RESULTS / "bench_shard.json"


@dataclass(frozen=True)
class Corpus:
    """Files to pack, and a folder to pack them into."""

    folder: Path
    paths: list[Path]

    def fresh(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name


def make_corpus(folder: Path, num_clips: int) -> Corpus:
    """Stereo files of filtered noise with tones, which FLAC compresses as it does real sound."""
    rng = np.random.default_rng(0)
    time_s = np.arange(CLIP_S * SOURCE_RATE_HZ) / SOURCE_RATE_HZ
    paths = [folder / f"clip{number:05d}.flac" for number in range(num_clips)]
    for path in tqdm(paths, desc="files to pack"):
        noise = np.cumsum(rng.normal(0, 1e-3, (len(time_s), 2)), axis=0)
        noise -= np.linspace(noise[0], noise[-1], len(noise))
        tone = np.sin(2 * np.pi * rng.uniform(100, 4000) * time_s)[:, None]
        waveform = 0.1 * tone + 0.02 * rng.normal(size=noise.shape) + 0.2 * np.tanh(noise)
        soundfile.write(path, waveform, SOURCE_RATE_HZ, subtype="PCM_16")
    rows = [f"{path.name},0,{path.stem}\n" for path in paths]
    (folder / "clips.csv").write_text("path,labels,clip_id\n" + "".join(rows))
    (folder / "classes.csv").write_text("index,mid,display_name\n0,/t/0,sound\n")
    return Corpus(folder, paths)


def plain_loop(corpus: Corpus) -> int:
    """What one writes without a library: decode, mix, resample, encode, ShardWriter."""
    output = corpus.fresh("plain")
    output.mkdir()
    pattern = str(output / "%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=PER_SHARD, encoder=False, verbose=0) as writer:
        for path in corpus.paths:
            stereo, rate_hz = soundfile.read(path, dtype="float32")
            mono = sum(stereo.T) / np.float32(2)  # stereo.mean(axis=1) takes 7 ms more
            waveform = soxr.resample(mono, rate_hz, RATE_HZ, quality="HQ")
            buffer = io.BytesIO()
            soundfile.write(buffer, to_pcm(waveform), RATE_HZ, format="FLAC", subtype="PCM_16")
            label = b'{"labels": ["/t/0"]}'
            writer.write({"__key__": path.stem, "flac": buffer.getvalue(), "json": label})
    return len(corpus.paths)


def to_pcm(waveform: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)


def engine(corpus: Corpus, workers: int) -> int:
    """The command, from the start of its process to the index."""
    folder, output = corpus.folder, corpus.fresh(f"engine{workers}")
    command = [sys.executable, "-m", "sharding.build", "manifest", str(folder / "clips.csv")]
    command += ["--class-labels", str(folder / "classes.csv"), "--output", str(output)]
    command += ["--workers", str(workers), "--clips-per-shard", str(PER_SHARD)]
    subprocess.run(command, check=True, capture_output=True)
    return len(corpus.paths)


def program(corpus: Corpus, name: str) -> int:
    """A program for each file, then tar."""
    output = corpus.fresh(name)
    output.mkdir()
    paths = corpus.paths[::PER_FILE_SHARE]
    for path in paths:
        places = {"source": path, "target": output / path.name}
        subprocess.run([part.format(**places) for part in PROGRAMS[name].split()], check=True)
    subprocess.run(
        ["tar", "-cf", "all.tar", *(path.name for path in paths)], cwd=output, check=True
    )
    return len(paths)


def samples_in(folder: Path) -> dict[str, np.ndarray]:
    """The decoded clips of all tars in a folder, by key."""
    found = {}
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as archive:
            for member in archive:
                if member.name.endswith(".flac"):
                    content = archive.extractfile(member).read()  # type: ignore[union-attr]
                    found[member.name.removesuffix(".flac")] = decode_pcm(content)[0]
    return found


def check_outputs(corpus: Corpus, programs: list[str]) -> None:
    """`PslaError` unless all made the same clips of the same sound."""
    plain = samples_in(corpus.folder / "plain")
    for name in ("engine1", "engine2"):
        packed = samples_in(corpus.folder / name)
        same = packed.keys() == plain.keys() == {key_of(path.stem) for path in corpus.paths}
        if not same or any(not np.array_equal(packed[key], plain[key]) for key in plain):
            raise PslaError("the engine and the plain loop give other samples", where=name)
    for name in programs:
        for key, pcm in samples_in(corpus.folder / name).items():
            if len(pcm) != len(plain[key]) or difference(pcm, plain[key]) > MAX_DIFFERENCE:
                raise PslaError("the program gives another sound", where=f"{name}, {key}")


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """RMS of the difference, as a share of the RMS."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(np.sqrt(((one - other) ** 2).mean() / (other**2).mean()))


def measure_stages(corpus: Corpus) -> dict[str, float]:
    """Milliseconds a clip of each step of packing, one after another in one thread."""
    paths, took_ms = corpus.paths[:NUM_STAGED], {}

    def stage(name: str, do: Callable[[Any], Any], items: list) -> list:
        started = time.perf_counter()
        done = [do(item) for item in items]
        took_ms[name] = 1000 * (time.perf_counter() - started) / len(paths)
        return done

    stereo = stage("decode", lambda path: soundfile.read(path, dtype="float32")[0], paths)
    rate_hz = SOURCE_RATE_HZ
    mono = stage("mix, check", lambda x: as_mono(x, rate_hz, rate_hz), stereo)
    resampled = stage("resample", lambda x: soxr.resample(x, rate_hz, RATE_HZ, quality="HQ"), mono)
    pcm = stage("round", to_pcm, resampled)
    audio = stage("encode", _encode, pcm)
    clips = [
        PackedClip(path.stem, content, "flac", len(x), RATE_HZ, ("/t/0",), "", "clips.csv")
        for path, content, x in zip(paths, audio, pcm, strict=True)
    ]
    tar = corpus.folder / "stages.tar"
    stage("write, CRC-32, sync", lambda tar: write_tar(tar, clips), [tar])
    stage("SHA-256", sha256_of, [tar])
    return took_ms


def _encode(pcm: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def measure(args: Args, folder: Path) -> dict[str, Any]:
    """Compare the ways of packing; the record for the results folder."""
    corpus = make_corpus(folder, args.clips)
    programs = [name for name in PROGRAMS if shutil.which(name)]
    ways: dict[str, Callable[[], int]] = {
        "plain loop: soundfile, soxr, ShardWriter": partial(plain_loop, corpus),
        "psla-wds, 1 worker": partial(engine, corpus, 1),
        "psla-wds, 2 workers": partial(engine, corpus, 2),
    } | {f"{name} for each file, tar": partial(program, corpus, name) for name in programs}
    results = compare({name: _rate(way) for name, way in ways.items()}, repeats=args.repeats)
    check_outputs(corpus, programs)
    content = record(
        "Packing of 10 s clips, 44.1 kHz stereo FLAC to 16 kHz mono FLAC",
        results,
        clips=args.clips,
        repeats=args.repeats,
        page_cache="warm",
        not_installed=sorted(PROGRAMS.keys() - set(programs)),
    )
    return content | {"stages_ms": measure_stages(corpus)}


def _rate(way: Callable[[], int]) -> Callable[[], float]:
    def rate() -> float:
        started = time.perf_counter()
        return way() / (time.perf_counter() - started)

    return rate


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_shard")
    with tempfile.TemporaryDirectory() as folder:
        content = measure(args, Path(folder))
    show(content)
    for name in content["conditions"]["not_installed"]:
        print(f"note: {name} is not installed, and was left out")
    stages_ms = content["stages_ms"]
    print("a clip's time in one thread, ms: ", end="")
    print(", ".join(f"{name} {ms:.2f}" for name, ms in stages_ms.items()), end="; ")
    codec_ms = stages_ms["decode"] + stages_ms["resample"] + stages_ms["encode"]
    print(f"decoder, resampler and encoder are {codec_ms / sum(stages_ms.values()):.0%} of it")
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
