"""A comparison of models on the clips that all of them scored, with intervals of the differences:
as values, as text, as JSON and as one HTML page."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from eval.pages.figures import changes_figure, runs_figures
from eval.pages.page import MEANS, Bar, course_of, interval, json_text, render_page
from eval.pages.runs import (
    SCORES_OF_A_RUN,
    Scored,
    current_scored,
    differing_settings,
    predict_again,
)
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
from psla_wds.text_table import decimal, signed, text_table
from train.config import is_method
from train.run.log import Run, read_run

NUM_ON_SCREEN, NUM_ON_PAGE = 5, 10
"""Number of largest gains listed, and of largest losses."""


@dataclass(frozen=True)
class Candidate:
    """What is compared: a run with its scores, or a score file alone."""

    name: str
    path: Path
    """Score file."""
    scores: Scores
    run: Run | None = None
    scored: Scored | None = None
    """The run's weights that gave the scores; None for a score file alone."""


@dataclass(frozen=True, kw_only=True)
class Model(Candidate):
    """A candidate with its results."""

    mAP_of_all: float  # noqa: N815 (the field's name)
    """mAP on all clips that it scored."""
    metrics: Metrics
    """Metrics on the common clips."""
    intervals: Intervals


@dataclass(frozen=True)
class Change:
    """Difference between another model and the first one, on the same clips."""

    means: dict[str, float]
    """Differences of mAP, mAUC and d'."""
    bounds: dict[str, Bounds]
    """Their paired intervals: both models have the same resamples."""
    class_AP: Float64[np.ndarray, " classes"]  # noqa: N815 (the field's name)
    """Differences of each class's average precision; NaN where it is not defined."""
    class_bounds: Float64[np.ndarray, "2 classes"]
    """Their intervals."""

    def is_clear(self, mean: str) -> bool:
        """Whether the interval of a mean's difference excludes 0."""
        return self.bounds[mean].low > 0 or self.bounds[mean].high < 0

    def extremes(self, limit: int) -> tuple[list[int], list[int]]:
        """Positions of the classes with the largest gains, and with the largest losses."""
        order = np.argsort(-self.class_AP, kind="stable").tolist()
        gains = [k for k in order if self.class_AP[k] > 0]
        losses = [k for k in reversed(order) if self.class_AP[k] < 0]
        return gains[:limit], losses[:limit]


@dataclass(frozen=True)
class Comparison:
    models: tuple[Model, ...]
    changes: tuple[Change, ...]
    """Difference between each other model and the first."""
    common_clips: int
    mids: tuple[str, ...]
    names: tuple[str, ...]
    settings: dict[str, list[str]]
    """Settings that differ between runs, with their value in each run."""
    resamples: int

    @property
    def runs(self) -> list[tuple[str, Run]]:
        """The runs among the models, with their names."""
        return [(model.name, model.run) for model in self.models if model.run]


def compare(paths: Sequence[Path], *, resamples: int = 1000) -> Comparison:
    """Compare runs or score files of one class list, on the clips that all have.

    Raises `ScoreError` for other classes, other targets, or no clip in common.
    """
    if len(paths) < 2:
        where = " ".join(map(str, paths)) or "RUN"
        raise ScoreError("there is nothing to compare", where=where, fix="name two or more runs")
    candidates = find_candidates(paths)
    common = _on_common_clips(candidates)
    metrics = [evaluate(scores.scores, scores.targets) for scores in common]
    weights = resampled_weights(len(common[0]), resamples)
    again = [
        resampled_metrics(scores.scores, scores.targets, weights, what=candidate.name)
        for scores, candidate in zip(common, candidates, strict=True)
    ]
    models = [
        Model(
            **vars(candidate),
            mAP_of_all=evaluate(candidate.scores.scores, candidate.scores.targets).mAP,
            metrics=found,
            intervals=resampled.intervals(found),
        )
        for candidate, found, resampled in zip(candidates, metrics, again, strict=True)
    ]
    changes = [
        _change(metrics[0], other, again[0], resampled)
        for other, resampled in zip(metrics[1:], again[1:], strict=True)
    ]
    runs = [candidate.run for candidate in candidates if candidate.run]
    return Comparison(
        models=tuple(models),
        changes=tuple(changes),
        common_clips=len(common[0]),
        mids=common[0].mids,
        names=common[0].names,
        settings=differing_settings(runs) if len(runs) > 1 else {},
        resamples=resamples,
    )


