"""Packing, as a user does it: from files to checked shards, and what happens to bad input."""

import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import assert_user_error, manifest_arguments, run_command, write_corpus

from psla_wds.audio.decode import decode_pcm
from psla_wds.io.atomic_files import sha256_of
from psla_wds.reading.reader import Reader
from psla_wds.shards.index_files import read_index
from sharding.check import check


def tars_of(folder: Path) -> dict[str, bytes]:
    return {tar.name: tar.read_bytes() for tar in sorted(folder.glob("*.tar"))}


def build(corpus: Path, output: Path, *more: str, fails: bool = False):
    arguments = [*manifest_arguments(corpus, output), *more]
    return run_command("sharding.build", "manifest", *arguments, check=not fails)


def test_every_format_becomes_16_khz_mono(shards: Path):
    index = read_index(shards)
    reader = Reader(index, threads=2)
    clips = reader.start(np.arange(len(index))).wait()
    reader.close()
    for row, clip in enumerate(clips):
        pcm, rate_hz = decode_pcm(clip.tobytes())
        assert rate_hz == 16_000 and len(pcm) == index.num_samples[row]
        assert pcm.std() > 100


def test_a_sixteen_bit_clip_survives_bit_by_bit(corpus: Path, shards: Path):
    index = read_index(shards)
    row = next(r for r in range(len(index)) if index.clip_id(r) == "clip.000.wav")
    reader = Reader(index, threads=1)
    packed, _ = decode_pcm(reader.start(np.array([row])).wait()[0].tobytes())
    reader.close()
    source, _ = soundfile.read(corpus / "clip.000.wav", dtype="int16")
    assert np.array_equal(packed, source)


def test_shards_do_not_depend_on_the_number_of_workers(corpus: Path, shards: Path, tmp_path: Path):
    build(corpus, tmp_path / "one", "--workers=1")
    assert tars_of(tmp_path / "one") == tars_of(shards)
    build(corpus, tmp_path / "other", "--workers=1", "--seed=1")
    assert tars_of(tmp_path / "other") != tars_of(shards)


def test_clips_are_shuffled_over_the_shards(shards: Path):
    index = read_index(shards)
    ids = [index.clip_id(row) for row in range(len(index))]
    assert ids != sorted(ids)
    per_shard = [index.targets(np.flatnonzero(index.shard == s)).sum(axis=0) for s in range(4)]
    assert all((counts > 0).sum() >= 3 for counts in per_shard)


