"""From scores to an overlay, to training and scoring on its labels; and all that can be wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builds import build
from conftest import TINY_CLASSES, run_command
from label_index import audioset_index
from label_overlays import write_ontology

from eval.enhance import Args, run
from psla_wds.errors import ConfigError, LabelError, PslaError, ScoreError
from psla_wds.evaluation.enhancement import enhancement_report, propagate
from psla_wds.evaluation.scores import Scores
from psla_wds.labels.class_list import read_class_list
from psla_wds.labels.ontology import read_ontology
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import META, apply_overlay
from train.main import parse
from train.recipes import DEMO
from train.start import _prepare as prepare_training
from train.start import train

LOW, NOISE = 0, 3
TREE = {"/t/3": ["/t/0", "/t/1", "/t/2"]}  # all sounds are noise


@pytest.fixture
def ontology(tmp_path: Path) -> Path:
    return write_ontology(tmp_path / "ontology.json", TREE, set())


@pytest.fixture
def teacher(shards: Path, tmp_path: Path) -> Path:
    """Scores of all clips, which find noise in those of class low alone."""
    index = open_indexes([str(shards)])
    targets = index.targets(np.arange(len(index))).astype(np.uint8)
    scores = 0.1 + 0.8 * targets.astype(np.float32)
    scores[targets[:, LOW] == 1, NOISE] = 0.95
    ids = tuple(index.clip_id(row) for row in range(len(index)))
    path = tmp_path / "teacher.npz"
    Scores(ids, scores, targets, index.classes.mids, index.classes.names).save(path)
    return path


@pytest.fixture
def overlay(shards: Path, teacher: Path, ontology: Path, tmp_path: Path) -> Path:
    done = run_command(
        "eval.enhance", str(teacher), f"--index={shards}", f"--ontology={ontology}",
        f"--output={tmp_path / 'overlay'}", f"--export={tmp_path / 'labels.jsonl'}",
    )  # fmt: skip
    assert "12 labels added to 48 (25.0%), in 1 of 4 classes and 12 of 48 clips" in done.stdout
    assert f"--labels {tmp_path / 'overlay'}" in done.stdout.splitlines()[-1]
    return tmp_path / "overlay"


def test_an_overlay_holds_labels_and_touches_no_shard(shards: Path, overlay: Path, tmp_path: Path):
    index = open_indexes([str(shards)])
    labelled = apply_overlay(index, overlay)
    index.check_shards()
    low = index.targets(np.arange(len(index)))[:, LOW] == 1
    assert index.class_counts().tolist() == [12] * 4
    assert labelled.class_counts().tolist() == [12, 12, 12, 24]
    assert labelled.targets(np.flatnonzero(low))[:, NOISE].all()
    assert labelled.fingerprint != index.fingerprint
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert {tuple(row["labels"]) for row in rows} == {
        ("/t/0", "/t/3"),
        ("/t/1",),
        ("/t/2",),
        ("/t/3",),
    }
    assert [row["clip_id"] for row in rows] == [index.clip_id(i) for i in range(48)]
    report = json.loads((overlay / "report.json").read_text())
    assert report["per_class"][NOISE]["name"] == TINY_CLASSES[NOISE]
    assert report["per_class"][NOISE]["after"] == 24
    assert "12 labels added" in (overlay / "report.txt").read_text()


def test_the_hierarchy_alone_needs_no_teacher(shards: Path, ontology: Path, tmp_path: Path):
    to = tmp_path / "overlay"
    words = ["--hierarchy", f"--index={shards}", f"--ontology={ontology}", f"--output={to}"]
    done = run_command("eval.enhance", *words)
    assert "36 labels added to 48 (75.0%)" in done.stdout
    assert "36 of 48 clips: 1.00 to 1.75 labels a clip" in done.stdout
    assert f"--index {shards} --labels {to}" in done.stdout.splitlines()[-1]
    assert apply_overlay(open_indexes([str(shards)]), to).class_counts().tolist() == [12] * 3 + [48]
    report = json.loads((to / "report.json").read_text())
    assert (report["hierarchy"], report["type"], report["threshold"]) == (True, "II", None)
    assert report["per_class"][NOISE]["added"] == 36


def test_the_hierarchy_goes_on_from_an_overlay(
    shards: Path, overlay: Path, ontology: Path, tmp_path: Path
):
    args = Args(
        hierarchy=True,
        index=(str(shards),),
        labels=overlay,
        ontology=ontology,
        output=tmp_path / "o",
    )
    assert (run(args)["labels_before"], run(replace(args, output=tmp_path / "p"))["clips"]) == (
        60,
        48,
    )
    labelled = apply_overlay(open_indexes([str(shards)]), tmp_path / "o")
    assert labelled.class_counts().tolist() == [12] * 3 + [48]


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({}, "SCORES and --hierarchy"),
        ({"scores": Path("p.npz"), "hierarchy": True}, "SCORES and --hierarchy"),
        ({"scores": Path("p.npz"), "single_parent": True}, "--single-parent"),
        ({"hierarchy": True, "threshold": 25.0}, "--threshold"),
        ({"hierarchy": True, "type": "I"}, "--type I"),
        ({"hierarchy": True, "allow_empty_classes": True}, "--allow-empty-classes"),
    ],
    ids=["neither", "both", "single parent", "threshold", "type", "empty"],
)
def test_settings_of_the_other_way_are_refused(settings: dict, where: str):
    with pytest.raises(ConfigError, match=f"where: {where}"):
        Args(index=("s",), ontology=Path("o"), output=Path("no such"), **settings)


def test_audiosets_hierarchy_adds_about_what_is_published(meta: Path):
    """Of 107,289 real rows; published for all two millions: 1.98 to 2.39, in 109 classes."""
    index, ontology = audioset_index(meta), read_ontology(meta / "audioset_ontology.json")
    classes = read_class_list(meta / "audioset_class_labels_indices.csv")
    found = {}
    for through in (False, True):
        for single in (False, True):
            above = ontology.ancestor_pairs(classes, through_abstract=through, single_parent=single)
            report = enhancement_report(propagate(index, {"II": above}))
            before, clips = report["labels_before"], report["clips"]
            found[through, single] = (
                round(before / clips, 2),
                round((before + report["labels_added"]) / clips, 2),
                report["impacted_classes"],
            )
    assert found == {
        (False, False): (1.98, 2.36, 116),
        (False, True): (1.98, 2.31, 102),
        (True, False): (1.98, 2.36, 116),
        (True, True): (1.98, 2.31, 102),
    }


def test_training_and_its_draws_use_the_overlay(shards: Path, overlay: Path, tmp_path: Path):
    import torch

    from psla_wds.runtime.distributed import World

    config = replace(DEMO, index=(str(shards),), run_dir=tmp_path / "run", batch_size=4)
    world = World(0, 1, torch.device("cpu"))
    plain, _, _ = prepare_training(config, world)
    labelled, _, _ = prepare_training(replace(config, labels=overlay, subset=40), world)
    assert plain.class_counts()[NOISE] == 12
    assert labelled.class_counts()[NOISE] > 12 and len(labelled) == 40


def test_a_run_with_an_overlay_does_not_resume_without_it(
    shards: Path, overlay: Path, tmp_path: Path
):
    run_dir, scores = tmp_path / "run", tmp_path / "p"
    words = ["demo", f"--index={shards}", f"--run-dir={run_dir}", "--epochs=1", "--batch-size=24"]
    config = replace(parse([*words, "--features.num-frames=64"]), labels=overlay)
    train(config)
    assert json.loads((run_dir / "config.json").read_text())["labels"] == str(overlay)
    with pytest.raises(PslaError, match="the run was begun on other shards"):
        train(replace(config, labels=None, resume=True, epochs=2))
    named = [f"--index={shards}", f"--output={scores}", f"--labels={overlay}"]
    run_command("eval.predict", str(run_dir), *named)
    assert Scores.load(scores).targets.sum(axis=0).tolist() == [12, 12, 12, 24]


def test_an_overlay_of_other_clips_is_refused(shards: Path, overlay: Path):
    with pytest.raises(LabelError, match=r"another index: it has 48 clips.*this index 36"):
        apply_overlay(open_indexes([f"{shards}:train"]), overlay)
    with pytest.raises(LabelError, match="no label overlay here"):
        apply_overlay(open_indexes([str(shards)]), shards)


def swap_starts(folder: Path) -> None:
    starts = np.load(folder / "label_starts.npy")
    np.save(folder / "label_starts.npy", starts[::-1])


def high_class(folder: Path) -> None:
    values = np.load(folder / "label_values.npy")
    np.save(folder / "label_values.npy", values + np.uint16(1))


def other_class(folder: Path) -> None:
    values = np.load(folder / "label_values.npy")
    np.save(folder / "label_values.npy", values[::-1])


def with_meta(name: str, value: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        meta = json.loads((folder / META).read_text()) | {name: value}
        (folder / META).write_text(json.dumps(meta))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (swap_starts, "the starts of labels do not ascend to their end"),
        (high_class, "names a class that is not listed"),
        (lambda f: (f / META).write_text("{}"), "damaged: .*format_version"),
        (lambda f: (f / META).write_text("[" * 100_000), "damaged: .*maximum recursion"),
        (lambda f: (f / "label_values.npy").write_bytes(b""), "damaged"),
        (other_class, "label_values.npy has changed"),
        (with_meta("num_clips", "60"), "num_clips"),
        (with_meta("index_fingerprint", "0" * 64), "overlay.json has changed"),
        (lambda f: np.save(f / "label_values.npy", np.array([None])), "damaged"),
    ],
    ids=["starts", "values", "meta", "deep", "empty", "sum", "type", "own sum", "objects"],
)
def test_a_damaged_overlay_is_reported(shards: Path, overlay: Path, spoil: Callable, message: str):
    spoil(overlay)
    with pytest.raises(LabelError, match=message):
        apply_overlay(open_indexes([str(shards)]), overlay)


def without_a_clip(scores: Scores) -> Scores:
    keep = np.arange(len(scores)) != 5
    ids = tuple(np.array(scores.clip_ids)[keep].tolist())
    return replace(scores, clip_ids=ids, scores=scores.scores[keep], targets=scores.targets[keep])


def with_a_stranger(scores: Scores) -> Scores:
    return replace(scores, clip_ids=("stranger", *scores.clip_ids[1:]))


def other_order(scores: Scores) -> Scores:
    return replace(scores, mids=scores.mids[::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_clip, r"lack 1 of 48 clips \(clip\..*\), and have 0 unknown"),
        (with_a_stranger, r"lack 1 of 48 clips.*and have 1 unknown clips \(stranger\)"),
        (other_order, "the same classes in another order"),
        (lambda s: replace(s, mids=("/x", *s.mids[1:])), r"other classes \(4 where 4"),
    ],
    ids=["a clip less", "another clip", "class order", "other class"],
)
def test_scores_that_do_not_fit_are_refused(
    shards: Path, teacher: Path, ontology: Path, tmp_path: Path, change: Callable, message: str
):
    change(Scores.load(teacher)).save(teacher)
    args = Args(scores=teacher, index=(str(shards),), ontology=ontology, output=tmp_path / "o")
    with pytest.raises(ScoreError, match=message):
        run(args)
    assert not list(tmp_path.glob("o*/"))


def refused(args: Args, message: str) -> None:
    with pytest.raises(PslaError, match=message):
        run(args)
    assert not args.output.exists()


def test_bad_scores_ontologies_and_settings_are_refused(
    shards: Path, teacher: Path, ontology: Path, tmp_path: Path
):
    args = Args(scores=teacher, index=(str(shards),), ontology=ontology, output=tmp_path / "o")
    for children, message in (
        ({"/t/3": ["/t/0"], "/t/0": ["/t/3"], "/t/1": [], "/t/2": []}, "has a cycle"),
        ({"/t/3": ["/t/0"]}, "does not know 2 of 4 classes: /t/1, /t/2"),
    ):
        bad = write_ontology(tmp_path / "bad.json", children, set())
        refused(replace(args, ontology=bad), message)
    refused(replace(args, scores=tmp_path / "none.npz"), "it does not exist")
    arrays = dict(np.load(teacher))
    arrays["scores"][7, 2] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    refused(replace(args, scores=tmp_path / "nan.npz"), r"not finite.*\(nan\)")
    with pytest.raises(ConfigError, match="threshold=101"):
        replace(args, threshold=101.0)


def test_a_class_without_clips_is_named_before_it_is_left_out(
    corpus: Path, ontology: Path, tmp_path: Path, one_process: None
):
    """Shards of all clips but noise, which all others are."""
    rows = [
        line for line in (corpus / "clips.jsonl").read_text().splitlines() if '"noise"' not in line
    ]
    for name in corpus.glob("clip.*"):
        (tmp_path / name.name).symlink_to(name)
    (tmp_path / "clips.jsonl").write_text("\n".join(rows))
    (tmp_path / "classes.csv").symlink_to(corpus / "classes.csv")
    build(tmp_path, tmp_path / "s")
    index = open_indexes([str(tmp_path / "s")])
    ids = tuple(index.clip_id(row) for row in range(len(index)))
    targets = index.targets(np.arange(len(ids))).astype(np.uint8)
    path = tmp_path / "teacher.npz"
    Scores(ids, np.ones((len(ids), 4), np.float32), targets, index.classes.mids, TINY_CLASSES).save(
        path
    )
    args = Args(scores=path, index=(str(tmp_path / "s"),), ontology=ontology, output=tmp_path / "o")
    refused(args, "1 classes that could be added have no clip.*: noise")
    report = run(replace(args, allow_empty_classes=True))
    assert report["labels_added"] == 0 and report["per_class"][NOISE]["threshold"] is None
