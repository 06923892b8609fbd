"""Labels hidden and put back: what is hidden, and what the tables say of known teachers."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from label_overlays import named_index, write_ontology
from run_folders import epoch_line, write_run

from benchmarks import hidden_labels
from benchmarks.tables import markdown
from psla_wds.errors import PslaError
from psla_wds.evaluation.scores import Scores
from psla_wds.shards.index import ShardIndex

MIDS = ("animal", "dog", "bark", "bird", "rain")
BELOW = {"animal": ["dog", "bird"], "dog": ["bark"], "rain": []}
LABELS = ([0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1], [0, 3], [0], [0], [4], [0, 1, 2, 3, 4])
CLIPS = named_index({f"clip {n}": LABELS[n % len(LABELS)] for n in range(300)}, MIDS)
WORDS = ("--index=train", "--eval-index=eval", "--epochs=1")
OVER = {"dog": ["animal"], "bark": ["animal", "dog"], "bird": ["animal"]}
CHILD, ABOVE = (
    np.array([[c in found.get(mid, ()) for c in MIDS] for mid in MIDS]) for found in (BELOW, OVER)
)
QUALITY = {"hidden": 0.2, "both-mean": 0.1, "II-none": 0.4, "complete": 0.7}
PAIRS = {"I": CHILD, "II": ABOVE}


def matrix(index: ShardIndex) -> np.ndarray:
    return np.array([[k in index.labels(row) for k in range(5)] for row in range(len(index))])


def hidden(share: float = 0.3, seed: int = 0) -> ShardIndex:
    return hidden_labels.hide(CLIPS, PAIRS, share, np.random.default_rng(seed))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_what_is_hidden_follows_from_what_stays(share: float):
    complete, visible = matrix(CLIPS), matrix(hidden(share))
    assert (visible <= complete).all() and visible.any(axis=1).all()
    gone = complete & ~visible
    assert (gone <= (visible @ (CHILD | ABOVE))).all()
    assert gone[:, :4].any(axis=0).all() and not gone[:, 4].any()  # rain has no relative


def test_seeds_hide_other_labels_and_a_seed_the_same():
    assert (matrix(hidden()) == matrix(hidden())).all()
    assert (matrix(hidden()) != matrix(hidden(seed=1))).any()
    assert (matrix(hidden(share=0)) == matrix(CLIPS)).all()


def test_a_label_is_hidden_with_the_given_chance():
    drawn = SimpleNamespace(random=lambda shape: np.tile([0.29, 0.31, 0.99, 0.3, 0.0], (300, 1)))
    done = hidden_labels.hide(CLIPS, PAIRS, 0.3, drawn)
    first = [list(done.labels(row)) for row in range(len(LABELS))]
    assert first == [[1, 2], [1, 2], [1, 2], [1], [3], [0], [0], [4], [1, 2, 3, 4]]


class Commands:
    """Commands that leave what training and a teacher of these scores would leave."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores, self.done = scores, []

    def __call__(self, command: list[str]) -> int:
        name, flags = command[3], dict(w.split("=", 1) for w in command if "=" in w)
        self.done.append(name)
        if name == "predict":
            ids = tuple(CLIPS.clip_id(row) for row in range(len(CLIPS)))
            targets = np.zeros(self.scores.shape, np.uint8)
            scored = Scores(ids, self.scores, targets, MIDS, MIDS)
            scored.save(Path(flags["--output"]))
            return 0
        quality = QUALITY[Path(flags["--run-dir"]).name]
        folder = write_run(Path(flags["--run-dir"]), [epoch_line(1, quality)], epochs=1)
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints/epoch-001.pt").touch()
        return 0


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    ontology = write_ontology(tmp_path / "ontology.json", BELOW, set())
    monkeypatch.setattr(hidden_labels, "open_indexes", lambda specs: CLIPS)

    def measure(commands: Commands, *more: str, data: tuple[str, ...] = WORDS) -> dict:
        words = [f"--ontology={ontology}", f"--work={tmp_path / 'w'}", *data]
        words += ["--seeds=1", f"--output={tmp_path / 'record.json'}", *more]
        monkeypatch.setattr(sys, "argv", ["hidden_labels", *words])
        hidden_labels.main(commands)
        return json.loads((tmp_path / "record.json").read_text())

    return measure


def rows_of(content: dict) -> dict[tuple[str, str], dict]:
    back = content["tables"][0]["rows"]
    return {(row["type"], row["threshold"]): row["seeds"][0] for row in back}


def test_a_teacher_that_knows_puts_all_back_and_no_other(measured):
    complete, visible = matrix(CLIPS), matrix(hidden())
    scores = np.select([complete & ~visible, visible], [0.9, 0.5], 0.1).astype(np.float32)
    rows = rows_of(measured(Commands(scores)))
    for (_, threshold), row in rows.items():
        assert row["recall"] == 1.0
        assert threshold == "none" or row["precision"] == 1.0
    assert rows["II", "none"]["precision"] == 1.0  # what is above a true label is true
    assert rows["I", "none"]["precision"] < 0.6  # and what is below may be anything
    gone = complete & ~visible
    usual, others = (rows[f"I, {part}", "none"] for part in ("usual", "others"))
    dog = gone[:, 1] & visible[:, 0] & ~visible[:, 2]  # what barks is a dog, mostly
    assert others["missing"] == (gone[:, 3] & visible[:, 0]).sum() + dog.sum()
    assert usual["missing"] + others["missing"] == rows["I", "none"]["missing"] > dog.sum()
    assert usual["precision"] > 0.5 > others["precision"]
    assert rows["both", "mean"]["missing"] == gone.sum()
    assert rows["I", "mean"]["missing"] == (gone & (visible @ CHILD)).sum() < gone.sum()


def test_students_are_compared_and_nothing_runs_twice(measured, tmp_path: Path):
    commands = Commands(np.full((300, 5), 0.5, np.float32))
    weights = f"--model.initial-weights={tmp_path / 'weights.pth'}"
    first = measured(commands, weights)
    assert str(tmp_path) not in json.dumps(first)  # a record names no place
    assert commands.done == ["train", "predict", "train", "train", "train"]
    assert rows_of(first)["both", "mean"]["added"] == 0  # no score is above the mean
    students = first["tables"][1]["rows"]
    assert [row["name"] for row in students] == ["hidden", "both, mean", "II, none", "complete"]
    assert [row["change"] for row in students] == [None, "-0.100", "+0.200", "+0.500"]
    assert students[0]["labels_per_clip"] == students[1]["labels_per_clip"] < 21 / 9
    assert measured(commands, weights) == first and len(commands.done) == 5
    assert "| II | none | " in markdown(first) and "Mean ± deviation; seeds: 1." in markdown(first)
    with pytest.raises(PslaError, match="begun with other settings"):
        measured(commands, weights, "--share=0.5")


def test_mistakes_are_reported_before_anything_runs(measured, tmp_path: Path):
    commands = Commands(np.zeros((300, 5)))
    with pytest.raises(PslaError, match="there are no labels mean"):
        measured(commands, "--students", "mean")
    with pytest.raises(PslaError, match="scored on other clips"):
        measured(commands, data=WORDS[:1])
    assert not commands.done and not (tmp_path / "w").exists()
