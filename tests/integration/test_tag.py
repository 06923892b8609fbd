"""Tagging files: every format of results, files that cannot be read, hours, and pipes."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import assert_user_error, run_command
from reference.official_model import OfficialEfficientNet, publish
from tiny_models import CLASSES, RATE_HZ, sweep, tiny_checkpoint

from eval.tag import main
from eval.tagging.formats import RENDER
from eval.tagging.results import Result, Tag
from psla_wds import LoaderConfig, cli, evaluation_batches, open_indexes
from psla_wds.labels.class_list import write_class_list
from psla_wds.models.checkpoint import epoch_path, save_checkpoint
from psla_wds.reading.reader import ReaderConfig
from psla_wds.tagging.tagger import Tagger

ROOT = Path(__file__).resolve().parents[2]
EAGER = ["--events.threshold=1e-6"]
"""Everything is an event."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    save_checkpoint(tiny_checkpoint(), path)
    return path


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    (folder / "more").mkdir()
    soundfile.write(folder / "long.flac", sweep(3.0, rate_hz=44_100), 44_100)
    soundfile.write(folder / "more" / "short.wav", sweep(0.5), RATE_HZ)
    (folder / "broken.wav").write_text("no audio")
    (folder / "notes.txt").write_text("no audio either")
    (folder / ".hidden.wav").write_text("nor this")
    return folder


