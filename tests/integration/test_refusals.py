"""What is refused, and what becomes of it: listed, counted, tried again."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import assert_user_error, run, run_command, write_corpus
from data_sets import write_classes, write_sound

from psla_wds.shards.index_files import read_index
from sharding.check import check

MENDED, LOST = ("clip.000.wav", "clip.003.wav"), "clip.013.flac"


def tars_of(folder: Path) -> dict[str, bytes]:
    return {tar.name: tar.read_bytes() for tar in sorted(folder.glob("*.tar"))}


def reasons(folder: Path) -> dict[str, str]:
    lines = (folder / "rejected.jsonl").read_text().splitlines()
    return {row["clip_id"]: row["reason"] for row in map(json.loads, lines)}


def ids(folder: Path) -> list[str]:
    index = read_index(folder)
    return sorted(index.clip_id(row) for row in range(len(index)))


def build(corpus: Path, output: Path, *more: str, check: bool = True):
    named = [f"--class-labels={corpus}/classes.csv", f"--output={output}", "--clips-per-shard=6"]
    arguments = ["manifest", f"{corpus}/clips.jsonl", *named, *more]
    return run_command("sharding.build", *arguments, check=check)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A corpus of 20 clips, of which one is missing and two are no audio."""
    corpus = write_corpus(tmp_path / "corpus", num_clips=20)
    shutil.copytree(corpus, tmp_path / "whole")
    (corpus / MENDED[0]).write_text("no audio at all")
    (corpus / MENDED[1]).unlink()
    (corpus / LOST).write_text("no audio either")
    return corpus


def mend(corpus: Path) -> None:
    for name in MENDED:
        shutil.copy(corpus.with_name("whole") / name, corpus)


def test_refused_clips_are_tried_again_into_new_shards(damaged: Path, tmp_path: Path):
    output = tmp_path / "shards"
    assert_user_error(build(damaged, output, check=False), "3 of 20", "--retry-rejected")
    before = tars_of(output)
    mend(damaged)
    done = build(damaged, output, "--retry-rejected", "--max-rejected=0.05")
    assert "wrote 19 clips" in done.stdout and "1 refused" in done.stdout
    after = tars_of(output)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 1
    assert reasons(output) == {LOST: "unreadable"}
    assert len(set(ids(output))) == 19 and set(MENDED) < set(ids(output))
    assert check(output, deep=True) == []

    accept = "--max-rejected=0.05"
    for again in ([accept], ["--retry-rejected", accept]):
        build(damaged, output, *again)
        assert tars_of(output) == after and reasons(output) == {LOST: "unreadable"}
        assert len(ids(output)) == 19


@pytest.mark.slow
def test_a_retry_that_was_interrupted_is_done_again_without_a_clip_twice(
    damaged: Path, tmp_path: Path
):
    output, accept = tmp_path / "shards", "--max-rejected=0.2"
    build(damaged, output, accept)
    listed = (output / "rejected.jsonl").read_bytes()
    mend(damaged)
    build(damaged, output, "--retry-rejected", accept)
    whole = tars_of(output)
    # As if it had been killed before its list was written, with another shard half done.
    (output / "rejected.jsonl").write_bytes(listed)
    (output / "shard-000005.tar").write_bytes(b"half")
    build(damaged, output, "--retry-rejected", accept)
    assert tars_of(output) == whole and len(ids(output)) == len(set(ids(output))) == 19
    # As if it had been killed between a tar and its sidecar.
    (output / "rejected.jsonl").write_bytes(listed)
    (output / "shard-000004.sidecar.json").unlink()
    build(damaged, output, "--retry-rejected", accept)
    assert tars_of(output) == whole and len(ids(output)) == len(set(ids(output))) == 19


def test_a_retry_needs_a_finished_build_with_the_same_settings(damaged: Path, tmp_path: Path):
    output = tmp_path / "shards"
    done = build(damaged, output, "--retry-rejected", check=False)
    assert_user_error(done, "no build was finished here", "without --retry-rejected")
    assert not output.exists()
    build(damaged, output, "--max-rejected=0.2")
    done = build(damaged, output, "--retry-rejected", "--codec=wav", check=False)
    assert_user_error(done, "holds another build")


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
    index = read_index(output)
    assert index.num_samples.tolist() == [16_000] * 3

    write_sound(tmp_path / "audio" / "later" / "id000000003_30000_31000.flac", 3, length_s=1.0)
    run_command("sharding.build", *source, f"--output={output}", "--retry-rejected")
    assert ids(output) == [f"id{n:09d}" for n in range(4)] and reasons(output) == {}
    covered = json.loads((output / "coverage.json").read_text())
    assert covered["splits"]["eval"]["missing"] == 0


