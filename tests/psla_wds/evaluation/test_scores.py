"""The score file: what goes in comes out, and a bad one says what is wrong with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command

from psla_wds.errors import PslaError, ScoreError
from psla_wds.evaluation import score_folder
from psla_wds.evaluation.scores import Scores
from psla_wds.labels.class_list import ClassList
from psla_wds.shards.clip_ids import ClipIds


@pytest.fixture
def scores() -> Scores:
    rng = np.random.default_rng(0)
    return Scores(
        clip_ids=tuple(f"clip-{i}" for i in range(40)),
        scores=rng.random((40, 5), np.float32),
        targets=rng.integers(0, 2, (40, 5), np.uint8),
        mids=tuple(f"/m/{k}" for k in range(5)),
        names=("Speech", "Rain, on a roof", "Hund ä", "Silence", "Dog"),
    )


@pytest.fixture
def score_path(scores: Scores, tmp_path: Path) -> Path:
    scores.save(tmp_path / "scores.npz")
    return tmp_path / "scores.npz"


@pytest.mark.parametrize("spread", [0.0, 1e-4, 0.1])
def test_a_model_that_scores_all_alike_is_reported(
    scores: Scores, spread: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    noise = np.random.default_rng(0).random(scores.scores.shape, np.float32)
    values = np.linspace(0, 1, 5, dtype=np.float32) + spread * noise
    replace(scores, scores=values).save(tmp_path / "alike.npz")
    done = run_command("eval.score", tmp_path / "alike.npz", f"--output={tmp_path}/report")
    assert ("nearly the same scores" in done.stderr) == (spread < 0.01)


def test_scores_come_back_as_they_were_saved(scores: Scores, score_path: Path):
    loaded = Scores.load(score_path)
    for name in ("clip_ids", "mids", "names"):
        assert getattr(loaded, name) == getattr(scores, name)
    np.testing.assert_array_equal(loaded.scores, scores.scores)
    np.testing.assert_array_equal(loaded.targets, scores.targets)
    assert [p.name for p in score_path.parent.iterdir()] == ["scores.npz"]


def test_what_could_not_be_loaded_is_not_saved(scores: Scores, tmp_path: Path):
    with pytest.raises(ScoreError, match="clip-0"):
        replace(scores, clip_ids=("clip-0",) * 40).save(tmp_path / "twice.npz")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folder(scores: Scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same scores as a folder, which is read in blocks of 7 rows."""
    monkeypatch.setattr(score_folder, "ROWS_AT_ONCE", 7)
    classes = ClassList(scores.mids, scores.names)
    writer = score_folder.ScoreFolder(tmp_path / "folder", classes)
    writer.begin(ClipIds.of(scores.clip_ids))
    for name in ("scores", "targets"):
        writer.open(name)[:] = getattr(scores, name)
    assert not (tmp_path / "folder").exists()
    writer.finish()
    return tmp_path / "folder"


def test_a_folder_holds_the_same_as_a_file_and_is_mapped(scores: Scores, folder: Path):
    loaded = Scores.load(folder)
    for name in ("clip_ids", "mids", "names"):
        assert getattr(loaded, name) == getattr(scores, name)
    assert not (loaded.scores.flags.writeable or loaded.targets.flags.writeable)  # mapped
    order = np.random.default_rng(1).permutation(40)
    for name in ("scores", "targets"):
        expected = getattr(scores, name)
        np.testing.assert_array_equal(getattr(loaded, name), expected)
        blocks = list(score_folder.row_blocks(getattr(loaded, name), order))
        assert [len(block) for _, block in blocks] == [7, 7, 7, 7, 7, 5]
        np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), expected[order])
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_a_place_that_cannot_be_written_is_named(scores: Scores, score_path: Path):
    writer = score_folder.ScoreFolder(score_path / "folder", ClassList(scores.mids, scores.names))
    with pytest.raises(PslaError, match="cannot write the scores: Not a directory"):
        writer.begin(ClipIds.of(scores.clip_ids))
    with pytest.raises(PslaError, match="cannot write the score file: File exists"):
        scores.save(score_path / "scores.npz")
    (score_path.parent / "there").mkdir()
    writer = score_folder.ScoreFolder(score_path.parent / "there", ClassList((), ()))
    with pytest.raises(ScoreError, match="the output exists already"):
        writer.begin(ClipIds.of(scores.clip_ids))


