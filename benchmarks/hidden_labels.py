"""Measure label enhancement where the truth is known: labels are hidden, and put back.

The clips have all their labels. For each seed, a share of the labels that the ontology connects
with others of their clip is hidden. A teacher learns the rest, and scores the clips that it learned
from. What its scores put back is compared with what was hidden, by type and threshold; "none" puts
back all that the ontology allows, without a teacher. Type I is shown in two parts as well: a usual
label is one that more than half of the clips with another label of its clip have, so that labels
alone suggest it. Students learn the labels hidden, put back and complete, and are scored on other
clips, with all labels of these.

    python -m benchmarks.hidden_labels --index SHARDS --eval-index SHARDS --ontology ontology.json

All runs take the options of psla-wds train, such as --epochs 10. Start the command again to go on
where it stopped.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool

from benchmarks.harness import RESULTS, Column, Row, record, table
from benchmarks.harness import write as write_record
from benchmarks.tables import markdown
from psla_wds import cli
from psla_wds.config import Within, check_ranges, to_json
from psla_wds.errors import ConfigError, PslaError
from psla_wds.evaluation.enhancement import (
    Enhancement,
    Teacher,
    Threshold,
    enhance,
    propagate,
)
from psla_wds.evaluation.scores import Scores
from psla_wds.labels.ontology import Pairs, read_ontology
from psla_wds.models.epochs import epoch_path
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import publish_overlay
from train.config import TrainConfig, is_method
from train.recipes import configure
from train.run.log import read_run
from train.study.run import TRAIN, Runner, Step, read_json, start_process
from train.study.settings import write

PROG = "python -m benchmarks.hidden_labels"
HIDDEN, COMPLETE, SETTINGS = "hidden", "complete", "settings.json"
TYPES = ("I", "II", "both", USUAL := "I, usual", OTHERS := "I, others")
THRESHOLDS: dict[str, Threshold | None] = {
    "none": None, "mean": "mean", "25": 25.0, "10": 10.0, "5": 5.0
}  # fmt: skip
"""By name; None adds all that the ontology allows."""
BACK_COLUMNS = (
    Column("type", "type"),
    Column("threshold", "threshold"),
    Column("hidden", "missing", "{:,.0f}"),
    Column("put back", "added", "{:,.0f}"),
    Column("precision", "precision", "{:>}"),
    Column("recall", "recall", "{:>}"),
)
STUDENT_COLUMNS = (
    Column("labels to train on", "name"),
    Column("labels a clip", "labels_per_clip", "{:.2f}"),
    Column("mAP", "mAP", "{:>}"),
    Column("change", "change", "{:>}"),
)
Labels = Bool[np.ndarray, "clips classes"]


@dataclass(frozen=True, kw_only=True)
class Args:
    ontology: Path
    """AudioSet's ontology.json, or another with the classes of the shards."""
    base: str = "esc50"
    """Recipe, or config.json of a run, of all models."""
    work: Path = Path("data/hidden-labels")
    """Folder of the runs and labels."""
    seeds: Annotated[int, Within(1, 1000)] = 3
    """Times that labels are hidden, each with its own models."""
    share: Annotated[float, Within(0, 1)] = 0.3
    """Chance of a label to be hidden, if the ontology connects it with one that stays."""
    students: tuple[str, ...] = ("both-mean", "II-none", COMPLETE)
    """Labels that a model learns beside the hidden ones: TYPE-THRESHOLD, or complete."""
    output: Path = RESULTS / "hidden_labels.json"
    """File for the results."""

    def __post_init__(self) -> None:
        check_ranges(self)
        known = [COMPLETE, *(f"{kind}-{name}" for kind in TYPES[:3] for name in THRESHOLDS)]
        unknown = [name for name in self.students if name not in known]
        if unknown:
            fix = f"choose {', '.join(known)}"
            raise ConfigError(f"there are no labels {unknown[0]}", where="--students", fix=fix)


