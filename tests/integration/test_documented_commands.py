"""The commands of README.md and docs/, run one after another as a page has them, on little data.

What needs more than this machine is only parsed (tests/test_documents.py); the reasons stand here.
"""

import csv
import os
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import run, run_command
from documents import PAGES, Command, commands_of, inline_commands_of

NOT_RUN = {
    r" RECIPE": "it is the form of commands that README.md has in full",
    r"^make ": "make plans it for the parser's test; test_demo.py runs the demo",
    r"^(pip|python -m (pip|build)|git|source)\b": "it downloads, or changes the environment",
    r"^(dask|srun) |s3://|--nnodes|/shared/|--nproc-per-node 8 train/main.py \.": "it needs a "
    "cluster or a store: test_engines.py, test_s3_builds.py and test_nodes.py do it on one machine",
    r"sharding\.build (fsd50k|esc50|psla-json|hdf5|tars) ": "test_data_sets.py builds it from a "
    "small copy of the published layout",
    r"^python -m sharding\.index \w+ --class-labels": "test_foreign_shards.py",
    r"^python -m benchmarks\.": "it takes minutes: tests/benchmarks runs some of it",
    r"^(if|fi|exit|export|scontrol|\w+=)|SLURM": "it is a part of a job's script",
    r"^python -m train\.study ": "it trains for minutes: test_paper_studies.py",
    r"^(ffmpeg|arecord) |^python -m eval\.(tag|export) ": "it takes recordings: test_tag.py, "
    "test_export.py",
    r"\[RUN |OTHER_RUN|runs/other|runs/seed-|eval\.gallery|RUN/scores\.npz": "test_figures.py, "
    "test_pages.py and test_gallery.py",
    r"--mapping |--other-classes|--quality ": "it needs AudioSet's classes: test_labelling.py",
}
"""Why a command is parsed and not run, by what it looks like."""

SMALL = ("--epochs=2", "--batch-size=8", "--features.num-frames=64", "--augment.time-mask=16")
SMALL_MODEL = ("--model.backbone=efficientnet-b0",)
NEW_OUTPUTS = ("--output", "--run-dir")


def why_not(command: Command) -> str | None:
    """The reason for which a command is not run; None if it is."""
    if command.page == "own_data.md":
        return "test_own_data.py runs the page, word by word"
    return next((why for like, why in NOT_RUN.items() if re.search(like, command.text)), None)


def run_of(page: Path) -> list[Command]:
    return [c for c in (*commands_of(page), *inline_commands_of(page)) if not why_not(c)]


