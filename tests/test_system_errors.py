"""Whatever the system refuses, wherever a command meets it: three lines, and not a traceback."""

import ctypes
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from conftest import TINY_CLASSES, assert_user_error, run_command, write_corpus
from fuzz.tally import TALLY
from run_folders import epoch_line, write_run
from tiny_models import FEATURES, MODEL

from psla_wds import cli
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.checkpoint import Checkpoint, save_checkpoint
from psla_wds.models.epochs import epoch_path

ONTOLOGY = "[" + ",".join(
    f'{{"id": "/t/{i}", "child_ids": [], "restrictions": []}}' for i in range(4)
) + "]"  # fmt: skip


def end_of(main, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "where", "fix"),
    [
        (OSError(errno.ENOSPC, "full", "/data/x"), "/data/x", "make room"),
        (OSError(errno.ENOSPC, "full"), "stdout", "make room"),
        (OSError(errno.EACCES, "denied", "/data/x"), "/data/x", "access"),
        (OSError(errno.ENAMETOOLONG, "too long", "/data/x"), "/data/x", "check the path"),
        (OSError(errno.EMFILE, "too many", "/data/x"), "/data/x", "ulimit -n"),
        (OSError(errno.EIO, "input/output"), "a file or connection", "see to the disk"),
        (MemoryError("cannot allocate 9 GiB"), "memory", "use a machine with more"),
    ],
)
def test_what_the_system_refuses_is_three_lines(error, where: str, fix: str, capsys):
    def main() -> None:
        raise error

    status, message = end_of(main, capsys)
    lines = message[message.index("error: ") :].splitlines()
    assert status == 2 and len(lines) == 3
    assert where in lines[1] and fix in lines[2]


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "bad"), OSError("odd"), ValueError("bug")])
def test_a_bug_keeps_its_traceback(error: Exception):
    def main() -> None:
        raise error

    with pytest.raises(type(error)):
        cli.run(main)


@pytest.fixture(scope="module")
def place(shards: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands read: a run with a checkpoint, its scores, and an ontology of the classes."""
    folder = tmp_path_factory.mktemp("place")
    run = write_run(folder / "run", [epoch_line(1), epoch_line(2)], index=[f"{shards}:train"])
    torch.manual_seed(0)
    classes = ClassList(tuple(f"/t/{i}" for i in range(4)), TINY_CLASSES)
    checkpoint = Checkpoint(AudioTagger(MODEL, 4).state_dict(), MODEL, FEATURES, classes, epoch=1)
    for epoch in (1, 2):
        epoch_path(run, epoch).parent.mkdir(exist_ok=True)
        save_checkpoint(checkpoint, epoch_path(run, epoch))
    (folder / "shards").symlink_to(shards)
    (folder / "corpus").symlink_to(corpus)
    (folder / "few").mkdir()
    write_corpus(folder / "few" / "one", num_clips=2)
    (folder / "ontology.json").write_text(ONTOLOGY)
    (folder / "labels.jsonl").write_text('{"clip_id": "clip.000.wav", "labels": ["low"]}\n')
    for output in ("scores.npz", "scores"):
        words = [f"--index={shards}", f"--output={folder / output}"]
        run_command("eval.predict", run, *words)
    return folder


READERS = [
    "sharding.build manifest BAD --class-labels corpus/classes.csv --output OUT",
    "sharding.build manifest corpus/clips.jsonl --class-labels BAD --output OUT",
    "sharding.build manifest corpus/clips.jsonl --class-labels corpus/classes.csv --output BAD",
    "sharding.build folder BAD --output OUT",
    "sharding.build parquet BAD --output OUT",
    "sharding.build tars BAD --class-labels corpus/classes.csv --output OUT",
    "sharding.check BAD",
    "sharding.index BAD",
    "sharding.index shards --class-labels BAD",
    "sharding.info BAD",
    "sharding.labels BAD --output OUT",
    "sharding.overlay BAD --labels labels.jsonl --output OUT",
    "sharding.stats BAD",
    "eval.average BAD --epochs 1 2 --output OUT.pt",
    "eval.compare BAD BAD",
    "eval.enhance BAD --index shards --ontology ontology.json --output OUT",
    "eval.enhance scores.npz --index BAD --ontology ontology.json --output OUT",
    "eval.enhance scores.npz --index shards --ontology BAD --output OUT",
    "eval.ensemble BAD scores.npz --output OUT",
    "eval.export BAD --output OUT",
    "eval.figures BAD --output OUT",
    "eval.gallery BAD --output OUT",
    "eval.predict BAD --index shards --output OUT",
    "eval.predict run --index BAD --output OUT",
    "eval.predict run --index shards --labels BAD --output OUT",
    "eval.score BAD --output OUT",
    "eval.score scores.npz --run BAD --output OUT",
    "eval.score scores.npz --output BAD",
    "eval.tag BAD corpus/clip.000.wav",
    "eval.tag run BAD",
    "eval.tag run corpus/clip.000.wav --thresholds BAD",
    "eval.tag run corpus/clip.000.wav --output BAD/tags",
    "eval.thresholds BAD --output OUT",
]
"""Commands with a place that is read, or written, and cannot be."""


@contextmanager
def without_root() -> Iterator[None]:
    """Permissions hold for root, too, in this block: it may not override them."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, now = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    for rights in (before, now):
        if libc.capget(header, rights):
            pytest.skip("this system has no capabilities")
    now[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, now) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


def words_of(command: str, **places: object) -> list[str]:
    for name, path in places.items():
        command = command.replace(name, str(path))
    return command.split()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("command", READERS)
def test_a_name_that_is_too_long_is_three_lines(place: Path, tmp_path: Path, command: str):
    words = words_of(command, BAD=tmp_path / ("x" * 300), OUT=tmp_path / "out")
    assert_user_error(run_command(*words, check=False, cwd=place))
    TALLY.update(limits=1, met=1)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("command", READERS)
def test_what_may_not_be_read_is_three_lines(place: Path, tmp_path: Path, command: str, kind: str):
    bad = tmp_path / "bad"
    bad.mkdir() if kind == "folder" else bad.write_bytes(b"x")
    bad.chmod(0)
    words = words_of(command, BAD=bad, OUT=tmp_path / "out")
    with without_root():
        done = run_command(*words, check=False, cwd=place)
    bad.chmod(0o700)
    assert_user_error(done)
    TALLY.update(limits=1, met=1)


WRITERS = [
    "sharding.build manifest corpus/clips.jsonl --class-labels corpus/classes.csv --output OUT",
    "sharding.labels few --output OUT",
    "sharding.overlay shards --labels labels.jsonl --output OUT",
    "sharding.overlay shards --export OUT",
    "sharding.synthesize OUT --clips 2",
    "eval.average run --epochs 1 2 --output OUT.pt",
    "eval.compare scores.npz scores.npz --output OUT",
    "eval.enhance scores.npz --index shards --ontology ontology.json --output OUT",
    "eval.ensemble scores.npz scores.npz --output OUT.npz",
    "eval.ensemble scores.npz scores.npz --top-k 2 --output OUT",
    "eval.export run --output OUT",
    "eval.figures run --output OUT",
    "eval.gallery --index shards --output OUT.svg",
    "eval.predict run --index shards --output OUT.npz",
    "eval.predict run --index shards --output OUT",
    "eval.predict run --index shards --top-k 2 --output OUT",
    "eval.score scores.npz --output OUT",
    "eval.tag run corpus/clip.000.wav --output OUT",
    "eval.tag run corpus/clip.000.wav --output OUT --format audacity",
    "eval.tag run corpus/clip.000.wav --embeddings OUT.npz",
    "eval.tag run corpus/clip.000.wav --embeddings OUT.parquet",
    "eval.thresholds scores.npz --output OUT",
]


def full_after(num_bytes: int) -> tuple[int, int]:
    """No file can have more bytes, as if each were on a small disk of its own."""
    return resource.RLIMIT_FSIZE, num_bytes


def files_left(number: int) -> tuple[int, int]:
    """Only so many more files can be open."""
    taken = set(map(int, os.listdir("/proc/self/fd")))
    free = (descriptor for descriptor in count() if descriptor not in taken)
    return resource.RLIMIT_NOFILE, next(islice(free, number, None))


@contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    limits = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, limits)


SIZES = (0, 20, 100, 300, 600, 1000, 1500, 2500, 4000, 5000, 7500)
SIZES += (10_000, 15_000, 20_000, 30_000, 45_000, 60_000, 120_000, 250_000)
FILES = (1, 0, 2)
LIMITS = [(full_after, SIZES[0]), (files_left, FILES[0])]
MORE_LIMITS = [*((full_after, n) for n in SIZES[1:]), *((files_left, n) for n in FILES[1:])]


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    ("limit", "number"),
    [*LIMITS, *(pytest.param(*limit, marks=pytest.mark.slow) for limit in MORE_LIMITS)],
)
@pytest.mark.parametrize("command", WRITERS)
def test_a_limit_is_three_lines(place: Path, tmp_path: Path, command: str, limit, number: int):
    """And the command ends well where there is none."""
    words = words_of(command, OUT=tmp_path / "out")
    with limited(*limit(number)):
        done = run_command(*words, check=False, cwd=place)
    TALLY["limits"] += 1
    if done.returncode == 0:  # it needs less
        assert (limit, number) != (full_after, 0)
        return
    TALLY["met"] += 1
    assert_user_error(done, *([str(tmp_path)] if limit is full_after else []))
    shutil.rmtree(tmp_path / "out", ignore_errors=True)  # sharding.synthesize asks for that
    run_command(*words, cwd=place)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stdout_is_three_lines(shards: Path, unbuffered: str):
    command = [sys.executable, "-m", "sharding.info", str(shards)]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
    assert_user_error(done, "stdout", "No space left")
    assert len(done.stderr.splitlines()) == 3


def test_a_full_stdout_of_tags_is_not_taken_for_a_file(place: Path, tmp_path: Path):
    words = ["eval.tag", "run", "corpus/clip.000.wav", f"--embeddings={tmp_path / 'e.npz'}"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", *words], stdout=full, stderr=subprocess.PIPE, text=True,
            check=False, cwd=place,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
    assert_user_error(done, "where: stdout")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_modules_are_imported_is_silent(shards: Path, tmp_path: Path):
    (tmp_path / "tyro.py").write_text("raise KeyboardInterrupt\n")
    done = subprocess.run(
        [sys.executable, "-m", "sharding.info", str(shards)],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])},
    )  # fmt: skip
    assert done.returncode == -2 and done.stderr == ""
