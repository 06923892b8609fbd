"""Tasks of an array, each of which makes its share of the shards without a coordinator."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from builds import build, content, ids, reasons
from conftest import assert_user_error, run_command, write_corpus

from psla_wds.errors import ConfigError
from psla_wds.runtime.array_tasks import parse_task
from sharding.index import make_index
from sharding.packing.config import PackConfig

pytestmark = pytest.mark.usefixtures("one_process")


def test_tasks_need_no_coordinator(corpus: Path, shards: Path, tmp_path: Path):
    output = tmp_path / "shards"
    for number in (0, 2):
        build(corpus, output, f"--task={number}/3")
    done = run_command("sharding.index", str(output), check=False)
    assert_user_error(done, "1 shards are not made yet: 1", "run the tasks")
    other = build(corpus, output, "--task=1/3", "--codec=wav", check=False)
    assert_user_error(other, "holds another build")
    assert f"psla-wds index {output}" in build(corpus, output, "--task=1/3").stdout
    run_command("sharding.index", str(output))
    whole = content(shards)
    # Only the build knows its source, and so what is missing from it.
    coverage = ("coverage.json", whole["coverage.json"])
    assert whole.items() - content(output).items() == {coverage}
    build(corpus, output)
    assert content(output) == whole


def test_a_build_without_task_finishes_what_tasks_leave(corpus: Path, shards: Path, tmp_path: Path):
    build(corpus, tmp_path, "--task=1/2")
    build(corpus, tmp_path)
    assert content(tmp_path) == content(shards)


def test_refusals_of_tasks_count_when_they_are_joined(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=24)
    clip, output = corpus / "clip.003.wav", tmp_path / "shards"
    whole = clip.read_bytes()
    clip.write_text("no audio")
    for number in range(2):
        build(corpus, output, f"--task={number}/2")
    for _ in range(2):
        done = run_command("sharding.index", str(output), check=False)
        assert_user_error(done, "1 of 24 clips were refused")
    assert not (output / "index").exists()
    run_command("sharding.index", str(output), "--max-rejected=0.1")
    assert list(reasons(output)) == ["clip.003.wav"]
    # A clip that a retry packed is not refused any more.
    clip.write_bytes(whole)
    build(corpus, output, "--retry-rejected")
    build(corpus, output, "--task=0/1")
    make_index(output)
    assert reasons(output) == {} and len(ids(output)) == 24


def test_flagged_clips_of_tasks_are_listed_when_joined(tmp_path: Path):
    corpus, output = write_corpus(tmp_path / "corpus", num_clips=24), tmp_path / "shards"
    soundfile.write(corpus / "clip.003.wav", np.zeros(8_000), 16_000)
    for number in range(2):
        build(corpus, output, f"--task={number}/2")
    done = run_command("sharding.index", str(output))
    assert "flagged: 1 nearly silent (flagged.jsonl)" in done.stdout
    at_once = build(corpus, tmp_path / "at once")
    assert "flagged: 1 nearly silent (flagged.jsonl)" in at_once.stdout
    (flagged,) = {(f / "flagged.jsonl").read_text() for f in (output, tmp_path / "at once")}
    assert json.loads(flagged)["clip_id"] == "clip.003.wav"


@pytest.mark.parametrize("flag", ["refuse_duplicates", "retry_rejected"])
def test_settings_that_need_all_shards_are_refused_in_a_task(flag: str):
    with pytest.raises(ConfigError, match="without --task"):
        PackConfig(output=Path("shards"), task="0/2", **{flag: True})


@pytest.mark.parametrize("text", ["", "8/8", "1", "a/b", "-1/4", "0/0", "slurm"])
def test_text_that_names_no_task_gets_an_error(text: str):
    with pytest.raises(ConfigError, match=r"not I/N|not set"):
        parse_task(text)


def test_shards_are_dealt_evenly_over_tasks():
    sizes = [len(parse_task(f"{number}/7").of(range(100))) for number in range(7)]
    assert np.ptp(sizes) <= 1 and sum(sizes) == 100


@pytest.mark.parametrize("first", [0, 1])
def test_a_task_knows_its_place_in_a_slurm_array(monkeypatch: pytest.MonkeyPatch, first: int):
    dealt: list[int] = []
    for number in range(first, first + 3):
        for name, value in {"ID": number, "MIN": first, "COUNT": 3}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        dealt += parse_task("slurm").of(range(10))
    assert sorted(dealt) == list(range(10))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "9")
    with pytest.raises(ConfigError, match="not I/N"):
        parse_task("slurm")
