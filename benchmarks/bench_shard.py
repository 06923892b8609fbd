"""Time packing: the local engine, a plain loop, and a program that is started for each file.

All turn the same 44.1 kHz stereo files into 16 kHz mono FLAC. Plain loop and engine give the same
samples, which is checked; sox and ffmpeg resample with other filters, which the check allows for.
The engine also makes index, CRC-32 and SHA-256. Loop and engine are commands, whose start counts.
Then files of several kinds are decoded one by one, and m4a files are packed.

    python -m benchmarks.bench_shard
"""

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from benchmarks import file_decoders, harness
from benchmarks.harness import RATES, RESULTS, Clips, Column, Repeats
from benchmarks.plain_packing import PER_SHARD
from benchmarks.tables import run_benchmark
from psla_wds.audio.pcm import decode_pcm
from psla_wds.errors import PslaError
from psla_wds.shards.tar import key_of

SOURCE_RATE_HZ, CLIP_S = 44_100, 10
PER_FILE_SHARE = 30
"""One clip in this many goes to the programs, which are slow."""
NOISE_S = 60
"""Seconds of noise; each clip has ten of them from its own start."""
PROGRAMS = {
    "sox": "sox -R {source} -r 16000 -c 1 -b 16 {target}",
    "ffmpeg": "ffmpeg -nostdin -v error -y -i {source} -ac 1 -ar 16000 -sample_fmt s16 {target}",
}
MAX_DIFFERENCE = 0.05
"""Share of the RMS by which resamplers may differ: their filters cut off at other frequencies."""


@dataclass(frozen=True)
class Args:
    clips: Clips = 3000
    """Number of clips; with fewer, the start of the processes counts for too much."""
    repeats: Repeats = 5
    output: Path = RESULTS / "bench_shard.json"