class Experiment:
    """Hides labels and trains models, one seed at a time."""

    def __init__(
        self, args: Args, words: Sequence[str], start: Callable[[Sequence[str]], int]
    ) -> None:
        self._args, self._words = args, words
        self.base = configure(args.base, words, where="--base", prog=PROG, description=None)
        if not self.base.eval_index:
            fix = "set --eval-index SHARDS"
            raise ConfigError("students are scored on other clips", where="--eval-index", fix=fix)
        self.truth, other = open_indexes(self.base.index), open_indexes(self.base.eval_index)
        ontology = read_ontology(args.ontology)
        ontology.check_classes(self.truth.classes, where=args.ontology)
        self.pairs = {
            "I": ontology.child_pairs(self.truth.classes, through_abstract=False),
            "II": ontology.ancestor_pairs(self.truth.classes, through_abstract=False),
        }
        self._runner = Runner(1, start)
        _begin(args, self.base, [self.truth.fingerprint, other.fingerprint])

    def measure(self, seed: int) -> dict[str, list[Row]]:
        """Rows of both tables, for one seed."""
        folder, rng = self._args.work / f"seed-{seed}", np.random.default_rng(seed)
        before = hide(self.truth, self.pairs, self._args.share, rng)
        teacher = self._train(folder, HIDDEN, before, seed)
        words = (str(teacher.folder), *(f"--index={spec}" for spec in self.base.index))
        output = folder / "teacher.npz"
        words = (*words, f"--output={output}")
        self._run(Step(f"seed-{seed}/teacher.npz", "predict", words, output, (teacher,)))
        rows, labels = [], {}
        usual = _reached(_labels(before), {"": _usual(before)})
        for kind, threshold, pairs, done in self._enhanced(before, Scores.load(output), output):
            parts = {USUAL: usual, OTHERS: ~usual} if kind == "I" else {}
            for part, among in {kind: usual | ~usual, **parts}.items():
                row = self._back(done, pairs, among)
                rows.append({"type": part, "threshold": threshold} | row)
            labels[f"{kind}-{threshold}"] = done.after
        rows.sort(key=lambda row: TYPES.index(row["type"]))
        labels |= {COMPLETE: self.truth}
        runs = {HIDDEN: (before, teacher)}
        for name in self._args.students:
            runs[name] = labels[name], self._train(folder, name, labels[name], seed)
        for _, step in runs.values():
            self._run(step)
        return {"back": rows, "students": [_student(n, *run) for n, run in runs.items()]}

    def _train(self, folder: Path, name: str, labelled: ShardIndex, seed: int) -> Step:
        """A run on these labels, which goes on where it stopped."""
        overlay, run = folder / "labels" / name, folder / "runs" / name
        shutil.rmtree(overlay, ignore_errors=True)  # the same again, or a run refuses to go on
        publish_overlay(overlay, (self.truth, labelled), {}, "", export=None)
        own = (f"--labels={overlay}", f"--run-dir={run}", f"--seed={seed}", "--resume")
        words = (self._args.base, *self._words, *own)
        return Step(f"seed-{seed}/{name}", TRAIN, words, epoch_path(run, self.base.epochs))

    def _run(self, step: Step) -> None:
        if self._runner.run([*step.after, step]):
            raise PslaError(f"{step.name} failed", where=step.output, fix="see its message above")

    def _enhanced(
        self, before: ShardIndex, scores: Scores, path: Path
    ) -> Iterator[tuple[str, str, dict[str, Pairs], Enhancement]]:
        """Types and thresholds, with the pairs of classes allowed and what is put back."""
        clip_ids = [before.clip_id(row) for row in range(len(before))]
        teacher = Teacher(scores.scores, scores.rows_of(clip_ids, where=path))
        parts = [{kind: pairs} for kind, pairs in self.pairs.items()]
        for kind, pairs in zip(TYPES, (*parts, self.pairs), strict=False):
            for name, value in THRESHOLDS.items():
                if value is None:
                    done = propagate(before, pairs)
                else:
                    done = enhance(before, teacher, pairs, value)
                yield kind, name, pairs, done

    def _back(self, done: Enhancement, pairs: dict[str, Pairs], among: Labels) -> Row:
        """What was put back of the labels that these pairs can reach, and that `among` has."""
        visible, complete = _labels(done.before), _labels(self.truth)
        among = among & _reached(visible, pairs) & ~visible
        added, missing = _labels(done.after) & among, int((complete & among).sum())
        count, right = int(added.sum()), int((added & complete).sum())
        shares = {"precision": right / count if count else None}
        shares["recall"] = right / missing if missing else None
        return {"missing": missing, "added": count, "right": right} | shares


