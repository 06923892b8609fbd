"""Scores that do not fit: each command that reads them says so once, and leaves nothing behind."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from label_overlays import named_index
from scored_models import model

from eval import compare, ensemble, score
from psla_wds.errors import ScoreError
from psla_wds.evaluation.mapping import map_scores, read_mapping, with_targets
from psla_wds.evaluation.scores import Scores

COMMANDS = {
    "compare": (compare.main, ["--output=OUT/c.json"]),
    "ensemble": (ensemble.main, ["--output=OUT/e.npz"]),
    "score": (score.main, ["--output=OUT/s"]),
    "teacher": (ensemble.main, ["--output=OUT/t", "--top-k=2"]),
}


def nan(path: Path, scores: Scores) -> None:
    scores.save(path)
    arrays = dict(np.load(path))
    arrays["scores"][3, 1] = np.nan
    np.savez(path, **arrays)


def class_order(path: Path, scores: Scores) -> None:
    replace(scores, mids=scores.mids[::-1], names=scores.names[::-1]).save(path)


def a_stranger(path: Path, scores: Scores) -> None:
    replace(scores, clip_ids=("x", *scores.clip_ids[1:])).save(path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan, "not finite.*clip-3, class /m/1"),
        (class_order, "another order|or their order"),
        (a_stranger, "(miss|lack) 1 of "),
    ],
)
def test_bad_scores_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, spoil: Callable, message: str
):
    if (command == "score" and spoil is not nan) or (command == "compare" and spoil is a_stranger):
        pytest.skip("one model has nothing to fit; models are compared on the clips that all have")
    main, flags = COMMANDS[command]
    output = tmp_path / "out"
    output.mkdir()
    model(1).save(tmp_path / "a.npz")
    spoil(tmp_path / "b.npz", model(2))
    words = ["b.npz"] if command == "score" else ["a.npz", "b.npz"]
    words = [str(tmp_path / name) for name in words]
    words += [flag.replace("OUT", str(output)) for flag in flags]
    monkeypatch.setattr(sys, "argv", [command, *words])
    with pytest.raises(ScoreError, match=message):
        main()
    assert not list(output.iterdir())


@pytest.mark.parametrize("way", ["targets", "mapping"])
@pytest.mark.parametrize(
    ("clips", "message"),
    [(("a", "b"), "lack 1 of 2 clips \\(b\\)"), (("c", "a", "x"), "have 1 unknown .*\\(d\\)")],
    ids=["a clip that was not scored", "a clip that is not there"],
)
def test_scores_of_other_clips_are_refused(
    tmp_path: Path, way: str, clips: tuple[str, ...], message: str
):
    classes = ("/m/0", "/m/1")
    index = named_index({clip_id: [0] for clip_id in clips}, classes)
    zeros = np.zeros((3, 2), np.uint8)
    scores = Scores(("a", "c", "d"), np.ones((3, 2), np.float32), zeros, classes, classes)
    (tmp_path / "m.csv").write_text("class,mids,match,used\n/m/0,/m/0,exact,yes\n")
    with pytest.raises(ScoreError, match=message):
        if way == "targets":
            with_targets(scores, index, where="p.npz")
        else:
            map_scores(scores, index, read_mapping(str(tmp_path / "m.csv")), "first")


def test_a_run_in_place_of_its_scores_is_named(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(
        ScoreError, match=r"folder of a run\n.*\n.*name its scores, .*run/scores\.npz"
    ):
        Scores.load(tmp_path / "run")
