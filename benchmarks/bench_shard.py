"""Packing: the local engine against a plain loop, and against a program started for each file.

    python -m benchmarks.bench_shard

All make 16 kHz mono FLAC of the same 44.1 kHz stereo files. The plain loop and the engine give the
same samples, which is checked; sox and ffmpeg resample by filters of their own, which is allowed
for. The engine makes index, CRC-32, SHA-256 and checks as well. Loop and engine are commands, whose
start counts; what it takes is told, and how they compare without it. Then one clip after another
goes through the steps of packing in one thread, to say where the time goes.
"""

import io
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from benchmarks.harness import RESULTS, compare, record, show, timed, write
from benchmarks.plain_packing import PER_SHARD, RATE_HZ
from psla_wds import cli
from psla_wds.audio.decode import decode_pcm, mix_channels
from psla_wds.audio.encode import to_pcm
from psla_wds.audio.quality import level_dbfs
from psla_wds.errors import PslaError
from psla_wds.shards.tar import PackedClip, key_of, write_tar

SOURCE_RATE_HZ, CLIP_S = 44_100, 10
PER_FILE_SHARE = 30
"""The programs are tried on one clip of so many: they are slow."""
NOISE_S = 60
"""Of which each clip has ten, from a moment of its own."""
PROGRAMS = {
    "sox": "sox -R {source} -r 16000 -c 1 -b 16 {target}",
    "ffmpeg": "ffmpeg -nostdin -v error -y -i {source} -ac 1 -ar 16000 -sample_fmt s16 {target}",
}
MAX_DIFFERENCE = 0.05
"""Of RMS, between resamplers; their filters end at other frequencies."""
NUM_STAGED = 100


@dataclass(frozen=True)
class Args:
    clips: int = 3000
    """Fewer are packed so soon that starting the processes counts for too much."""
    repeats: int = 2
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
    noise = _noise(rng)
    time_s = np.arange(CLIP_S * SOURCE_RATE_HZ, dtype=np.float32) / SOURCE_RATE_HZ
    paths = [folder / f"clip{number:05d}.flac" for number in range(num_clips)]
    for path in tqdm(paths, desc="files to pack"):
        tone = np.sin(np.float32(2 * np.pi * rng.uniform(100, 4000)) * time_s)[:, None]
        start = rng.integers(len(noise) - len(time_s))
        waveform = np.float32(0.1) * tone + noise[start : start + len(time_s)]
        soundfile.write(path, waveform, SOURCE_RATE_HZ, subtype="PCM_16")
    header, *rows = ["path,labels,clip_id\n", *(f"{path.name},0,{path.stem}\n" for path in paths)]
    (folder / "clips.csv").write_text(header + "".join(rows))
    (folder / "one.csv").write_text(header + rows[0])
    (folder / "classes.csv").write_text("index,mid,display_name\n0,/t/0,sound\n")
    return Corpus(folder, paths)


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Much of it low, some of it white, in two channels."""
    steps = rng.normal(0, 1e-3, (NOISE_S * SOURCE_RATE_HZ, 2))
    low = np.cumsum(steps - steps.mean(axis=0), axis=0)
    return (0.2 * np.tanh(low) + 0.02 * rng.normal(size=low.shape)).astype(np.float32)


def plain_loop(corpus: Corpus, manifest: str = "clips.csv") -> int:
    """The script that one writes without a library, from the start of its process."""
    output = corpus.fresh("plain" if manifest == "clips.csv" else "plain-one")
    command = [sys.executable, "-m", "benchmarks.plain_packing", str(corpus.folder / manifest)]
    subprocess.run([*command, str(output)], check=True)
    return len(corpus.paths)


def engine(corpus: Corpus, workers: int, manifest: str = "clips.csv") -> int:
    """The command, from the start of its process to the index."""
    folder, output = corpus.folder, corpus.fresh(f"{Path(manifest).stem}{workers}")
    command = [sys.executable, "-m", "sharding.build", "manifest", str(folder / manifest)]
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


def clips_in(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Key and samples of each clip in the tars of a folder."""
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as archive:
            for member in archive:
                if member.name.endswith(".flac"):
                    content = archive.extractfile(member).read()  # type: ignore[union-attr]
                    yield member.name.removesuffix(".flac"), decode_pcm(content)[0]