def find_candidates(paths: Sequence[Path]) -> list[Candidate]:
    """The run or score file at each path; a name that is not unique becomes the path."""
    found = [_find(path) for path in paths]
    counts = Counter(candidate.name for candidate in found)
    return [
        replace(candidate, name=str(path)) if counts[candidate.name] > 1 else candidate
        for candidate, path in zip(found, paths, strict=True)
    ]


def _find(path: Path) -> Candidate:
    """A `ScoreError` for a run without scores, or with scores from other weights than its own."""
    if not (path / "config.json").exists() and not (path / "log.jsonl").exists():
        return Candidate(path.stem, path, Scores.load(path))
    run, file = read_run(path), path / SCORES_OF_A_RUN
    if not file.exists():
        fix = predict_again(path, file)
        raise ScoreError(f"the run has no {SCORES_OF_A_RUN}", where=path, fix=fix)
    scores = Scores.load(file)
    scored = current_scored(scores.origins, path, where=file)
    return Candidate(path.resolve().name, file, scores, run, scored)


def _on_common_clips(candidates: Sequence[Candidate]) -> list[Scores]:
    """The scores of the clips that all candidates have, in one order."""
    common = set.intersection(*(set(candidate.scores.clip_ids) for candidate in candidates))
    if not common:
        raise ScoreError(
            "no clip is in all of the scores",
            where=" ".join(str(candidate.path) for candidate in candidates),
            fix="compare scores of one evaluation set",
        )
    kept = [_only(candidate.scores, common) for candidate in candidates]
    return [
        scores.aligned(kept[0], where=candidate.path)
        for scores, candidate in zip(kept, candidates, strict=True)
    ]


def _only(scores: Scores, clip_ids: set[str]) -> Scores:
    rows = np.flatnonzero([clip_id in clip_ids for clip_id in scores.clip_ids])
    return replace(
        scores,
        clip_ids=tuple(scores.clip_ids[row] for row in rows),
        scores=scores.scores[rows],
        targets=scores.targets[rows],
    )


def _change(first: Metrics, other: Metrics, before: Resampled, after: Resampled) -> Change:
    means = {name: getattr(other, name) - getattr(first, name) for name in MEANS}
    means_before, means_after = before.means(), after.means()
    with np.errstate(invalid="ignore"):  # d' is infinite where all pairs are ranked rightly
        differences = {name: means_after[name] - means_before[name] for name in MEANS}
    class_ap = other.average_precision - first.average_precision
    return Change(
        means,
        {name: difference_bounds(means[name], differences[name]) for name in MEANS},
        class_ap,
        difference_ends(class_ap, after.average_precision - before.average_precision),
    )


def to_json(found: Comparison) -> str:
    """The comparison as JSON; null for an undefined value."""
    by_class = {
        "positives": found.models[0].metrics.num_positives,
        "AP": np.array([model.metrics.average_precision for model in found.models]).T,
        "change_low": np.array([change.class_bounds[0] for change in found.changes]).T,
        "change_high": np.array([change.class_bounds[1] for change in found.changes]).T,
    }
    rows = zip(found.mids, found.names, *by_class.values(), strict=True)
    return json_text(
        {
            "common_clips": found.common_clips,
            "resamples": found.resamples,
            "models": [_model_json(model) for model in found.models],
            "changes": [
                {name: {"change": value} | vars(c.bounds[name]) for name, value in c.means.items()}
                for c in found.changes
            ],
            "settings": found.settings,
            "classes": [dict(zip(("mid", "name", *by_class), row, strict=True)) for row in rows],
        }
    )