def test_finished_shards_are_not_made_again(corpus: Path, shards: Path, tmp_path: Path):
    output = shutil.copytree(shards, tmp_path / "shards")
    (output / "shard-000002.sidecar.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in output.glob("shard-*")}
    build(corpus, output)
    made = {path.name for path, time_ns in kept.items() if path.stat().st_mtime_ns != time_ns}
    assert made == {"shard-000002.tar"} and tars_of(output) == tars_of(shards)


def test_bad_clips_are_listed_with_their_reason_and_never_packed(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=20)
    (corpus / "clip.000.wav").write_text("no audio at all")
    (corpus / "clip.003.wav").unlink()
    soundfile.write(corpus / "clip.006.wav", np.zeros(0), 16_000)
    bad = np.full(16_000, np.nan, np.float32)
    soundfile.write(corpus / "clip.009.wav", bad, 16_000, subtype="FLOAT")
    soundfile.write(corpus / "clip.012.wav", np.ones(100) / 2, 16_000)
    flac = (corpus / "clip.013.flac").read_bytes()
    (corpus / "clip.013.flac").write_bytes(flac[: len(flac) // 2])
    output = tmp_path / "shards"
    assert_user_error(
        build(corpus, output, fails=True), "6 of 20 clips were refused (30.0%)", "rejected.jsonl"
    )
    assert not (output / "index").exists()
    build(corpus, output, "--max-rejected=0.4")
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert {r["clip_id"]: r["reason"] for r in rejected} == {
        "clip.000.wav": "unreadable",
        "clip.003.wav": "missing",
        "clip.006.wav": "empty",
        "clip.009.wav": "not-finite",
        "clip.012.wav": "too-short",
        "clip.013.flac": "unreadable",
    }
    index = read_index(output)
    packed = {index.clip_id(row) for row in range(len(index))}
    assert len(packed) == 14 and not packed & {r["clip_id"] for r in rejected}


def test_start_and_end_cut_a_clip_out_of_a_longer_file(tmp_path: Path):
    time_s = np.arange(3 * 16_000) / 16_000
    soundfile.write(tmp_path / "long.wav", np.where(time_s < 1, 0.5, -0.5), 16_000)
    (tmp_path / "clips.csv").write_text(
        "path,labels,clip_id,start_s,end_s\nlong.wav,a,first,0,1\nlong.wav,a,later,1.5,9\n"
    )
    (tmp_path / "classes.csv").write_text("index,mid,display_name\n0,/t/a,a\n")
    run_command(
        "sharding.build", "manifest", f"{tmp_path}/clips.csv",
        f"--class-labels={tmp_path}/classes.csv", f"--output={tmp_path}/shards",
    )  # fmt: skip
    index = read_index(tmp_path / "shards")
    lengths = {index.clip_id(row): index.num_samples[row] for row in range(2)}
    assert lengths == {"first": 16_000, "later": 24_000}


def test_a_folder_per_class_is_split_by_clip_id(tmp_path: Path):
    write_corpus(tmp_path / "corpus", num_clips=40)
    for path in (tmp_path / "corpus").glob("clip.*"):
        target = tmp_path / "classes" / f"class {int(path.name[5:8]) % 4}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    output = tmp_path / "shards"
    run_command(
        "sharding.build", "folder", f"{tmp_path}/classes", f"--output={output}", "--eval-share=0.3"
    )
    index = read_index(output)
    assert index.classes.names == tuple(f"class {n}" for n in range(4))
    assert index.splits == ("eval", "train")
    assert 4 <= (index.split == 0).sum() <= 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["manifest", "no.csv", "--class-labels=no.csv"], "no class list here"),
        (["manifest", "no.csv", "--class-labels=classes.csv"], "no such file"),
        (["manifest", "empty.jsonl", "--class-labels=classes.csv"], "lists no clip"),
        (["manifest", "unknown.csv", "--class-labels=classes.csv"], "did you mean"),
        (["manifest", "twice.csv", "--class-labels=classes.csv"], "appears twice"),
        (["folder", "no"], "no such folder"),
        (["folder", "bare"], "no subfolder"),
        (["folder", "classes", "--output=full"], "not empty"),
        (["folder", "classes", "--output=file"], "not empty"),
        (["folder", "classes", "--clips-per-shard=0"], "--clips-per-shard"),
        (["folder", "classes", "--eval-share=1.5"], "--eval-share"),
        (["folder", "classes"], "2 of 2 clips were refused"),
    ],
)
def test_bad_input_gets_one_clear_error_and_nothing_is_overwritten(
    tmp_path: Path, arguments: list[str], message: str
):
    (tmp_path / "classes.csv").write_text("index,mid,display_name\n0,/t/dog,dog\n")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "unknown.csv").write_text("path,labels\na.wav,dig\n")
    (tmp_path / "twice.csv").write_text("path,labels\na.wav,dog\na.wav,dog\n")
    for name in ("bare", "full/precious", "classes/dog"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").write_text("precious")
    for name in ("1.wav", "2.wav"):
        (tmp_path / "classes" / "dog" / name).write_text("no audio")
    if not any(a.startswith("--output") for a in arguments):
        arguments = [*arguments, "--output=out"]
    done = run_command("sharding.build", *arguments, check=False, cwd=tmp_path)
    assert_user_error(done, message)
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "out" / "index").exists()


def test_another_build_is_not_mixed_into_a_folder(corpus: Path, shards: Path):
    before = tars_of(shards)
    done = build(corpus, shards, "--codec=wav", fails=True)
    assert_user_error(done, "holds another build")
    assert tars_of(shards) == before