def hide(
    truth: ShardIndex, pairs: dict[str, Pairs], share: float, rng: np.random.Generator
) -> ShardIndex:
    """Hide each label by chance, where one that stays is its parent (I) or is below it (II)."""
    labels = _labels(truth)
    visible = labels & (rng.random(labels.shape) >= share)
    visible |= labels & ~_reached(visible, pairs)
    starts = np.cumsum([0, *visible.sum(axis=1)], dtype=np.int64)
    return truth.with_labels(starts, visible.nonzero()[1].astype(np.uint16))


def _reached(labels: Labels, pairs: dict[str, Pairs]) -> Labels:
    """Labels that the ontology allows to add, by any of these types."""
    return labels.astype(np.int32) @ np.any(list(pairs.values()), axis=0) > 0


def _usual(index: ShardIndex) -> Pairs:
    """[k, c] is true if more than half of the clips of class k have class c."""
    labels = _labels(index).astype(np.int32)
    return labels.T @ labels > labels.sum(axis=0)[:, None] / 2


def _labels(index: ShardIndex) -> Labels:
    labels = np.zeros((len(index), len(index.classes)), bool)
    labels[np.repeat(np.arange(len(index)), np.diff(index.label_starts)), index.label_values] = True
    return labels


def _student(name: str, labelled: ShardIndex, train: Step) -> Row:
    per_clip = len(labelled.label_values) / len(labelled)
    quality = read_run(train.folder).epochs[-1].mAP
    return {"name": name.replace("-", ", "), "labels_per_clip": per_clip, "mAP": quality}


def _begin(args: Args, base: TrainConfig, shards: list[str]) -> None:
    """Write what the runs in the folder depend on; `ConfigError` if they have other settings."""
    method = {name: value for name, value in to_json(base).items() if is_method(name)}
    now = {"share": args.share, "shards": shards, **method}
    now, path = json.loads(json.dumps(now, default=str)), args.work / SETTINGS
    if path.exists() and read_json(path) != now:
        fix = "give the same settings, or choose another --work"
        raise ConfigError("this folder was begun with other settings", where=path, fix=fix)
    write(args.work, {SETTINGS: json.dumps(now, indent=1)})


def gather(seeds: list[dict[str, list[Row]]]) -> list[dict[str, Any]]:
    """The two tables: means over seeds, with their deviations; rows keep the numbers by seed."""
    back = [
        _mean_row(rows, ("precision", "recall"))
        for rows in zip(*(seed["back"] for seed in seeds), strict=True)
    ]
    for seed in seeds:
        for row in seed["students"]:
            row["change"] = row["mAP"] - seed["students"][0]["mAP"]
    students = [
        _mean_row(rows, ("mAP", "change"))
        for rows in zip(*(seed["students"] for seed in seeds), strict=True)
    ]
    students[0]["change"] = None
    return [table(BACK_COLUMNS, back), table(STUDENT_COLUMNS, students)]


def _mean_row(rows: Sequence[Row], shown: Sequence[str]) -> Row:
    """Means of what is counted; texts of what is shown with its deviation."""
    row = {key: value for key, value in rows[0].items() if isinstance(value, str)}
    for key in rows[0].keys() - row.keys():
        values = [r[key] for r in rows if r[key] is not None]
        row[key] = _text(values, signed=key == "change") if key in shown else mean(values)
    return row | {"seeds": [dict(r) for r in rows]}


def _text(values: list[float], *, signed: bool) -> str | None:
    if not values:
        return None
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):{'+' if signed else ''}.3f}{spread}"


def main(start: Callable[[Sequence[str]], int] = start_process) -> None:
    """The command; `start` runs a command of the experiment and returns its exit status."""
    args, words = cli.parse(Args, __doc__, prog=PROG, return_unknown_args=True)
    experiment = Experiment(args, words, start)
    tables = gather([experiment.measure(seed) for seed in range(args.seeds)])
    base, truth = experiment.base, experiment.truth
    title = f"Hidden labels put back, {len(truth):,} clips, {len(truth.classes)} classes"
    content = record(title, tables, args, notes=[f"Mean ± deviation; seeds: {args.seeds}."])
    settings = [re.sub(r"(^|=)/.*/", r"\1", word) for word in words]  # names, no folders
    content["conditions"] |= {"clips": len(truth), "epochs": base.epochs, "settings": settings}
    print(markdown(content))
    write_record(content, args.output)
    print(f"wrote {args.output}; next: python -m benchmarks.tables")


if __name__ == "__main__":
    cli.run(main)