def _model_json(model: Model) -> dict[str, object]:
    record: dict[str, object] = {
        "name": model.name,
        "scores": str(model.path),
        "clips": len(model.scores),
    }
    record |= {"weights": str(model.scored)} if model.scored else {}
    record |= {"mAP": model.mAP_of_all}
    record |= {f"{name}_common": getattr(model.metrics, name) for name in MEANS}
    record["intervals_95"] = {name: getattr(model.intervals, name) for name in MEANS}
    return record


def to_text(found: Comparison) -> str:
    """The comparison for the screen: the models, each change, and the settings that differ."""
    shown = [name for name, _ in MEANS.values()]
    rows = [["", "clips", "mAP", f"of the common: {shown[0]}", *shown[1:]]]
    for model in found.models:
        means = [decimal(getattr(model.metrics, name), 4) for name in MEANS]
        rows.append([model.name, f"{len(model.scores):,}", decimal(model.mAP_of_all, 4), *means])
    lines = [text_table(rows), f"{found.common_clips:,} clips are common to all"]
    for model, change in zip(found.models[1:], found.changes, strict=True):
        title = f"from {found.models[0].name} to {model.name}:"
        lines += ["", title, text_table(_change_rows(change), "<><<")]
        for what, chosen in zip(("gain", "loss"), change.extremes(NUM_ON_SCREEN), strict=True):
            classes = [[what, signed(change.class_AP[k], 4), found.names[k]] for k in chosen]
            lines += [text_table(classes, "<><")] if chosen else []
    if found.settings:
        rows = [["settings that differ", *(name for name, _ in found.runs)]]
        rows += [[name, *values] for name, values in found.settings.items()]
        lines += ["", text_table(rows, "<" * len(rows[0]))]
    return "\n".join([*lines, *(line for name, run in found.runs for line in _doubts(name, run))])


def _change_rows(change: Change) -> list[list[str]]:
    """Rows of the means: the difference, and how sure it is."""
    rows = [["", "change", "95 % interval"]]
    for name, (shown, _) in MEANS.items():
        ends = interval(change.bounds[name], 4, sign=True)
        doubt = "" if change.is_clear(name) else "may be chance"
        rows.append([shown, signed(change.means[name], 4), ends, doubt])
    return rows


def _doubts(name: str, run: Run) -> list[str]:
    """Warnings about a run that is not complete."""
    doubts = {
        f"{name}: the last line of the log is cut, and left out": run.cut,
        f"{name} is not done: epoch {run.progress()}": not run.is_done,
        f"{name} was not evaluated while it trained": not run.evaluated,
    }
    return [doubt for doubt, applies in doubts.items() if applies]


def render(found: Comparison, words: Sequence[str]) -> str:
    """The page; `words` are the arguments of the command that makes it."""
    class_changes = np.stack([change.class_AP for change in found.changes])
    largest = np.nan_to_num(np.abs(class_changes), nan=-1).max(axis=0)
    methods = {name: v for name, v in found.settings.items() if is_method(name)}
    others = {name: v for name, v in found.settings.items() if name not in methods}
    return render_page(
        "comparison.html",
        found=found,
        changes=[None, *found.changes],
        courses=[(name, course_of(run)) for name, run in found.runs],
        doubts=[line for name, run in found.runs for line in _doubts(name, run)],
        curves=runs_figures(found.runs),
        shifts=[
            (
                model.name,
                changes_figure(change.class_AP, change.class_bounds, model.name),
                *_bars(change, found.names),
            )
            for model, change in zip(found.models[1:], found.changes, strict=True)
        ],
        settings={
            "": methods,
            "Paths, speed and versions": others,
        },
        order=np.argsort(-largest, kind="stable").tolist(),
        command=f"psla-wds compare {shlex.join(words)}",
    )


def _bars(change: Change, names: Sequence[str]) -> list[list[Bar]]:
    """The largest gains, and the largest losses, with bars relative to the largest of both."""
    most = float(np.nan_to_num(np.abs(change.class_AP)).max())
    return [
        [
            Bar(
                names[k],
                round(float(abs(change.class_AP[k])) / most, 3),
                signed(change.class_AP[k], 3),
                loss=bool(change.class_AP[k] < 0),
            )
            for k in chosen
        ]
        for chosen in change.extremes(NUM_ON_PAGE)
    ]
