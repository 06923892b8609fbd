"""Tagging files: every format of results, files that cannot be read, hours, and pipes."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_models import CLASSES, RATE_HZ, sweep, tiny_checkpoint

from eval.tag import main
from eval.tagging.formats import RENDER, Result, Tag
from psla_wds import cli
from psla_wds.models.checkpoint import save_checkpoint
from psla_wds.models.epochs import epoch_path
from psla_wds.tagging.tagger import Tagger

ROOT = Path(__file__).resolve().parents[3]
EAGER = "--events.threshold=1e-6"
"""Everything is an event."""

Run = Callable[..., tuple[int, str, str]]


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
def tag(model: Path, monkeypatch, capsys) -> Run:
    """The command in this process: exit status, stdout, stderr."""

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


def test_json_has_a_line_for_each_result(tag: Run, model: Path, audio: Path):
    status, out, _ = tag(audio / "long.flac", "--format=json", "--top-k=2", EAGER)
    results = [json.loads(line) for line in out.splitlines()]
    waveform, rate_hz = soundfile.read(audio / "long.flac", dtype="float32")
    tags = Tagger.load(model, device="cpu")(waveform, rate_hz)
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


def test_a_folder_is_tagged_except_what_cannot_be_read(tag: Run, audio: Path, tmp_path: Path):
    output = tmp_path / "new" / "tags.csv"
    status, out, err = tag(audio, "--format=csv", f"--output={output}")
    assert status == 2 and "error: the audio cannot be used" in err and "broken.wav" in err
    assert "1 of 3 recordings could not be read" in err and "Traceback" not in err
    assert out == f"wrote the tags of 2 recordings to {output}\n"
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    by_file = {row["recording"]: row for row in rows if row["kind"] == "recording"}
    assert list(by_file) == [str(audio / "long.flac"), str(audio / "more" / "short.wav")]
    short = [row for row in rows if row["recording"].endswith("short.wav")]
    assert {row["kind"] for row in short} <= {"recording", "event"}  # one window: not said twice
    assert {row["name"] for row in rows if row["kind"] == "recording"} == set(CLASSES.names)


def test_what_is_odd_about_a_recording_is_a_warning(tag: Run, audio: Path, tmp_path: Path):
    left = sweep(0.5)
    for name, gain in {"a.wav": -1.0, "b.wav": 20.0}.items():
        stereo = np.stack([left * abs(gain), left * gain], axis=1)
        soundfile.write(tmp_path / name, stereo, RATE_HZ, subtype="FLOAT")
    (tmp_path / "c.wav").write_bytes((audio / "long.flac").read_bytes())
    (tmp_path / "d.wav").write_bytes((audio / "more" / "short.wav").read_bytes())
    output = tmp_path / "tags.txt"
    status, out, err = tag(tmp_path, f"--output={output}")
    warnings = [line.partition(": ")[2] for line in err.splitlines() if "warning: " in line]
    assert status == 0 and len(warnings) == 3
    for name, detail in {"a": "channels", "b": "peak is", "c": "named .wav, is flac"}.items():
        assert any(w.startswith(f"{tmp_path}/{name}.wav: ") and detail in w for w in warnings)
    counts = "flagged: 1 channels-cancel, 1 misnamed, 1 over-full-scale"
    assert out == f"wrote the tags of 4 recordings to {output}; {counts}\n"


def odd_recordings(folder: Path) -> dict[str, list[str]]:
    """Recordings that cannot be tagged well, or can, and the flags of each."""
    sound = sweep(1.0)
    written = {
        "clipped": (np.clip(9 * sweep(3.0), -1, 1), ["clipped"]),  # several windows
        "fine": (sound, []),
        "nothing": (0 * sound, ["digital-silence"]),
        "opposite": (np.stack([sound, -sound], axis=1), ["channels-cancel"]),
        "quiet": (2e-4 * sound, ["silent"]),
        "short": (sound[:1000], ["short"]),
        "short and quiet": (2e-4 * sound[:1000], ["silent", "short"]),
    }
    for name, (waveform, _) in written.items():
        soundfile.write(folder / f"{name}.wav", waveform, RATE_HZ, subtype="PCM_24")
    return {f"{name}.wav": flags for name, (_, flags) in written.items()}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_flags_are_in_every_format(tag: Run, tmp_path: Path, batch_size: int):
    flags = odd_recordings(tmp_path)
    words = (*(tmp_path / name for name in flags), f"--batch-size={batch_size}", "--top-k=1")
    status, out, err = tag(*words, "--format=json")
    results = [r for r in map(json.loads, out.splitlines()) if r["kind"] == "recording"]
    assert status == 0 and {Path(r["recording"]).name: r["flags"] for r in results} == flags
    last = "flagged: 1 channels-cancel, 1 clipped, 1 digital-silence, 2 short, 2 silent"
    assert err.splitlines()[-1] == last and err.count("warning: ") == 7
    rows = list(csv.DictReader(io.StringIO(tag(*words, "--format=csv")[1])))
    written = {Path(r["recording"]).name: r["flags"] for r in rows if r["kind"] == "recording"}
    assert written == {name: "|".join(found) for name, found in flags.items()}
    assert not [r for r in rows if r["kind"] != "recording" and r["flags"]]
    lines = [line for line in tag(*words)[1].splitlines() if line.startswith("  recording")]
    shown = [found[1].split(", ") if (found := re.search(r"\[(.*)\]$", s)) else [] for s in lines]
    assert shown == list(flags.values())
    status, out, _ = tag(*words, "--format=audacity", f"--output={tmp_path}/tracks")
    assert out == f"wrote the tags of 7 recordings to {tmp_path}/tracks; {last}\n"
    for name, found in flags.items():
        lines = (tmp_path / "tracks" / f"{name}.txt").read_text().splitlines()
        said = [line.split("\t") for line in lines if line.endswith("]")]
        assert [text for _, _, text in said] == ([f"[{', '.join(found)}]"] if found else [])
        assert {start for start, _, _ in said} <= {"0.000000"}


def test_thresholds_mark_classes_and_bound_events(
    tag: Run, model: Path, audio: Path, tmp_path: Path
):
    long = audio / "long.flac"
    waveform, rate_hz = soundfile.read(long, dtype="float32")
    scores = Tagger.load(model, device="cpu")(waveform, rate_hz).scores
    limits = [float(scores[0]), None, float(np.nextafter(scores[2], np.float32(1)))]
    rows = [{"mid": m, "threshold": t} for m, t in zip(CLASSES.mids, limits, strict=True)]
    path = tmp_path / "T.json"
    path.write_text(json.dumps({"per_class": rows[::-1]}))
    _, out, _ = tag(long, "--format=json", "--top-k=3", f"--thresholds={path}")
    results = list(map(json.loads, out.splitlines()))
    marks = {t["mid"]: t["present"] for t in results[-1]["tags"]}
    assert marks == dict(zip(CLASSES.mids, (True, False, False), strict=True))
    low = [row | {"threshold": row["threshold"] and 1e-6} for row in rows]
    path.write_text(json.dumps({"per_class": low}))
    _, out, _ = tag(long, "--format=json", f"--thresholds={path}")
    events = [r for r in map(json.loads, out.splitlines()) if r["kind"] == "event"]
    assert [(e["tags"][0]["mid"], e["end_s"]) for e in events] == [("/t/0", 3.0), ("/t/2", 3.0)]
    _, out, _ = tag(long, "--format=json", f"--thresholds={path}", EAGER)  # for all of them
    assert "/t/1" in {r["tags"][0]["mid"] for r in map(json.loads, out.splitlines())}
    rows[int(scores.argmin())]["threshold"] = 1e-6  # present, though it scores lowest
    path.write_text(json.dumps({"per_class": rows}))
    _, out, _ = tag(long, "--top-k=1", f"--thresholds={path}")
    lowest = CLASSES.names[int(scores.argmin())]
    assert f"{lowest} {scores.min():.3f}*" in out.splitlines()[-1]
    _, out, _ = tag(long, "--top-k=1", "--format=csv", f"--thresholds={path}")
    last = [r for r in csv.DictReader(io.StringIO(out)) if r["kind"] == "recording"]
    assert {r["name"]: r["present"] for r in last}[lowest] == "1"
    path.write_text(json.dumps({"per_class": rows[:2]}))
    status, out, err = tag(long, f"--thresholds={path}")
    assert status == 2 and out == "" and "the thresholds are for other classes (2 where 3" in err


def test_text_has_a_heading_for_each_recording(tag: Run, audio: Path):
    short = audio / "more" / "short.wav"
    status, out, _ = tag(short, short, audio / "long.flac", EAGER)
    lines = out.splitlines()
    headings = [lines[number] for number in (0, 5, 10)]  # of three events and a recording each
    assert status == 0 and headings == [str(short), str(short), str(audio / "long.flac")]
    assert lines[-1].split()[:4] == ["recording", "0.00", "3.00", "s"]


@pytest.mark.parametrize("form", ["text", "json", "csv"])
def test_a_name_that_is_not_utf8_is_shown_with_escapes(
    tag: Run, audio: Path, tmp_path: Path, form: str
):
    for name in (b"a\xe9\n.wav", b"b.wav"):
        shutil.copy(audio / "more" / "short.wav", tmp_path / os.fsdecode(name))
    status, out, err = tag(tmp_path, f"--format={form}", "--embeddings", tmp_path / "e.npz", EAGER)
    assert status == 0 and "Traceback" not in err
    shown = f"{tmp_path}/a\\udce9\\n.wav"
    assert shown in out and f"{tmp_path}/b.wav" in out
    assert {len(line.split("\x1b")) for line in out.splitlines()} == {1}


def test_labels_for_audacity_are_a_file_a_recording(tag: Run, audio: Path, tmp_path: Path):
    folder = tmp_path / "labels"
    status, _, _ = tag(audio, "--format=audacity", f"--output={folder}", EAGER)
    assert status == 2
    found = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.txt")}
    assert sorted(found) == ["broken.wav.txt", "long.flac.txt", "more/short.wav.txt"]
    lines = found["more/short.wav.txt"].splitlines()
    assert lines[1].split("\t") == ["0.000000", "0.500000", "middle, or so"]
    assert found["broken.wav.txt"] == ""
    _, out, _ = tag(audio / "long.flac", "--format=json", EAGER)
    kinds = [json.loads(line)["kind"] for line in out.splitlines()]
    # There are windows as well.
    assert len(found["long.flac.txt"].splitlines()) == kinds.count("event") < len(kinds) - 1
    status, out, _ = tag(audio / "more" / "short.wav", "--format=audacity", EAGER)
    assert status == 0 and out == found["more/short.wav.txt"]


def test_a_name_of_several_lines_is_one_label():
    tag = Tag("/m/1", "a\tname\nof two", 0.5)
    assert RENDER["audacity"](Result("event", "a.wav", 0.0, 1.5, (tag,))) == (
        "0.000000\t1.500000\ta name of two\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-k=0", "a.wav"], "top-k"),
        (["--batch-size=0", "a.wav"], "batch-size"),
        (["-", "a.wav"], "stdin cannot be tagged together with files"),
        (["EMPTY"], "there is no audio here"),
        (["a.wav", "--windows.overlap=1"], "overlap=1"),
        (["a.wav", "--events.threshold=0"], "threshold"),
        (["a.wav", "b.wav", "--format=audacity"], "a track of labels holds one recording"),
        (["a.wav", "b/../a.wav", "--format=audacity", "--output=x"], "one file of labels"),
        (["a.wav", f"--output={__file__}/tags.txt"], "File exists"),
    ],
)
def test_mistakes_are_one_error(tag: Run, arguments: list[str], message: str, tmp_path: Path):
    status, out, err = tag(*(str(tmp_path) if word == "EMPTY" else word for word in arguments))
    assert status == 2 and message in err and out == ""


def test_no_output_replaces_a_recording_or_earlier_results(tag: Run, audio: Path, tmp_path: Path):
    recording = shutil.copy(audio / "long.flac", tmp_path / "long.flac")
    content = recording.read_bytes()
    for option in ("--output", "--embeddings"):
        link = tmp_path / f"link{'.npz' if option == '--embeddings' else '.txt'}"
        link.symlink_to(recording)
        status, _, err = tag(tmp_path / "long.flac", f"{option}={link}", "--overwrite")
        assert status == 2 and "the output is one of the recordings" in err
    assert recording.read_bytes() == content
    (tmp_path / "before.txt").write_text("earlier")
    status, _, err = tag(audio / "broken.wav", f"--output={tmp_path}/before.txt", "--overwrite")
    assert status == 2 and err.count("error: ") == 1 and "broken.wav" in err
    assert (tmp_path / "before.txt").read_text() == "earlier"


def test_without_stdin_nothing_can_be_read_from_it(tag: Run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it where a shell closed it: <&-
    status, _, err = tag("-")
    assert status == 2 and "stdin is closed" in err


def test_odd_names_in_a_folder_are_read_or_reported(tag: Run, audio: Path, tmp_path: Path):
    (tmp_path / "a folder.wav").mkdir()
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    (tmp_path / '-x, "ä" 音.wav').symlink_to(audio / "more" / "short.wav")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "__MACOSX").mkdir()
    for name in ("._a.wav", "__MACOSX/a.wav"):
        (tmp_path / name).write_bytes(b"no audio")
    status, out, err = tag(tmp_path, "--format=csv")
    names = {row["recording"] for row in csv.DictReader(io.StringIO(out))}
    assert status == 2 and names == {str(tmp_path / '-x, "ä" 音.wav')}
    assert "1 of 2 recordings" in err
    assert f"cannot be used: No such file or directory\n  where: {tmp_path}/gone.wav" in err


@pytest.mark.slow
def test_the_code_in_the_documents_runs(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for run in ("full", "balanced"):
        save_checkpoint(tiny_checkpoint(), epoch_path(Path("runs", run), 2))
    pages = (ROOT / "docs" / "use_the_model.md", ROOT / "README.md")
    (page, _), (_, readme) = (  # the second block of the page is test_embeddings.py's
        re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        for path in pages
    )
    exec(compile(page, "use_the_model.md", "exec"), {})
    exec(compile(readme, "README.md", "exec"), {"waveform": sweep(1.0), "sample_rate_hz": RATE_HZ})
    assert "(38, 3) 0.32" in capsys.readouterr().out


@pytest.mark.slow
def test_a_pipe_is_tagged_while_it_is_open(model: Path):
    """Results of the first seconds come before the last second is sent."""
    command = [sys.executable, "-m", "eval.tag", str(model), "-", "--format=json", "--device=cpu"]
    buffer = io.BytesIO()
    soundfile.write(buffer, sweep(6.0), RATE_HZ, format="WAV", subtype="PCM_16")
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
    peaks = []
    for minutes in (4, 60):
        path, output = tmp_path / f"{minutes}.flac", tmp_path / f"{minutes}.json"
        with soundfile.SoundFile(path, "w", 32_000, 2, "PCM_16") as file:
            for second in range(0, minutes * 60, 10):
                piece = sweep(10.0, rate_hz=32_000, seed=second)
                file.write(np.stack([piece, piece], axis=1))
        settings = ["--format=json", "--windows.overlap=0", f"--output={output}", "--device=cpu"]
        command = [sys.executable, "-m", "eval.tag", str(model), str(path), *settings]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        peaks.append(usage.ru_maxrss / 1024)
        assert json.loads(output.read_text().splitlines()[-1])["end_s"] == minutes * 60
    whole_file_mib = 60 * 60 * 16_000 * 4 / 2**20
    assert peaks[1] < peaks[0] + 0.15 * whole_file_mib, peaks