def check_outputs(corpus: Corpus, programs: list[str]) -> None:
    """`PslaError` unless all made the same clips of the same sound."""
    made = {
        name: {key: hash(pcm.tobytes()) for key, pcm in clips_in(corpus.folder / name)}
        for name in ("plain", "clips1", "clips2")
    }
    if made["plain"].keys() != {key_of(path.stem) for path in corpus.paths}:
        raise PslaError("the plain loop lacks clips", where=corpus.folder)
    if not made["plain"] == made["clips1"] == made["clips2"]:
        raise PslaError("the engine and the plain loop give other samples", where=corpus.folder)
    tried = {key_of(path.stem) for path in corpus.paths[::PER_FILE_SHARE]}
    plain = {key: pcm for key, pcm in clips_in(corpus.folder / "plain") if key in tried}
    for name in programs:
        for key, pcm in clips_in(corpus.folder / name):
            if len(pcm) != len(plain[key]) or difference(pcm, plain[key]) > MAX_DIFFERENCE:
                raise PslaError("the program gives another sound", where=f"{name}, {key}")


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """RMS of the difference, as a share of the RMS."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(np.sqrt(((one - other) ** 2).mean() / (other**2).mean()))


class Steps:
    """Milliseconds of each step of packing, summed over the clips."""

    def __init__(self) -> None:
        self.took_ms: defaultdict[str, float] = defaultdict(float)

    def do(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = step(*arguments)
        self.took_ms[name] += 1000 * (time.perf_counter() - started)
        return result


def measure_stages(corpus: Corpus) -> dict[str, float]:
    """Milliseconds a clip of each step of packing, in one thread, in the order of the steps."""
    steps, tar = Steps(), corpus.folder / "stages.tar"
    paths = corpus.paths[:NUM_STAGED]
    clips = [_step_by_step(steps, path) for path in paths]
    steps.do("write, CRC-32, sync, SHA-256", write_tar, tar, clips)
    return {name: took_ms / len(paths) for name, took_ms in steps.took_ms.items()}


def _step_by_step(steps: Steps, path: Path) -> PackedClip:
    stereo, rate_hz = steps.do("decode", partial(soundfile.read, dtype="float32"), path)
    mono = steps.do("mix", mix_channels, stereo)
    resample = partial(soxr.resample, quality="HQ")
    waveform = steps.do("resample", resample, mono, rate_hz, RATE_HZ)
    steps.do("level", level_dbfs, waveform)
    pcm = steps.do("round", to_pcm, waveform)
    audio = steps.do("encode", _encode, pcm)
    return PackedClip(path.stem, audio, "flac", len(pcm), RATE_HZ, ("/t/0",), "", "clips.csv")


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
    # Without a round to warm up: the files were just written, and it would take a minute or two.
    rates = {name: timed(way) for name, way in ways.items()}
    results = compare(rates, warmup=0, repeats=args.repeats)
    check_outputs(corpus, programs)
    starts_s = {
        "plain loop": _median_s(partial(plain_loop, corpus, "one.csv"), args.clips),
        "psla-wds": _median_s(partial(engine, corpus, 1, "one.csv"), args.clips),
    }
    rates_found = {result.name: result.clips_per_s for result in results}
    content = record(
        "Packing of 10 s clips, 44.1 kHz stereo FLAC to 16 kHz mono FLAC",
        results,
        clips=args.clips,
        repeats=args.repeats,
        page_cache="warm",
        not_installed=sorted(PROGRAMS.keys() - set(programs)),
    )
    return content | {
        "starts_s": starts_s,
        "stages_ms": measure_stages(corpus),
        "ratios": ratios(rates_found) | once_started(rates_found, starts_s, args.clips),
    }


def ratios(rates: dict[str, float]) -> dict[str, float]:
    """What the engine is to reach: as fast as the loop with one worker, and faster with more."""
    loop, one, two, *others = rates
    return {
        "1 worker / plain loop": rates[one] / rates[loop],
        "2 workers / 1 worker": rates[two] / rates[one],
    } | {f"2 workers / {other.split()[0]}": rates[two] / rates[other] for other in others}


def once_started(
    rates: dict[str, float], starts_s: dict[str, float], num_clips: int
) -> dict[str, float]:
    """The first ratio again, without what starting a command takes."""
    loop, one, *_ = rates
    loop_s, one_s = num_clips / rates[loop], num_clips / rates[one]
    ratio = (loop_s - starts_s["plain loop"]) / (one_s - starts_s["psla-wds"])
    return {"1 worker / plain loop, once started": ratio}


def _median_s(way: Callable[[], int], num_clips: int) -> float:
    """Of a way whose clips count as so many."""
    rate = timed(way)
    return statistics.median(num_clips / rate() for _ in range(3))


def explained(content: dict[str, Any]) -> str:
    """Ratios, what starting costs, and where the time of a clip goes."""
    stages_ms = content["stages_ms"]
    codec_ms = stages_ms["decode"] + stages_ms["resample"] + stages_ms["encode"]
    lines = [f"{name}: {ratio:.2f}" for name, ratio in content["ratios"].items()]
    starts = ", ".join(f"{name} {took_s:.1f} s" for name, took_s in content["starts_s"].items())
    lines.append(f"starting takes: {starts}")
    steps = ", ".join(f"{name} {ms:.2f}" for name, ms in stages_ms.items())
    lines.append(f"a clip's time in one thread, ms: {steps}")
    lines.append(
        f"decoder, resampler and encoder are {codec_ms / sum(stages_ms.values()):.0%} of it"
    )
    return "\n".join(lines)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_shard")
    with tempfile.TemporaryDirectory() as folder:
        content = measure(args, Path(folder))
    show(content)
    for name in content["conditions"]["not_installed"]:
        print(f"note: {name} is not installed, and was left out")
    print(explained(content))
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
