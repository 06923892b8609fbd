"""Changed score files: refused, or what they were."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fuzz.mutations import changed_bytes, npy_bytes, rezipped
from fuzz.properties import Trap, accepted, fuzz, limited_memory, tiers
from hypothesis import strategies as st

from psla_wds.errors import ScoreError
from psla_wds.evaluation.score_folder import ScoreFolder
from psla_wds.evaluation.scores import LAYOUT, Scores
from psla_wds.labels.class_list import ClassList
from psla_wds.shards.clip_ids import ClipIds

SCORES = Scores(
    clip_ids=("a", "b", "c"),
    scores=np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2),
    targets=np.array([[1, 0], [0, 1], [1, 1]], np.uint8),
    mids=("/t/0", "/t/1"),
    names=("low", "high"),
)


def texts_of(scores: Scores) -> tuple[object, ...]:
    return scores.clip_ids, scores.mids, scores.names, scores.origins


ARRAYS = {n: np.asarray(getattr(SCORES, n), dtype) for n, (dtype, _) in LAYOUT.items()}


@tiers(40, 4000)
def test_changed_scores_are_refused_or_what_they_were(tmp_path: Path, num_cases: int):
    path = tmp_path / "p.npz"
    SCORES.save(path)
    archive = path.read_bytes()

    def changed(archive: bytes) -> None:
        path.write_bytes(archive)
        scores = accepted(lambda: Scores.load(path))
        if scores:
            assert np.isfinite(scores.scores).all() and scores.targets.max() <= 1
            assert scores.scores.shape == (len(set(scores.clip_ids)), len(set(scores.mids)))

    def damaged(archive: bytes) -> None:
        path.write_bytes(archive)
        scores = accepted(lambda: Scores.load(path))
        if scores:
            assert np.array_equal(scores.scores, SCORES.scores)
            assert texts_of(scores) == texts_of(SCORES)

    fuzz(num_cases // 2, changed_bytes(archive), damaged)
    fuzz(num_cases // 2, rezipped(archive), changed)


@tiers(40, 4000)
def test_a_changed_score_folder_is_refused(tmp_path: Path, num_cases: int):
    folder = tmp_path / "scores"
    writer = ScoreFolder(folder, ClassList(SCORES.mids, SCORES.names))
    writer.begin(ClipIds.of(SCORES.clip_ids))
    for name in ("scores", "targets"):
        writer.open(name)[:] = getattr(SCORES, name)
    writer.finish()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}

    def changed(case: tuple[str, bytes]) -> None:
        name, content = case
        (folder / name).write_bytes(content)
        scores = accepted(lambda: Scores.load(folder))
        (folder / name).write_bytes(whole[name])
        if scores:
            assert texts_of(scores) == texts_of(SCORES)
            assert np.array_equal(scores.scores, SCORES.scores)
            assert np.array_equal(scores.targets, SCORES.targets)

    names = st.sampled_from(sorted(whole))
    fuzz(
        num_cases, names.flatmap(lambda n: st.tuples(st.just(n), changed_bytes(whole[n]))), changed
    )


def test_scores_that_would_run_code_do_not(tmp_path: Path):
    canary = tmp_path / "canary"
    np.savez(tmp_path / "p.npz", **ARRAYS | {"mids": np.array([Trap(canary)] * 2, object)})
    with pytest.raises(ScoreError, match="Python objects"):
        Scores.load(tmp_path / "p.npz")
    assert not canary.exists()


def test_scores_that_claim_gigabytes_take_no_memory(tmp_path: Path):
    path = tmp_path / "p.npz"
    SCORES.save(path)
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2147483648, 2)}"
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in (members | {"scores.npy": npy_bytes(header, bytes(24))}).items():
            target.writestr(name, content)
    with pytest.raises(ScoreError), limited_memory():
        Scores.load(path)


@pytest.mark.parametrize("character", [0x110000, 0xD800], ids=["above Unicode", "half a pair"])
def test_text_that_utf_8_cannot_hold_is_refused(tmp_path: Path, character: int):
    names = ARRAYS["names"].copy()
    names.view(np.uint32)[0] = character
    np.savez(tmp_path / "p.npz", **ARRAYS | {"names": names})
    with pytest.raises(ScoreError, match="UTF-8"):
        Scores.load(tmp_path / "p.npz")
