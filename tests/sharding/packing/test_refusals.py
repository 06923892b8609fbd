"""Clips that are refused: listed, counted, tried again."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from builds import build, content, ids, reasons, tars_of
from conftest import assert_user_error, manifest_arguments, run, run_command, write_corpus
from data_sets import write_classes, write_sound

from psla_wds.shards.index_files import read_index
from sharding.check import check

pytestmark = pytest.mark.usefixtures("one_process")

MENDED, LOST = ("clip.000.wav", "clip.003.wav"), "clip.013.flac"
SMALL = "--clips-per-shard=6"


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A corpus of 20 clips, of which one is missing and two are not audio."""
    corpus = write_corpus(tmp_path / "corpus", num_clips=20)
    shutil.copytree(corpus, tmp_path / "whole")
    (corpus / MENDED[0]).write_text("no audio at all")
    (corpus / MENDED[1]).unlink()
    (corpus / LOST).write_text("no audio either")
    return corpus


def mend(corpus: Path) -> None:
    for name in MENDED:
        shutil.copy(corpus.with_name("whole") / name, corpus)


def test_bad_clips_are_listed_with_their_reason_and_not_packed(damaged: Path, tmp_path: Path):
    soundfile.write(damaged / "clip.006.wav", np.zeros(0), 16_000)
    bad = np.full(16_000, np.nan, np.float32)
    soundfile.write(damaged / "clip.009.wav", bad, 16_000, subtype="FLOAT")
    soundfile.write(damaged / "clip.012.wav", np.ones(100) / 2, 16_000)
    flac = (tmp_path / "whole" / LOST).read_bytes()
    (damaged / LOST).write_bytes(flac[: len(flac) // 2])
    output = tmp_path / "shards"
    done = build(damaged, output, check=False)
    assert_user_error(done, "6 of 20 clips were refused (30.0%)", "rejected.jsonl")
    assert not (output / "index").exists()
    build(damaged, output, "--max-rejected=0.4")
    assert reasons(output) == {
        "clip.000.wav": "unreadable",
        "clip.003.wav": "missing",
        "clip.006.wav": "empty",
        "clip.009.wav": "not-finite",
        "clip.012.wav": "too-short",
        "clip.013.flac": "unreadable",
    }
    assert len(ids(output)) == 14 and not set(ids(output)) & reasons(output).keys()


def test_refused_clips_are_tried_again_into_new_shards(damaged: Path, tmp_path: Path):
    output, accept = tmp_path / "shards", "--max-rejected=0.05"
    done = build(damaged, output, SMALL, check=False)
    assert_user_error(done, "3 of 20", "--retry-rejected")
    before = tars_of(output)
    mend(damaged)
    done = build(damaged, output, SMALL, "--retry-rejected", accept)
    assert "wrote 19 clips" in done.stdout and "1 refused" in done.stdout
    assert "models take by default 10.6 s: " in done.stdout
    after = tars_of(output)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 1
    assert check(output, deep=True) == []
    for again in ([], ["--retry-rejected"]):
        build(damaged, output, SMALL, accept, *again)
        assert tars_of(output) == after and reasons(output) == {LOST: "unreadable"}
        assert len(set(ids(output))) == 19 and set(MENDED) < set(ids(output))


@pytest.mark.parametrize("in_tasks", [False, True])
def test_a_build_that_packed_nothing_leaves_its_folder(
    corpus: Path, tmp_path: Path, in_tasks: bool
):
    bare, output = tmp_path / "bare", tmp_path / "shards"
    bare.mkdir()
    for name in ("clips.jsonl", "classes.csv"):
        shutil.copy(corpus / name, bare)
    if in_tasks:
        build(bare, output, "--task=0/1")
        done = run_command("sharding.index", output, check=False)
    else:
        done = build(bare, output, check=False)
    assert_user_error(done, "clips were refused (100.0%)", f"{bare}/clip.", "--audio-root")
    assert {name.rpartition(".")[0] for name in content(output)} <= {"rejected", "coverage"}
    assert set(reasons(output).values()) == {"missing"}
    build(bare, output, f"--audio-root={corpus}")
    assert reasons(output) == {} and len(ids(output)) == len(read_index(output))


def test_a_clip_that_killed_its_process_is_not_tried_again(damaged: Path, tmp_path: Path):
    output = tmp_path / "shards"
    build(damaged, output, "--max-rejected=0.4")
    listed = output / "rejected.jsonl"
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    rows = [row | ({"reason": "fatal"} if row["clip_id"] == MENDED[0] else {}) for row in rows]
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mend(damaged)
    build(damaged, output, "--max-rejected=0.4", "--retry-rejected")
    assert reasons(output) == {MENDED[0]: "fatal", LOST: "unreadable"}


def test_an_interrupted_retry_packs_no_clip_twice(damaged: Path, tmp_path: Path):
    output, accept = tmp_path / "shards", "--max-rejected=0.2"
    build(damaged, output, SMALL, accept)
    listed = (output / "rejected.jsonl").read_bytes()
    mend(damaged)
    build(damaged, output, SMALL, "--retry-rejected", accept)
    whole = tars_of(output)
    # As if it had been killed before its list was written: with another shard half done, or
    # between a tar and its sidecar.
    for half_done in (True, False):
        (output / "rejected.jsonl").write_bytes(listed)
        if half_done:
            (output / "shard-000005.tar").write_bytes(b"half")
        else:
            (output / "shard-000004.sidecar.json").unlink()
        build(damaged, output, SMALL, "--retry-rejected", accept)
        assert tars_of(output) == whole and len(ids(output)) == len(set(ids(output))) == 19


def test_a_retry_needs_a_finished_build_with_its_settings(damaged: Path, tmp_path: Path):
    output = tmp_path / "shards"
    done = build(damaged, output, "--retry-rejected", check=False)
    assert_user_error(done, "no build was finished here", "without --retry-rejected")
    assert not output.exists()
    build(damaged, output, "--max-rejected=0.2")
    before = tars_of(output)
    for more in ([], ["--retry-rejected"]):
        done = build(damaged, output, "--codec=wav", *more, check=False)
        assert_user_error(done, "holds another build")
    assert tars_of(output) == before


def test_a_video_that_is_found_later_is_packed_by_a_retry(tmp_path: Path):
    rows = [f'id{n:09d}, {10 * n}.000, {10 * n + 1}.000, "/m/a"\n' for n in range(4)]
    (tmp_path / "eval_segments.csv").write_text("# YTID, ...\n" + "".join(rows))
    names = ["Yid000000000.wav", "id000000001_10.000_11.000.flac", "whole/id000000002.wav"]
    for number, (name, length_s) in enumerate(zip(names, (1.0, 1.0, 25.0), strict=True)):
        write_sound(tmp_path / "audio" / name, number, length_s=length_s)
    source = ["audioset", f"--segments={tmp_path}/eval_segments.csv"]
    source += [f"--audio-root={tmp_path}/audio", f"--class-labels={write_classes(tmp_path)}"]
    output = tmp_path / "shards"
    done = run_command("sharding.build", *source, f"--output={output}", "--max-rejected=0.3")
    assert "eval 1 of 4 (25.0%); most from Bark 1 of 4" in done.stderr
    covered = json.loads((output / "coverage.json").read_text())
    assert covered["splits"] == {"eval": {"listed": 4, "missing": 1, "refused": 0}}
    assert covered["classes"][0]["listed"] == 4 and covered["classes"][0]["missing"] == 1
    assert reasons(output) == {"id000000003": "missing"}
    assert read_index(output).num_samples.tolist() == [16_000] * 3

    write_sound(tmp_path / "audio" / "later" / "id000000003_30000_31000.flac", 3, length_s=1.0)
    run_command("sharding.build", *source, f"--output={output}", "--retry-rejected")
    assert ids(output) == [f"id{n:09d}" for n in range(4)] and reasons(output) == {}
    covered = json.loads((output / "coverage.json").read_text())
    assert covered["splits"]["eval"]["missing"] == 0


SAME = ("again.flac", "once more.wav", "clip.012.wav")


def write_doubtful_corpus(folder: Path) -> Path:
    """20 clips, one of them again in other files, of another format and name, and near silence."""
    corpus = write_corpus(folder, num_clips=20)
    pcm, rate_hz = soundfile.read(corpus / SAME[2], dtype="int16")
    soundfile.write(corpus / SAME[0], pcm, rate_hz)
    soundfile.write(corpus / SAME[1], pcm, rate_hz)
    hum = np.random.default_rng(0).integers(-3, 4, 8000).astype(np.int16)
    soundfile.write(corpus / "hum.wav", hum, 16_000)
    with (corpus / "clips.jsonl").open("a") as file:
        for name in (*SAME[:2], "hum.wav"):
            file.write(json.dumps({"path": name, "labels": ["low"]}) + "\n")
    return corpus


STRICT = (SMALL, "--refuse-duplicates", "--refuse-silent", "--max-rejected=0.2")


def test_duplicates_and_silence_are_reported_or_refused(tmp_path: Path):
    corpus = write_doubtful_corpus(tmp_path / "corpus")
    done = build(corpus, tmp_path / "all")
    assert "flagged: 1 nearly silent" in done.stdout
    (flagged,) = (tmp_path / "all" / "flagged.jsonl").read_text().splitlines()
    assert json.loads(flagged)["clip_id"] == "hum.wav"
    assert "2 clips have the audio of another" in done.stderr
    assert len(ids(tmp_path / "all")) == 23

    output = tmp_path / "strict"
    build(corpus, output, *STRICT)
    refused, whole = reasons(output), tars_of(output)
    assert sorted(refused.values()) == ["duplicate", "duplicate", "silent"]
    assert refused["hum.wav"] == "silent" and len(set(SAME) & refused.keys()) == 2
    assert len(set(SAME) & set(ids(output))) == 1 and check(output, deep=True) == []

    finished = {path: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    build(corpus, output, *STRICT)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    # As if it had been killed while shards were made again without their duplicates.
    shutil.rmtree(output / "index")
    for sidecar in sorted(output.glob("*.sidecar.json"))[:2]:
        sidecar.unlink()
    build(corpus, output, *STRICT)
    assert tars_of(output) == whole


def test_a_retried_clip_with_the_audio_of_another_is_refused(tmp_path: Path):
    corpus, output = write_doubtful_corpus(tmp_path / "corpus"), tmp_path / "shards"
    kept = {name: (corpus / name).read_bytes() for name in SAME[:2]}
    for name in kept:
        (corpus / name).unlink()
    build(corpus, output, *STRICT)
    before = tars_of(output)
    for name, audio in kept.items():
        (corpus / name).write_bytes(audio)
    build(corpus, output, *STRICT, "--retry-rejected")
    assert reasons(output) == {"hum.wav": "silent"} | dict.fromkeys(kept, "duplicate")
    assert tars_of(output) == before


def test_unlabelled_clips_are_refused_unless_they_are_wanted(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=8)
    rows = [json.loads(line) for line in (corpus / "clips.jsonl").read_text().splitlines()]
    rows[3]["labels"] = []
    (corpus / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build(corpus, tmp_path / "without", "--max-rejected=0.2")
    assert reasons(tmp_path / "without") == {rows[3]["path"]: "no-label"}
    build(corpus, tmp_path / "with", "--keep-unlabelled")
    index = read_index(tmp_path / "with")
    unlabelled = [row for row in range(len(index)) if not len(index.labels(row))]
    assert [index.clip_id(row) for row in unlabelled] == [rows[3]["path"]] and len(index) == 8


def test_a_full_disk_is_one_error_and_with_room_it_goes_on(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=20)
    build(corpus, tmp_path / "whole", SMALL)
    output = tmp_path / "shards"
    command = [sys.executable, "-m", "sharding.build", "manifest"]
    command += [*manifest_arguments(corpus, output), SMALL, "--workers=1"]
    limited = ["bash", "-c", 'ulimit -f "$0"; exec "$@"']
    for num_blocks in ("0", "40"):  # of 1 KiB: no file at all, and no whole shard
        done = run([*limited, num_blocks, *command], check=False)
        assert_user_error(done, "cannot ", "make room")
        assert not list(output.glob("*.tar"))
    build(corpus, output, SMALL)
    assert tars_of(output) == tars_of(tmp_path / "whole")
    assert not list(output.glob("*.tmp"))