def test_every_reason_not_to_run_a_command_is_that_of_one():
    texts = [c.text for page in PAGES for c in (*commands_of(page), *inline_commands_of(page))]
    assert all(any(re.search(like, text) for text in texts) for like in NOT_RUN)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take as given: clips and lists, shards, a run and its scores."""
    folder = tmp_path_factory.mktemp("base")
    made = ["--clips=60", "--clip-s=1.25", "--families", "--seed=0"]
    run_command("sharding.synthesize", "corpus", *made, cwd=folder)
    (folder / "class_labels_indices.csv").symlink_to(folder / "corpus/class_labels_indices.csv")
    write_lists(folder)
    run_command(
        "sharding.build", "manifest", "CLIPS.csv", "--class-labels=class_labels_indices.csv",
        "--output=shards", "--eval-share=0.3", cwd=folder,
    )  # fmt: skip
    data = ["--index=shards", "--eval-index=shards"]
    run_command("train.main", "demo", *data, "--run-dir=run", *SMALL, cwd=folder)
    run_command("eval.average", "run", "--epochs", "1", "2", "--output=run/average.pt", cwd=folder)
    run_command("eval.predict", "run", "--index=shards", "--output=P.npz", cwd=folder)
    overlay = ["--ontology=corpus/ontology.json", "--output=OVERLAY", "--allow-empty-classes"]
    run_command("eval.enhance", "P.npz", "--index=shards", *overlay, cwd=folder)
    return folder


def write_lists(folder: Path) -> None:
    """CLIPS.csv, and FOLDER with a folder for each of three classes."""
    audio = sorted((folder / "corpus/audio").rglob("*.*"))
    with (folder / "corpus/segments.csv").open() as file:
        lines = [line for line in file if not line.startswith("#")]
    with (folder / "CLIPS.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "labels"])
        for number, row in enumerate(csv.reader(lines, skipinitialspace=True)):
            path = next(path for path in audio if row[0] in path.stem)
            rows.writerow([path, row[3].replace(",", "|")])
            target = folder / "FOLDER" / f"class {number % 3}" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)


def furnish(place: Path, base: Path, page: Path) -> None:
    """Give the names that the pages use to copies of the base; data are linked, runs copied."""
    corpus = base / "corpus"
    links = {name: base / name for name in ("CLIPS.csv", "FOLDER", "OVERLAY")}
    links |= dict.fromkeys(
        ["class_labels_indices.csv", "CLASSES.csv"], base / "class_labels_indices.csv"
    )
    links |= dict.fromkeys(["P.npz", "A.npz", "B.npz", "TEACHER.npz"], base / "P.npz")
    lists = [f"{name}_segments.csv" for name in ("balanced_train", "unbalanced_train", "eval")]
    links |= dict.fromkeys(lists, corpus / "segments.csv") | {
        "ontology.json": corpus / "ontology.json"
    }
    sets = ("train", "eval", "balanced", "unbalanced", "mine")
    links |= {f"shards/{name}": base / "shards" for name in sets} | {"SHARDS": base / "shards"}
    parts = [f"AUDIO/{name}" for name in ("balanced", "unbalanced", "eval")]
    links |= dict.fromkeys(parts if page.name == "data_sets.md" else ["AUDIO"], corpus / "audio")
    for name, target in links.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(target)
    for name in ("RUN", "TEACHER", "runs/full", "runs/teacher", "runs/a", "runs/b"):
        shutil.copytree(base / "run", place / name, copy_function=os.link)
    if page.name == "data_sets.md":  # which makes it
        (place / "CLASSES.csv").unlink()


def as_run(command: Command, place: Path) -> list[str]:
    """The command of the page, small: one process, few epochs, a small network."""
    text = command.text.replace("--epochs 16 30", "--epochs 1 2")
    words = [
        str(path)
        for word in Command(command.page, text).words
        for path in (sorted(place.glob(word)) if "*" in word else [word])
    ]
    if words[0] != "torchrun":
        few_clips = ["--allow-empty-classes"] if "eval.enhance" in words else []
        return [sys.executable, *words[1:], *few_clips]
    recipe, *settings = words[words.index("train/main.py") + 1 :]
    small = [*SMALL, *(SMALL_MODEL if recipe != "audioset-student" else ())]
    if "--model.initial-weights" not in settings:
        small.append("--model.initial-weights=none")
    return [sys.executable, "-m", "train.main", recipe, *settings, *small]


def clear(words: list[str], place: Path) -> None:
    """Remove what stands where the command writes, as the page's reader has nothing there."""
    if "eval.score" in words:  # which adds to a run's folder
        return
    for flag, value in pairwise(words):
        path = place / value
        if flag in NEW_OUTPUTS and (path.is_symlink() or path.is_file()):
            path.unlink()
        elif flag in NEW_OUTPUTS and path.is_dir():
            shutil.rmtree(path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [p for p in PAGES if run_of(p)], ids=lambda page: page.name)
def test_the_commands_of_a_page_follow_one_another(page: Path, base: Path, tmp_path: Path):
    furnish(tmp_path, base, page)
    for command in run_of(page):
        words = as_run(command, tmp_path)
        clear(words, tmp_path)
        print(f"$ {' '.join(words[1:])}")
        run(words, cwd=tmp_path)
    for command in (*commands_of(page), *inline_commands_of(page)):
        if why_not(command):
            print(f"not run: {command.text}: {why_not(command)}")