@pytest.fixture
def tag(model: Path, monkeypatch, capsys):
    """Run the command in this process: exit status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        words = ["eval.tag", str(model), *map(str, arguments), "--device=cpu"]
        monkeypatch.setattr(sys, "argv", words)
        status = 0
        try:
            cli.run(main)
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def expected(model: Path, path: Path):
    waveform, rate_hz = soundfile.read(path, dtype="float32")
    return Tagger.load(model, device="cpu")(waveform, rate_hz)


def test_a_line_of_json_for_each_window_event_and_recording(tag, model: Path, audio: Path):
    status, out, _ = tag(audio / "long.flac", "--format=json", "--top-k=2", *EAGER)
    results = [json.loads(line) for line in out.splitlines()]
    tags = expected(model, audio / "long.flac")
    windows = [r for r in results if r["kind"] == "window"]
    assert status == 0 and len(windows) == len(tags.window_scores) == 4
    for result, start_s, scores in zip(
        windows, tags.window_starts_s, tags.window_scores, strict=True
    ):
        best = np.argsort(-scores)[:2]
        assert result["start_s"] == start_s and len(result["tags"]) == 2
        assert [t["mid"] for t in result["tags"]] == [CLASSES.mids[label] for label in best]
        assert [t["score"] for t in result["tags"]] == pytest.approx(scores[best], abs=1e-5)
    last = results[-1]
    assert (last["kind"], last["start_s"], last["end_s"]) == ("recording", 0.0, 3.0)
    assert [(t["name"], pytest.approx(t["score"], abs=1e-5)) for t in last["tags"]] == tags.top(2)
    events = [r for r in results if r["kind"] == "event"]
    assert sorted(e["tags"][0]["name"] for e in events) == sorted(CLASSES.names)
    assert {(e["start_s"], e["end_s"]) for e in events} == {(0.0, 3.0)}


def test_a_folder_is_tagged_but_for_what_cannot_be_read(tag, audio: Path, tmp_path: Path):
    output = tmp_path / "new" / "tags.csv"
    status, out, err = tag(audio, "--format=csv", f"--output={output}")
    assert status == 2 and "error: the audio cannot be read" in err and "broken.wav" in err
    assert "1 of 3 recordings could not be read" in err and "Traceback" not in err
    assert out == f"wrote what is heard in 2 recordings to {output}\n"
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    by_file = {row["recording"]: row for row in rows if row["kind"] == "recording"}
    assert list(by_file) == [str(audio / "long.flac"), str(audio / "more" / "short.wav")]
    short = [row for row in rows if row["recording"].endswith("short.wav")]
    assert {row["kind"] for row in short} <= {"recording", "event"}  # of one window, not told twice
    assert {row["name"] for row in rows if row["kind"] == "recording"} == set(CLASSES.names)


def test_the_table_has_a_heading_for_each_recording(tag, audio: Path):
    status, out, _ = tag(audio / "more" / "short.wav", audio / "long.flac", *EAGER)
    lines = out.splitlines()
    assert status == 0 and lines[0] == str(audio / "more" / "short.wav")
    assert lines.index(str(audio / "long.flac")) == 5  # three events and the recording
    assert lines[-1].split()[:4] == ["recording", "0.00", "3.00", "s"]


def test_labels_for_audacity_are_a_file_for_each_recording(tag, audio: Path, tmp_path: Path):
    status, _, _ = tag(audio, "--format=audacity", f"--output={tmp_path}", *EAGER)
    assert status == 2
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt"))
    assert names == ["broken.wav.txt", "long.flac.txt", "more/short.wav.txt"]
    lines = (tmp_path / "more" / "short.wav.txt").read_text().splitlines()
    assert lines[1].split("\t") == ["0.000000", "0.500000", "middle, or so"]
    assert (tmp_path / "broken.wav.txt").read_text() == ""
    _, out, _ = tag(audio / "long.flac", "--format=json", *EAGER)
    kinds = [json.loads(line)["kind"] for line in out.splitlines()]
    events = (tmp_path / "long.flac.txt").read_text().splitlines()
    assert len(events) == kinds.count("event") < len(kinds) - 1  # there are windows as well


def test_labels_on_stdout_are_of_one_recording(tag, audio: Path):
    status, out, _ = tag(audio / "more" / "short.wav", "--format=audacity", *EAGER)
    assert status == 0 and len(out.splitlines()) == 3
    status, _, err = tag(audio, "--format=audacity")
    assert status == 2 and "track of labels is of one recording" in err
    twice = (audio / "long.flac", audio / "more" / ".." / "long.flac")
    status, _, err = tag(*twice, "--format=audacity", "--output=x")
    assert status == 2 and "one file of labels" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-k=0", "a.wav"], "top-k"),
        (["-", "a.wav"], "stdin is a recording by itself"),
        (["EMPTY"], "there is no audio here"),
        (["a.wav", "--windows.overlap=1"], "overlap=1"),
        (["a.wav", "--events.threshold=0"], "threshold"),
    ],
)
def test_mistakes_are_one_error(tag, arguments: list[str], message: str, tmp_path: Path):
    arguments = [str(tmp_path) if word == "EMPTY" else word for word in arguments]
    status, out, err = tag(*arguments)
    assert status == 2 and message in err and out == ""


def test_what_a_folder_holds_under_a_name_of_audio_is_read_or_told(
    tag, audio: Path, tmp_path: Path
):
    (tmp_path / "a folder.wav").mkdir()
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    (tmp_path / '-x, "ä" 音.wav').symlink_to(audio / "more" / "short.wav")
    (tmp_path / "loop").symlink_to(tmp_path)
    status, out, err = tag(tmp_path, "--format=csv")
    names = {row["recording"] for row in csv.DictReader(io.StringIO(out))}
    assert status == 2 and names == {str(tmp_path / '-x, "ä" 音.wav')}
    assert "1 of 2 recordings" in err
    assert f"cannot be opened: No such file or directory\n  where: {tmp_path}/gone.wav" in err


def test_without_stdin_there_is_nothing_to_read_from_it(tag, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it where a shell closed it: <&-
    status, _, err = tag("-")
    assert status == 2 and "stdin is closed" in err


def test_a_name_of_several_lines_is_one_label():
    tag = Tag("/m/1", "a\tname\nof two", 0.5)
    assert RENDER["audacity"](Result("event", "a.wav", 0.0, 1.5, (tag,))) == (
        "0.000000\t1.500000\ta name of two\n"
    )


def test_an_output_that_cannot_be_written_is_one_error(tag, audio: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    arguments = (audio / "more", f"--output={tmp_path}/file/tags.txt")
    status, _, err = tag(*arguments)
    assert status == 2 and "cannot be written" in err


@pytest.mark.slow
def test_the_code_of_the_page_and_of_the_readme_runs(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tiny_checkpoint(), epoch_path(Path("runs/full"), 2))
    pages = (ROOT / "docs" / "use_the_model.md", ROOT / "README.md")
    (page,), (_, readme) = (
        re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        for path in pages
    )
    exec(compile(page, "use_the_model.md", "exec"), {})
    exec(compile(readme, "README.md", "exec"), {"waveform": sweep(1.0), "sample_rate_hz": RATE_HZ})
    assert "(38, 3) 0.32" in capsys.readouterr().out


@pytest.mark.slow
def test_a_published_checkpoint_tags_with_a_class_list(audio: Path, tmp_path: Path):
    path = publish(OfficialEfficientNet(0, len(CLASSES), num_heads=1), tmp_path / "m.pth")
    write_class_list(CLASSES, tmp_path / "classes.csv")
    arguments = ["eval.tag", str(path), str(audio / "long.flac"), "--device=cpu"]
    assert_user_error(run_command(*arguments, check=False), "no class list")
    done = run_command(*arguments, f"--class-labels={tmp_path}/classes.csv")
    assert "middle, or so" in done.stdout


@pytest.mark.slow
def test_a_pipe_is_tagged_while_it_is_open(model: Path):
    """Results of the first seconds come before the last second is sent."""
    waveform = sweep(6.0)
    command = [sys.executable, "-m", "eval.tag", str(model), "-", "--format=json", "--device=cpu"]
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, RATE_HZ, format="WAV", subtype="PCM_16")
    content = bytearray(buffer.getvalue())
    content[4:8] = content[40:44] = b"\xff" * 4
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(content[: 44 + 2 * 4 * RATE_HZ])
        process.stdin.flush()
        early = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.stdin.write(content[44 + 2 * 4 * RATE_HZ :])
        process.stdin.close()
        late = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    assert early[0]["start_s"] == 0.0 and early[0]["kind"] == "window"
    assert late[-1]["kind"] == "recording" and late[-1]["end_s"] == 6.0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_hour_takes_no_more_memory_than_minutes(model: Path, tmp_path: Path):
    """And gives as many windows as it has."""
    peaks = []
    for minutes in (4, 60):
        path = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(path, "w", 32_000, 2, "PCM_16") as file:
            for second in range(0, minutes * 60, 10):
                piece = sweep(10.0, rate_hz=32_000, seed=second)
                file.write(np.stack([piece, piece], axis=1))
        command = [
            sys.executable, "-m", "eval.tag", str(model), str(path), "--format=json",
            "--windows.overlap=0", f"--output={tmp_path}/{minutes}.json", "--device=cpu",
        ]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        peaks.append(usage.ru_maxrss / 1024)
        last = json.loads((tmp_path / f"{minutes}.json").read_text().splitlines()[-1])
        assert last["end_s"] == minutes * 60
    whole_file_mib = 60 * 60 * 16_000 * 4 / 2**20
    assert peaks[1] < peaks[0] + 0.15 * whole_file_mib, peaks


@pytest.mark.slow
def test_real_recordings_score_as_evaluation_scores_them(real_clips: Path, tmp_path: Path):
    """16-bit files at the model's rate, which packing keeps bit by bit: only DALI is between."""
    checkpoint = tiny_checkpoint()
    features = replace(checkpoint.features, num_frames=512)
    with (real_clips / "manifest.csv").open(newline="") as file:
        paths = [real_clips / row["path"] for row in csv.DictReader(file)][::60]
    paths = [p for p in paths if soundfile.info(p).samplerate == RATE_HZ]
    for number, path in enumerate(paths):
        folder = tmp_path / "clips" / str(number % 3)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.flac").symlink_to(path)
    run_command(
        "sharding.build", "folder", str(tmp_path / "clips"), f"--output={tmp_path / 'shards'}"
    )
    config = LoaderConfig(features=features, reader=ReaderConfig(decode_threads=1), device="cpu")
    index = open_indexes([str(tmp_path / "shards")])
    model = checkpoint.build()
    with evaluation_batches(index, batch_size=8, config=config) as batches, torch.no_grad():
        scores = torch.cat([model(batch.log_mel) for batch in batches]).numpy()
    tagger = Tagger([replace(checkpoint, features=features)], device="cpu")
    assert len(index) == len(paths) > 20
    for row in range(len(index)):
        waveform, rate_hz = soundfile.read(tmp_path / "clips" / index.clip_id(row))
        tags = tagger(waveform[: features.max_clip_samples], rate_hz)
        np.testing.assert_allclose(tags.scores, scores[row], atol=1e-4)