@dataclass(frozen=True)
class Files:
    """Files to pack, and a folder to pack them into."""

    folder: Path
    paths: list[Path]

    def fresh(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name


def make_files(folder: Path, num_clips: int) -> Files:
    """Stereo files of filtered noise and tones, which FLAC compresses like real sound."""
    rng = np.random.default_rng(0)
    steps = rng.normal(0, 1e-3, (NOISE_S * SOURCE_RATE_HZ, 2))
    low = np.cumsum(steps - steps.mean(axis=0), axis=0)
    noise = (0.2 * np.tanh(low) + 0.02 * rng.normal(size=low.shape)).astype(np.float32)
    time_s = np.arange(CLIP_S * SOURCE_RATE_HZ, dtype=np.float32) / SOURCE_RATE_HZ
    paths = [folder / f"clip{number:05d}.flac" for number in range(num_clips)]
    for path in tqdm(paths, desc="files to pack"):
        tone = np.sin(np.float32(2 * np.pi * rng.uniform(100, 4000)) * time_s)[:, None]
        start = rng.integers(len(noise) - len(time_s))
        waveform = np.float32(0.1) * tone + noise[start : start + len(time_s)]
        soundfile.write(path, waveform, SOURCE_RATE_HZ, subtype="PCM_16")
    rows = [f"{path.name},0,{path.stem}\n" for path in paths]
    (folder / "clips.csv").write_text("path,labels,clip_id\n" + "".join(rows))
    (folder / "classes.csv").write_text("index,mid,display_name\n0,/t/0,sound\n")
    return Files(folder, paths)


def plain_loop(files: Files) -> int:
    """The script that you would write without a library, from the start of its process."""
    output = files.fresh("plain")
    harness.run_module("benchmarks.plain_packing", files.folder / "clips.csv", output)
    return len(files.paths)


def engine(files: Files, workers: int, manifest: str = "clips.csv") -> int:
    """The command, from the start of its process to the index."""
    folder, output = files.folder, files.fresh(f"engine{workers}")
    words = ["manifest", folder / manifest, "--class-labels", folder / "classes.csv"]
    words += ["--output", output, "--workers", workers, "--clips-per-shard", PER_SHARD]
    harness.run_module("sharding.build", *words)
    return len(files.paths)


def program(files: Files, name: str) -> int:
    """A program for each file, then tar."""
    output = files.fresh(name)
    output.mkdir()
    paths = files.paths[::PER_FILE_SHARE]
    for path in paths:
        places = {"source": path, "target": output / path.name}
        subprocess.run([part.format(**places) for part in PROGRAMS[name].split()], check=True)
    subprocess.run(["tar", "-cf", "all.tar", *(p.name for p in paths)], cwd=output, check=True)
    return len(paths)


def clips_in(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Key and samples of each clip in the tars of a folder."""
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as archive:
            for member in archive:
                if member.name.endswith(".flac"):
                    content = archive.extractfile(member).read()  # type: ignore[union-attr]
                    yield member.name.removesuffix(".flac"), decode_pcm(content)[0]


def check_outputs(files: Files, programs: list[str]) -> None:
    """Raise `PslaError` unless all made the same clips with the same sound."""
    made = {
        name: {key: hash(pcm.tobytes()) for key, pcm in clips_in(files.folder / name)}
        for name in ("plain", "engine1", "engine2")
    }
    if made["plain"].keys() != {key_of(path.stem) for path in files.paths}:
        raise PslaError("the plain loop lacks clips", where=files.folder)
    if not made["plain"] == made["engine1"] == made["engine2"]:
        raise PslaError("the engine and the plain loop differ in samples", where=files.folder)
    tried = {key_of(path.stem) for path in files.paths[::PER_FILE_SHARE]}
    plain = {key: pcm for key, pcm in clips_in(files.folder / "plain") if key in tried}
    for name in programs:
        for key, pcm in clips_in(files.folder / name):
            if len(pcm) != len(plain[key]) or difference(pcm, plain[key]) > MAX_DIFFERENCE:
                raise PslaError("the program gives another sound", where=f"{name}, {key}")


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """RMS of the difference, as a share of the RMS."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(np.sqrt(((one - other) ** 2).mean() / (other**2).mean()))


def m4a_tables(files: Files, args: Args) -> list[dict[str, Any]]:
    """Tables of decoding by kind of file, and of packing m4a with one and two workers."""
    file_decoders.make_kinds(files.folder, files.paths[0])
    rows = file_decoders.decoding_rows(files.folder, args.repeats)
    names = [f"a.m4a,0,m4a-{number}\n" for number in range(len(files.paths))]
    (files.folder / "m4a.csv").write_text("path,labels,clip_id\n" + "".join(names))
    ways = {
        f"packing m4a, psla-wds, {workers}": harness.timed(
            partial(engine, files, number, manifest="m4a.csv")
        )
        for number, workers in ((1, "1 worker"), (2, "2 workers"))
    }
    packing = harness.compare(ways, warmup=0, repeats=args.repeats)
    columns = [Column("", "name"), *RATES]
    return [harness.table(columns, rows), harness.table(columns, packing)]


def measure(args: Args) -> dict[str, Any]:
    """Compare the ways of packing; the record for the results folder."""
    programs = [name for name in PROGRAMS if shutil.which(name)]
    missing = sorted(PROGRAMS.keys() - set(programs))
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder), args.clips)
        bodies = {
            "plain loop: soundfile, soxr, ShardWriter": partial(plain_loop, files),
            "psla-wds, 1 worker": partial(engine, files, 1),
            "psla-wds, 2 workers": partial(engine, files, 2),
        } | {f"{name} for each file, tar": partial(program, files, name) for name in programs}
        ways = {name: harness.timed(body) for name, body in bodies.items()}
        # Without a warm-up round: the files were just written, and it would take minutes.
        rows = harness.compare(ways, warmup=0, repeats=args.repeats)
        check_outputs(files, programs)
        tables = [harness.table([Column("", "name"), *RATES], rows)]
        if "ffmpeg" in programs:
            tables += m4a_tables(files, args)
    title = "Packing of 10 s clips, 44.1 kHz stereo FLAC to 16 kHz mono FLAC, warm page cache"
    notes = [f"Not installed: {', '.join(missing)}."] if missing else []
    return harness.record(title, tables, args, notes=notes)


if __name__ == "__main__":
    run_benchmark("benchmarks.bench_shard", __doc__, Args, measure)
