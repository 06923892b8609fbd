"""Real recordings, from files to scores: packed, trained on by two processes, evaluated."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import soundfile
from conftest import run, run_command

from psla_wds.evaluation.scores import Scores
from psla_wds.shards.index_files import read_index
from sharding.check import check
from train.run.log import read_run

NUM_CLIPS = 200
MAIN = Path(__file__).parents[2] / "train" / "main.py"


def write_manifest(real_clips: Path, folder: Path) -> list[dict[str, str]]:
    """Clips evenly spread over the real ones, labelled with the names they came with."""
    with (real_clips / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = [rows[i] for i in np.linspace(0, len(rows) - 1, NUM_CLIPS).astype(int)]
    names = sorted({row["native_label"] for row in rows})
    with (folder / "classes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "mid", "display_name"])
        writer.writerows([i, f"/real/{name}", name] for i, name in enumerate(names))
    with (folder / "clips.jsonl").open("w") as file:
        for number, row in enumerate(rows):
            split = "eval" if number % 5 == 0 else "train"
            clip = {"path": row["path"], "labels": [row["native_label"]], "split": split}
            file.write(json.dumps(clip) + "\n")
    return rows


def test_two_hundred_real_clips_are_packed_trained_on_and_scored(real_clips: Path, tmp_path: Path):
    rows = write_manifest(real_clips, tmp_path)
    shards, run_dir = tmp_path / "shards", tmp_path / "run"
    run_command(
        "sharding.build", "manifest", str(tmp_path / "clips.jsonl"),
        f"--class-labels={tmp_path}/classes.csv", f"--audio-root={real_clips}",
        f"--output={shards}", "--clips-per-shard=50",
    )  # fmt: skip
    index = read_index(shards)
    assert len(index) == NUM_CLIPS and check(shards, deep=True) == []
    durations = {index.clip_id(row): index.num_samples[row] / 16_000 for row in range(len(index))}
    for row in rows:
        assert abs(durations[row["path"]] - float(row["duration_s"])) < 0.001

    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run(
        [*launcher, "--nproc-per-node=2", str(MAIN), "demo", f"--index={shards}:train",
         f"--eval-index={shards}:eval", f"--run-dir={run_dir}", "--epochs=1", "--batch-size=40",
         "--features.num-frames=64", "--log-every-steps=1"]
    )  # fmt: skip
    log = read_run(run_dir)
    assert len(log.steps) == 4 and log.steps[-1].loss < log.steps[0].loss
    output = tmp_path / "scores.npz"
    run_command("eval.predict", str(run_dir), f"--index={shards}:eval", f"--output={output}")
    scores = Scores.load(output)
    assert len(scores) == 40 and np.isfinite(scores.scores).all()


def test_real_clips_of_esc50_keep_their_folds(real_clips: Path, tmp_path: Path):
    with (real_clips / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["path"].startswith("esc50/")]
    rows = [rows[i] for i in np.linspace(0, len(rows) - 1, 40).astype(int)]
    names = sorted({row["native_label"] for row in rows})
    for folder in ("meta", "audio"):
        (tmp_path / "esc" / folder).mkdir(parents=True)
    with (tmp_path / "esc" / "meta" / "esc50.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "fold", "target", "category"])
        for number, row in enumerate(rows):
            name = f"{Path(row['path']).stem}.wav"
            label = row["native_label"]
            writer.writerow([name, row["fold"], names.index(label), label])
            if number % 10:
                pcm, rate_hz = soundfile.read(real_clips / row["path"], dtype="int16")
                soundfile.write(tmp_path / "esc" / "audio" / name, pcm, rate_hz)
    shards = tmp_path / "shards"
    run_command(
        "sharding.build", "esc50", f"{tmp_path}/esc", f"--output={shards}", "--max-rejected=0.1"
    )
    index = read_index(shards)
    assert len(index) == 36 and check(shards, deep=True) == []
    fold_of = {Path(row["path"]).stem: f"fold{row['fold']}" for row in rows}
    for row in range(len(index)):
        assert index.splits[index.split[row]] == fold_of[index.clip_id(row)]
    covered = json.loads((shards / "coverage.json").read_text())["splits"]
    assert sum(fold["listed"] for fold in covered.values()) == 40
    assert sum(fold["missing"] for fold in covered.values()) == 4
