"""Teachers for distillation: the highest scores of one model, or the mean of several."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from psla_wds.errors import ConfigError, ScoreError
from psla_wds.evaluation import score_folder
from psla_wds.evaluation.score_folder import ScoreFolder, is_top_scores, read_top_scores
from psla_wds.evaluation.scores import Scores
from psla_wds.labels.class_list import ClassList
from psla_wds.progress import progress_bar
from psla_wds.shards.clip_ids import NOT_THERE, ClipIds
from psla_wds.shards.index import ShardIndex, combined_fingerprint
from psla_wds.shards.soft_labels import SoftLabels


def apply_teacher(index: ShardIndex, folder: Path) -> ShardIndex:
    """Index with a teacher's scores as soft labels, found by clip id.

    A clip without scores is an error; the teacher may have scored other clips too. The fingerprint
    covers the scores: a run does not resume with another teacher's.
    """
    top = read_top_scores(folder)
    if top.mids != index.classes.mids:
        raise ScoreError(
            f"the teacher's classes are not those of the shards ({len(top.mids)} and "
            f"{len(index.classes)}, or in another order)",
            where=folder,
            fix="use a teacher that was trained on the class list of these shards",
        )
    rows = top.clip_ids.rows_of(index.clip_ids)
    missing = np.flatnonzero(rows == NOT_THERE)
    if len(missing):
        examples = ", ".join(index.clip_id(row) for row in missing[:3])
        raise ScoreError(
            f"the teacher has not scored {len(missing):,} of {len(index):,} clips: {examples}",
            where=folder,
            fix="score all clips: psla-wds predict with the --index options of the training",
        )
    return replace(
        index,
        soft_labels=SoftLabels(top.scores, top.classes, rows, len(index.classes)),
        fingerprint=combined_fingerprint([index.fingerprint, f"teacher {top.fingerprint}"]),
    )


@dataclass(frozen=True)
class _Model:
    """Scores of one model: all, or only the highest of each clip."""

    path: Path
    clip_ids: ClipIds
    classes: ClassList
    scores: np.ndarray | SoftLabels

    def of_rows(self, rows: Int64[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows classes"]:
        """Scores cut to [0, 1]; 0 for a class whose score was not kept."""
        if isinstance(self.scores, SoftLabels):
            return self.scores.targets(rows)
        return np.asarray(self.scores[rows]).clip(0, 1)


def joint_teacher(paths: Sequence[Path], output: Path, top_k: int) -> int:
    """Write the highest mean scores of every clip, in the order of the first file.

    Scores are cut to [0, 1] before averaging, as a student learns them.

    Returns:
        The number of clips.
    """
    models = [_open(path) for path in paths]
    first = models[0]
    if top_k > len(first.classes):
        raise ConfigError(
            f"a clip has {len(first.classes)} scores, not {top_k}",
            where="--top-k",
            fix=f"set --top-k to at most {len(first.classes)}",
        )
    places = [_rows_like(model, first) for model in models]
    folder = ScoreFolder(output, first.classes, top_k=top_k)
    folder.begin(first.clip_ids)
    num_clips = len(first.clip_ids)
    with progress_bar(desc="mean scores", total=num_clips) as bar:
        for start in range(0, num_clips, score_folder.ROWS_AT_ONCE):
            rows = np.arange(start, min(start + score_folder.ROWS_AT_ONCE, num_clips))
            parts = (m.of_rows(place[rows]) for m, place in zip(models, places, strict=True))
            total = sum(parts, np.zeros((len(rows), len(first.classes))))
            folder.write(rows, (total / len(models)).astype(np.float32))
            bar.update(len(rows))
    folder.finish()
    return num_clips


def _open(path: Path) -> _Model:
    if is_top_scores(path):
        top = read_top_scores(path)
        rows = np.arange(len(top.clip_ids))
        soft = SoftLabels(top.scores, top.classes, rows, len(top.mids))
        return _Model(path, top.clip_ids, ClassList(top.mids, top.names), soft)
    scores = Scores.load(path)
    classes = ClassList(scores.mids, scores.names)
    return _Model(path, ClipIds.of(scores.clip_ids), classes, scores.scores)


def _rows_like(model: _Model, first: _Model) -> Int64[np.ndarray, " clips"]:
    """Rows of a model's scores in the order of the clips of `first`; both must have the same
    clips."""
    if model.classes.mids != first.classes.mids:
        raise ScoreError(
            f"the classes differ from those of {first.path}, or their order does",
            where=model.path,
            fix="use models of one class list",
        )
    rows = model.clip_ids.rows_of(first.clip_ids)
    missing = np.flatnonzero(rows == NOT_THERE)
    if len(missing) or len(model.clip_ids) != len(first.clip_ids):
        example = f", such as {first.clip_ids[missing[0]]}" if len(missing) else ""
        raise ScoreError(
            f"the {len(model.clip_ids):,} clips lack {len(missing):,} of the "
            f"{len(first.clip_ids):,} of {first.path}{example}",
            where=model.path,
            fix="score the same clips with all models: psla-wds predict with one --index",
        )
    return rows