def with_doubtful_clips(corpus: Path) -> None:
    """Clip 1 again in other files, of another format and name; a clip of near silence."""
    pcm, rate_hz = soundfile.read(corpus / "clip.012.wav", dtype="int16")
    soundfile.write(corpus / "again.flac", pcm, rate_hz)
    soundfile.write(corpus / "once more.wav", pcm, rate_hz)
    hum = np.random.default_rng(0).integers(-3, 4, 8000).astype(np.int16)
    soundfile.write(corpus / "hum.wav", hum, 16_000)
    with (corpus / "clips.jsonl").open("a") as file:
        for name in ("again.flac", "once more.wav", "hum.wav"):
            file.write(json.dumps({"path": name, "labels": ["low"]}) + "\n")


def test_duplicates_and_silence_are_told_and_on_request_refused(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=20)
    with_doubtful_clips(corpus)
    told = build(corpus, tmp_path / "all")
    assert "1 clips are nearly silent" in told.stderr
    assert "2 clips have the audio of another" in told.stderr
    assert len(ids(tmp_path / "all")) == 23

    strict = ["--refuse-duplicates", "--refuse-silent", "--max-rejected=0.2"]
    build(corpus, tmp_path / "one", *strict, "--workers=1")
    build(corpus, tmp_path / "two", *strict, "--workers=2")
    assert tars_of(tmp_path / "one") == tars_of(tmp_path / "two")
    refused = reasons(tmp_path / "one")
    same = {"again.flac", "once more.wav", "clip.012.wav"}
    assert sorted(refused.values()) == ["duplicate", "duplicate", "silent"]
    assert refused["hum.wav"] == "silent" and len(same & refused.keys()) == 2
    assert len(same & set(ids(tmp_path / "one"))) == 1 and check(tmp_path / "one", deep=True) == []

    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").glob("*.tar")}
    build(corpus, tmp_path / "one", *strict)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    # As if it had been killed while shards were made again without their duplicates.
    shutil.rmtree(tmp_path / "two" / "index")
    for sidecar in sorted((tmp_path / "two").glob("*.sidecar.json"))[:2]:
        sidecar.unlink()
    build(corpus, tmp_path / "two", *strict)
    assert tars_of(tmp_path / "two") == tars_of(tmp_path / "one")


@pytest.mark.slow
def test_a_retried_clip_with_the_audio_of_a_packed_one_stays_refused(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=20)
    with_doubtful_clips(corpus)
    kept = (corpus / "again.flac").read_bytes(), (corpus / "once more.wav").read_bytes()
    for name in ("again.flac", "once more.wav"):
        (corpus / name).unlink()
    settings = ["--refuse-duplicates", "--max-rejected=0.2"]
    build(corpus, tmp_path / "shards", *settings)
    before = tars_of(tmp_path / "shards")
    for name, content in zip(("again.flac", "once more.wav"), kept, strict=True):
        (corpus / name).write_bytes(content)
    build(corpus, tmp_path / "shards", *settings, "--retry-rejected")
    assert reasons(tmp_path / "shards") == {"again.flac": "duplicate", "once more.wav": "duplicate"}
    assert tars_of(tmp_path / "shards") == before


def test_clips_without_a_label_are_refused_unless_they_are_wanted(tmp_path: Path):
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


def test_a_full_disk_is_told_and_with_room_the_same_command_goes_on(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=20)
    build(corpus, tmp_path / "whole")
    output = tmp_path / "shards"
    command = [sys.executable, "-m", "sharding.build", "manifest", f"{corpus}/clips.jsonl"]
    command += [f"--class-labels={corpus}/classes.csv", f"--output={output}"]
    command += ["--clips-per-shard=6", "--workers=1"]
    limited = ["bash", "-c", 'ulimit -f "$0"; exec "$@"']
    for num_blocks in ("0", "40"):  # of 1 KiB: no file at all, and no whole shard
        done = run([*limited, num_blocks, *command], check=False)
        assert_user_error(done, "cannot ", "make room")
        assert not list(output.glob("*.tar"))
    run(command)
    assert tars_of(output) == tars_of(tmp_path / "whole")
    assert not list(output.glob("*.tmp"))