def replace_text(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def test_a_compressed_file_is_refused(score_path: Path, tmp_path: Path):
    np.savez_compressed(tmp_path / "c.npz", **dict(np.load(score_path)))
    with pytest.raises(ScoreError, match="compressed"):
        Scores.load(tmp_path / "c.npz")


def spoil_array(name: str, array: np.ndarray):
    return lambda folder: np.save(folder / f"{name}.npy", array)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "scores.npy").unlink(), "it lacks .*scores.npy"),
        (lambda f: (f / "scores.json").write_text("{}"), "format_version"),
        (lambda f: (f / "scores.npy").write_bytes(b""), "cut short"),
        (spoil_array("scores", np.full((40, 5), np.nan, np.float32)), "200 scores are not finite"),
        (spoil_array("scores", np.zeros((39, 5), np.float32)), "with as many clips"),
        (spoil_array("id_starts", np.zeros(41, np.int64)), "starts of clip ids do not ascend"),
        (spoil_array("scores", np.zeros((40, 5), np.float32)), "scores.npy has changed"),
        (lambda f: replace_text(f / "scores.json", "Speech", "Cat"), "scores.json has changed"),
        (lambda f: replace_text(f / "scores.json", '"Dog"', "7"), "names"),
    ],
    ids=["no scores", "meta", "empty", "nan", "a clip less", "ids", "values", "a name", "a number"],
)
def test_a_bad_folder_says_what_is_wrong(folder: Path, spoil, message: str):
    spoil(folder)
    with pytest.raises(ScoreError, match=message):
        Scores.load(folder)


def test_rows_are_found_by_clip_id_in_any_order(scores: Scores):
    order = np.random.default_rng(0).permutation(40)
    wanted = [scores.clip_ids[i] for i in order]
    assert scores.rows_of(wanted, where="here").tolist() == order.tolist()
    with pytest.raises(ScoreError, match=r"lack 1 of 41 clips \(x\), and have 0 unknown"):
        scores.rows_of([*wanted, "x"], where="here")
    with pytest.raises(ScoreError, match=r"lack 0 of 39 clips, and have 1 unknown"):
        scores.rows_of(wanted[:-1], where="here")


def changed(**arrays: object):
    """A way to spoil a score file: some of its arrays replaced, or left out (None)."""

    def spoil(path: Path) -> None:
        whole = dict(np.load(path)) | arrays
        np.savez(path, **{k: v for k, v in whole.items() if v is not None})

    return spoil


def change_a_byte(path: Path) -> None:
    """Of a name: the layout is still right, only the zip's checksum is not."""
    whole = path.read_bytes()
    assert "Speech".encode("utf-32-le") in whole
    path.write_bytes(whole.replace("Speech".encode("utf-32-le"), "Speeck".encode("utf-32-le")))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "it does not exist"),
        (lambda p: p.write_bytes(p.read_bytes()[:900]), "not an .npz, or it is cut short"),
        (change_a_byte, "not an .npz, or it is cut short"),
        (changed(names=None), "names is not a file in the archive"),
        (changed(scores=np.zeros((40, 5))), r"scores is float64 \(40, 5\), expected float32"),
        (changed(targets=np.zeros((39, 5), np.uint8)), r"targets is uint8 \(39, 5\)"),
        (changed(clip_ids=np.array(["a"] * 40)), "clip_ids must be unique, but 'a' occurs 40"),
        (changed(scores=np.full((40, 5), -np.inf, np.float32)), r"\(-inf\) for clip clip-0, class"),
        (changed(targets=np.full((40, 5), 2, np.uint8)), r"200 targets are not 0 or 1.*clip-0"),
        (changed(scores=np.zeros((0, 5), np.float32), targets=np.zeros((0, 5), np.uint8),
                 clip_ids=np.array([], np.str_)), "it has no scores"),
    ],
    ids=["missing", "truncated", "a byte changed", "lacks an array", "float64", "a clip less",
         "clip twice", "inf", "target 2", "no clips"],
)  # fmt: skip
def test_a_bad_score_file_says_what_is_wrong(score_path, spoil, message):
    spoil(score_path)
    with pytest.raises(ScoreError, match=message) as caught:
        Scores.load(score_path)
    _, where, fix = str(caught.value).splitlines()
    assert where == f"  where: {score_path}"
    assert f"psla-wds predict RUN --index SHARDS --output {score_path}" in fix
