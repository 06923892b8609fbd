"""What models reach on the clips that all of them scored, and how sure the differences are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from eval.correlations import Correlation, correlate
from eval.run_settings import differing_settings
from eval.scored_runs import Scored, current_scored, predict_again
from psla_wds.errors import ScoreError
from psla_wds.evaluation.bootstrap import (
    Bounds,
    Intervals,
    Resampled,
    difference_bounds,
    difference_ends,
    resampled_metrics,
    resampled_weights,
)
from psla_wds.evaluation.metrics import Metrics, evaluate
from psla_wds.evaluation.scores import Scores
from train.run.log import Run, read_run

MEANS = ("mAP", "mAUC", "d_prime")
SCORES_OF_A_RUN = "scores.npz"


@dataclass(frozen=True)
class Candidate:
    """What is compared: a run and its scores, or a score file alone."""

    name: str
    scores: Path
    run: Run | None


@dataclass(frozen=True)
class Model:
    """A candidate's results; on the common clips but for `clips` and `mAP_of_all`."""

    candidate: Candidate
    scored: Scored | None
    """Which weights of the run; None for a score file alone."""
    clips: int
    """That it scored."""
    mAP_of_all: float  # noqa: N815 (the field's name)
    metrics: Metrics
    intervals: Intervals | None


@dataclass(frozen=True)
class Change:
    """From the first model to another one, on the same clips."""

    means: dict[str, float]
    """Differences of mAP, mAUC and d'."""
    bounds: dict[str, Bounds]
    """Of these, paired: both models have the same resamples. Empty without any."""
    class_AP: Float64[np.ndarray, " classes"]  # noqa: N815 (the field's name)
    """Differences of each class's average precision; NaN where it is not defined."""
    class_bounds: Float64[np.ndarray, "2 classes"]
    """Of these; NaN without resamples."""
    correlation: Correlation
    """Of the classes' average precision in both."""

    def is_clear(self, mean: str) -> bool:
        """Whether the interval of a mean's difference leaves 0 out."""
        found = self.bounds.get(mean)
        return found is not None and (found.low > 0 or found.high < 0)


@dataclass(frozen=True)
class Comparison:
    models: tuple[Model, ...]
    changes: tuple[Change, ...]
    """Of every model but the first, from the first."""
    common_clips: int
    mids: tuple[str, ...]
    names: tuple[str, ...]
    settings: dict[str, list[str]]
    """Settings that are not the same in all runs, with their value in each run."""
    resamples: int

    @property
    def runs(self) -> list[tuple[str, Run]]:
        """The runs among what is compared, by name."""
        named = [(model.candidate.name, model.candidate.run) for model in self.models]
        return [(name, run) for name, run in named if run]


def compare(paths: Sequence[Path], *, resamples: int = 0) -> Comparison:
    """Compare runs or score files of one class list, on the clips that all have.

    Raises `ScoreError` for other classes, other targets, or no clip in common.
    """
    if len(paths) < 2:
        where = " ".join(map(str, paths))
        raise ScoreError("there is nothing to compare", where=where, fix="name two runs or more")
    candidates = find_candidates(paths)
    all_scores = [Scores.load(candidate.scores) for candidate in candidates]
    scored = [_scored(*pair) for pair in zip(candidates, all_scores, strict=True)]
    common = _on_common_clips(all_scores, candidates)
    metrics = [_evaluate(scores) for scores in common]
    resampled = _resampled(common, candidates, resamples)
    runs = [candidate.run for candidate in candidates if candidate.run]
    models = [
        Model(
            candidate,
            of,
            len(scores),
            _evaluate(scores).mAP,
            found,
            again and again.intervals(found),
        )
        for candidate, of, scores, found, again in zip(
            candidates, scored, all_scores, metrics, resampled, strict=True
        )
    ]
    changes = [
        _change(metrics[0], other, resampled[0], again)
        for other, again in zip(metrics[1:], resampled[1:], strict=True)
    ]
    return Comparison(
        tuple(models),
        tuple(changes),
        len(common[0]),
        common[0].mids,
        common[0].names,
        differing_settings(runs) if len(runs) > 1 else {},
        resamples,
    )


def find_candidates(paths: Sequence[Path]) -> list[Candidate]:
    """The run or score file at each path; names that are not unique become paths."""
    found = [_find(path) for path in paths]
    counts = Counter(candidate.name for candidate in found)
    return [
        replace(candidate, name=str(path)) if counts[candidate.name] > 1 else candidate
        for candidate, path in zip(found, paths, strict=True)
    ]


def _find(path: Path) -> Candidate:
    if not (path / "config.json").exists() and not (path / "log.jsonl").exists():
        return Candidate(path.stem, path, None)
    run, scores = read_run(path), path / SCORES_OF_A_RUN
    if not scores.exists():
        raise ScoreError(
            f"the run has no {SCORES_OF_A_RUN}",
            where=path,
            fix=predict_again(path, scores),
        )
    return Candidate(path.resolve().name, scores, run)


def _scored(candidate: Candidate, scores: Scores) -> Scored | None:
    """Which weights of its run; an error if the run has others by now."""
    if candidate.run is None:
        return None
    return current_scored(scores.origins, candidate.run.folder, where=candidate.scores)


def _on_common_clips(all_scores: Sequence[Scores], candidates: Sequence[Candidate]) -> list[Scores]:
    """The scores of the clips that all have, in one order."""
    common = set.intersection(*(set(scores.clip_ids) for scores in all_scores))
    if not common:
        raise ScoreError(
            "no clip is in all of them",
            where=" ".join(str(candidate.scores) for candidate in candidates),
            fix="compare scores of one evaluation set",
        )
    like = _only(all_scores[0], common)
    return [
        _only(scores, common).aligned(like, where=candidate.scores)
        for scores, candidate in zip(all_scores, candidates, strict=True)
    ]


def _only(scores: Scores, clip_ids: set[str]) -> Scores:
    if len(clip_ids) == len(scores):
        return scores
    rows = np.flatnonzero([clip_id in clip_ids for clip_id in scores.clip_ids])
    return replace(
        scores,
        clip_ids=tuple(scores.clip_ids[row] for row in rows),
        scores=scores.scores[rows],
        targets=scores.targets[rows],
    )


def _evaluate(scores: Scores) -> Metrics:
    return evaluate(scores.scores, scores.targets)


def _resampled(
    common: Sequence[Scores], candidates: Sequence[Candidate], resamples: int
) -> list[Resampled | None]:
    """Each model in the same resamples of the clips."""
    if not resamples:
        return [None] * len(common)
    weights = resampled_weights(len(common[0]), resamples)
    return [
        resampled_metrics(scores.scores, scores.targets, weights, what=candidate.name)
        for scores, candidate in zip(common, candidates, strict=True)
    ]


def _change(
    first: Metrics, other: Metrics, first_again: Resampled | None, again: Resampled | None
) -> Change:
    means = {name: getattr(other, name) - getattr(first, name) for name in MEANS}
    class_ap = other.average_precision - first.average_precision
    found, of_classes = {}, np.full((2, len(class_ap)), np.nan)
    if first_again and again:
        before, after = first_again.means(), again.means()
        with np.errstate(invalid="ignore"):  # d' is infinite where all pairs are ranked rightly
            differences = {name: after[name] - before[name] for name in MEANS}
        found = {name: difference_bounds(means[name], differences[name]) for name in MEANS}
        resampled = again.average_precision - first_again.average_precision
        of_classes = difference_ends(class_ap, resampled)
    correlation = correlate(first.average_precision, other.average_precision)
    return Change(means, found, class_ap, of_classes, correlation)