def test_check_and_info_agree_with_the_shards(shards: Path):
    assert "agree" in run_command("sharding.check", str(shards), "--deep").stdout
    info = json.loads(run_command("sharding.info", str(shards), "--json").stdout)
    assert info["clips"] == 48 and [c["clips"] for c in info["classes"]] == [12] * 4
    assert sum(info["splits"].values()) == 48
    assert sum(entry["clips"] for entry in info["duration_histogram"]) == 48
    assert 0 < info["audio_bytes"] < info["bytes"]
    assert "noise" in run_command("sharding.info", str(shards)).stdout


def flip_a_byte(tar: Path) -> None:
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 1
    tar.write_bytes(content)


def first_json(tar: Path) -> str:
    with tarfile.open(tar) as archive:
        return next(name for name in archive.getnames() if name.endswith(".json"))


def add_member(tar: Path, name: str) -> None:
    """As a tool would that writes size and hash anew, but not what the tar holds."""
    with tarfile.open(tar, "a") as archive:
        member = tarfile.TarInfo(name)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"{}  "))
    sidecar = tar.with_suffix(".sidecar.json")
    content = json.loads(sidecar.read_text())
    content |= {"size_bytes": tar.stat().st_size, "sha256": sha256_of(tar)}
    sidecar.write_text(json.dumps(content))


def change_split_in_index(tar: Path) -> None:
    path = tar.parent / "index" / "split.npy"
    np.save(path, 1 - np.load(path))


def swap_sidecars(tar: Path) -> None:
    mine, other = tar.with_suffix(".sidecar.json"), tar.with_name("shard-000001.sidecar.json")
    saved = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    other.write_bytes(saved)


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (flip_a_byte, "SHA-256 differs"),
        (lambda tar: tar.write_bytes(tar.read_bytes()[:5000]), "not the shard of its sidecar"),
        (lambda tar: tar.unlink(), "missing"),
        (swap_sidecars, "not the shard of its sidecar"),
        (lambda tar: tar.with_suffix(".sidecar.json").unlink(), "no sidecar"),
        (lambda tar: shutil.copy(tar, tar.with_name("shard-9.tar")), "not in the index"),
        (lambda tar: add_member(tar, "stowaway.flac"), "member stowaway is not in the sidecar"),
        (lambda tar: add_member(tar, first_json(tar)), "has 25 members for 12 clips"),
        (change_split_in_index, "differ in splits"),
    ],
    ids=[
        "flipped byte",
        "truncated",
        "missing",
        "swapped sidecars",
        "no sidecar",
        "stray tar",
        "stray member",
        "member twice",
        "other split",
    ],
)
def test_check_finds_damage(shards: Path, tmp_path: Path, damage, finding: str):
    copied = shutil.copytree(shards, tmp_path / "shards")
    damage(copied / "shard-000000.tar")
    assert finding in "\n".join(check(copied, deep=False))
    assert finding in "\n".join(check(copied, deep=True))


def test_damage_is_an_error_of_the_command(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    flip_a_byte(copied / "shard-000000.tar")
    assert_user_error(run_command("sharding.check", str(copied), check=False), "SHA-256 differs")


def test_check_finds_a_flipped_byte_wherever_it_is(shards: Path, tmp_path: Path):
    """In headers, audio, labels, and in what fills the blocks."""
    tar = shutil.copytree(shards, tmp_path / "shards") / "shard-000000.tar"
    whole = tar.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 20):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        tar.write_bytes(damaged)
        assert any("shard-000000.tar" in line for line in check(tar.parent, deep=False)), place


def test_check_names_the_damaged_clip(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    index = read_index(copied)
    with index.shards[0].open("r+b") as tar:
        tar.seek(index.offset[3] + index.size[3] // 2)
        tar.write(b"\0\0\0\0\0\0\0\0")
    findings = "\n".join(check(copied, deep=False))
    assert "is damaged: its CRC-32 differs" in findings and "cannot be decoded" in findings


def test_interrupting_by_keyboard_leaves_no_traceback(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=240)
    output = tmp_path / "shards"
    command = [sys.executable, "-m", "sharding.build", "manifest"]
    command += manifest_arguments(corpus, output)
    command += ["--workers=1", "--clips-per-shard=2"]  # 120 shards, which take their time
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(output.glob("*.sidecar.json")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr
