"""What all tests share: checked shapes, GPU tests that cannot be skipped unnoticed, tiny shards."""

import importlib
import io
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Shapes and dtypes in signatures are checked while tests run, and cost nothing in training.
install_import_hook(["psla_wds", "eval", "train", "sharding"], "beartype.beartype")

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402
from fuzz.tally import TALLY, add_to_record, summary  # noqa: E402

from psla_wds import cli  # noqa: E402

# Processes that tests start take deprecated calls as errors too, as pyproject.toml has it here.
os.environ["PYTHONWARNINGS"] = ",".join(
    f"error::{kind}"
    for kind in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
)

torch.set_num_threads(1)  # tiny tensors: more threads cost more than they bring

settings.register_profile("no deadline", deadline=None)  # the machine may be busy
settings.load_profile("no deadline")

TINY_CLASSES = ("low", "middle, or so", "high", "noise")
TINY_RATE_HZ = 16_000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu", action="store_true", help="fail, instead of skipping, when there is no GPU"
    )
    parser.addoption("--tally", type=Path, help="record to add to: what these tests tried")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        if item.config.getoption("--require-gpu"):
            pytest.fail("--require-gpu was given, and there is no GPU", pytrace=False)
        pytest.skip("no GPU on this machine")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist
        session.config.workeroutput["fuzz"] = dict(TALLY)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    TALLY.update(getattr(node, "workeroutput", {}).get("fuzz", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if any(TALLY.values()):
        terminalreporter.write_line(summary())
        if path := config.getoption("--tally"):
            marked = config.getoption("markexpr")
            tests = " ".join([*config.args, *([f"-m '{marked}'"] if marked else [])])
            failed = sum(len(terminalreporter.stats.get(kind, ())) for kind in ("failed", "error"))
            add_to_record(path, tests, failed)


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Folder of real clips and their manifest.csv."""
    folder = os.environ.get("PSLA_REAL_CLIPS")
    if not folder:
        pytest.skip("PSLA_REAL_CLIPS names no folder of real clips")
    return Path(folder)


@pytest.fixture(scope="session")
def meta() -> Path:
    """Folder of AudioSet's metadata, and of the lists of ESC-50 and FSD50K."""
    folder = os.environ.get("PSLA_AUDIOSET_META")
    if not folder:
        pytest.skip("PSLA_AUDIOSET_META names no folder of AudioSet's metadata")
    return Path(folder)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 48 audio files of four classes, clips.jsonl and classes.csv."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), num_clips=48)


@pytest.fixture(scope="session")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus in four shards; clips are in split train or eval."""
    output = tmp_path_factory.mktemp("built") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        build_in_one_process(patch)
        run_command("sharding.build", "manifest", *manifest_arguments(corpus, output))
    return output


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    build_in_one_process(monkeypatch)


def build_in_one_process(patch: pytest.MonkeyPatch) -> None:
    """Let builds start no workers, whose start takes longer than a tiny build."""
    from sharding.packing.shard import pack_shard

    def run_here(tasks: Sequence[Any], workers: int) -> Iterator[Any]:
        return map(pack_shard, tasks)

    patch.setattr("sharding.packing.pack_all.run_local", run_here)


def manifest_arguments(corpus: Path, output: Path | str) -> list[str]:
    settings = {"class-labels": corpus / "classes.csv", "output": output, "clips-per-shard": 12}
    return [str(corpus / "clips.jsonl"), *(f"--{k}={v}" for k, v in settings.items())]


def write_corpus(folder: Path, *, num_clips: int) -> Path:
    """Sines and noise of 0.3 to 1 s in several formats, so that a small model can learn them."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows = [_write_clip(folder, number, rng) for number in range(num_clips)]
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f'{i},/t/{i},"{name}"\n' for i, name in enumerate(TINY_CLASSES)]
    (folder / "classes.csv").write_text("index,mid,display_name\n" + "".join(lines))
    return folder


def _write_clip(folder: Path, number: int, rng: np.random.Generator) -> dict[str, object]:
    label = number % len(TINY_CLASSES)
    rate_hz, extension = [(16_000, "wav"), (44_100, "flac"), (22_050, "ogg")][number % 3]
    time_s = np.arange(round(rate_hz * rng.uniform(0.3, 1.0))) / rate_hz
    if label == 3:
        waveform = 0.1 * rng.standard_normal(len(time_s))
    else:
        waveform = 0.3 * np.sin(2 * np.pi * 300 * 4**label * rng.uniform(0.9, 1.1) * time_s)
    if number % 2:
        waveform = np.stack([waveform, 0.5 * waveform], axis=1)
    name = f"clip.{number:03d}.{extension}"
    soundfile.write(folder / name, waveform, rate_hz)
    split = "eval" if number % 4 == number // 4 % 4 else "train"
    return {"path": name, "labels": [TINY_CLASSES[label]], "split": split}


def run_command(
    module: str, *arguments: object, check: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` as a user would; within this process unless it trains."""
    words = [str(argument) for argument in arguments]
    command = [sys.executable, "-m", module, *words]
    if not module.startswith(("sharding.", "eval.")):
        return run(command, check=check, cwd=cwd)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), chdir(cwd or "."), _fresh_log():
        status = _status_of(importlib.import_module(module), words)
    done = subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())
    return _checked(done) if check else done


@contextmanager
def _fresh_log() -> Iterator[None]:
    """A root logger as a new process has it, which a command then directs to its stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _status_of(module: ModuleType, arguments: list[str]) -> int:
    before, sys.argv = sys.argv, [str(module.__file__), *arguments]
    try:
        cli.run(module.main)
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.argv = before
    return 0


def run(
    command: list[str], *, check: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, timeout=600
    )
    return _checked(done) if check else done


def _checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    if done.returncode:
        words = " ".join(done.args)
        pytest.fail(f"{words}\nexit status {done.returncode}\n{done.stderr[-3000:]}")
    return done


def assert_user_error(done: subprocess.CompletedProcess[str], *needles: str) -> None:
    """The command ended with one readable message (what, where, fix), and no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("error: ") :]
    assert "  where: " in message and "  fix:   " in message, message
    assert "Path('" not in message, "an object of Python is shown: " + message
    for needle in needles:
        assert needle in message, message
