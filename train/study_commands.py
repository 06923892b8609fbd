"""The commands of a study, as one would type them, each with the file that says it is done."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from psla_wds.errors import ConfigError
from psla_wds.models.checkpoint import epoch_path
from psla_wds.models.config import IMAGENET
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from train.config import TrainConfig
from train.paper_tables import Cell, Member
from train.recipes import RECIPES
from train.study_settings import (
    PAPER_SETS,
    StudyArgs,
    base_path,
    imagenet_weights,
    starts_random,
)
from train.variants import NO_PRETRAINING, Enhancement, Variant, flags

LAST, AVERAGE, FIGURES, METRICS = "last", "average", "figures", "metrics.json"
EVALUATED = "eval"
"""Of an overlay: the clips that are evaluated on."""
RANDOM_WEIGHTS = "random initial weights: the recipe has them, and there is no --imagenet"
ORIGINAL_LABELS = "labels as annotated: there is no --ontology"


class Lacking(Exception):  # noqa: N818 (nothing went wrong)
    """A number that cannot be had here, and why."""


@dataclass(frozen=True)
class Best:
    """The score files of the models with the highest mAP, known once all are scored."""

    count: int
    models: tuple["Step", ...]
    """Steps that score a model each; its metrics lie in the folder named as the score file."""


@dataclass(frozen=True)
class Step:
    """A command of a study."""

    name: str
    """Unique in the study's folder."""
    module: str
    words: tuple[str | Best, ...]
    done: Path
    """Stands when the command has ended well."""
    after: tuple["Step", ...] = ()
    run: str | None = None
    """The run that it belongs to, for tasks of an array; None: to several."""
    config: TrainConfig | None = None
    """Of a training."""
    weights: tuple[Path, ...] = ()
    """Checkpoints that `done` is of, if it has a mark of them; of an average over epochs or models,
    one or all of these."""

    def with_all_before(self) -> Iterator["Step"]:
        """The steps that it needs, then itself; some may come twice."""
        for step in self.after:
            yield from step.with_all_before()
        yield self


class Commands:
    """Steps by what they are for; nothing is run here."""

    def __init__(self, args: StudyArgs, base: TrainConfig) -> None:
        self._args, self.base = args, base
        self.test_index = args.test_index or base.eval_index

    @cached_property
    def processes(self) -> int:
        return self._args.processes or max(torch.cuda.device_count(), 1)

    @cached_property
    def index(self) -> ShardIndex:
        """The clips that are trained on."""
        return open_indexes(self.base.index)

    @cached_property
    def averaged(self) -> tuple[int, int]:
        """First and last epoch of a mean of weights."""
        args, config = self._args, self.base
        paper = PAPER_SETS[args.data_set]
        decays = [epoch for epoch in config.optimizer.decay_after_epochs if epoch < config.epochs]
        if args.average_from:
            return min(args.average_from, config.epochs), config.epochs
        if config.epochs == RECIPES[paper.recipe][1].epochs:
            first = paper.averaged_from
        elif len(decays) > 1:
            first = decays[1] + 1
        else:
            first = config.epochs - config.epochs // 3
        return max(min(first, config.epochs - 1), 1), config.epochs  # one epoch is no mean

    def notes(self, variant: Variant) -> tuple[str, ...]:
        """What the variant has not, for want of an option."""
        wanted = {
            RANDOM_WEIGHTS: starts_random(self.base) and NO_PRETRAINING not in variant.changes,
            ORIGINAL_LABELS: bool(variant.labels) and self._args.ontology is None,
        }
        return tuple(note for note, holds in wanted.items() if holds)

    def why_same(self, variant: Variant, other: Variant) -> str:
        """Of two variants that come to the same here: what makes no difference."""
        if variant.labels != other.labels:
            return ORIGINAL_LABELS
        if (NO_PRETRAINING in variant.changes) != (NO_PRETRAINING in other.changes):
            return RANDOM_WEIGHTS
        return "the recipe does not have this part"

    def name(self, variant: Variant) -> str:
        """Of the variant's folder; of what it does, so that no run is done twice."""
        return (variant if self._args.ontology else variant.enhanced(None)).name(self.base)

    def config(self, variant: Variant, seed: int) -> TrainConfig:
        """What a run of the variant depends on; `Lacking` if it cannot be had here."""
        config = variant.config(self.base)
        if config.subset and config.subset > len(self.index):
            raise Lacking(f"there are only {len(self.index):,} clips")
        labels = self.overlay(variant.labels).done.parent if self._enhances(variant) else None
        return replace(
            config,
            run_dir=self.folder(variant, seed),
            seed=self.base.seed + seed,
            labels=labels,
            model=replace(config.model, initial_weights=self._weights(config)),
        )

    def _enhances(self, variant: Variant) -> bool:
        return variant.labels is not None and self._args.ontology is not None

    def _weights(self, config: TrainConfig) -> str:
        weights, backbone = config.model.initial_weights, config.model.backbone
        if backbone == self.base.model.backbone or starts_random(config):
            return weights
        if self._args.imagenet:
            try:
                return imagenet_weights(self._args.imagenet, backbone)
            except ConfigError as error:
                raise Lacking(" ".join(str(error).split())) from None
        if weights != IMAGENET:
            raise Lacking(f"{weights} are no weights of {backbone}: set --imagenet")
        return weights

    def folder(self, variant: Variant, seed: int) -> Path:
        return self._args.work / "runs" / self.name(variant) / f"seed-{seed}"

    def train(self, variant: Variant, seed: int) -> Step:
        config = self.config(variant, seed)
        words = (str(base_path(self._args)), *flags(config, self.base), "--resume")
        return Step(
            name=self._name(config.run_dir),
            module="train.main",
            words=words,
            done=epoch_path(config.run_dir, config.epochs),
            after=(self.overlay(variant.labels),) if self._enhances(variant) else (),
            run=self._name(config.run_dir),
            config=config,
        )

    def last(self, variant: Variant, seed: int) -> Step:
        """Scores of the last epoch."""
        return self._predict(self.train(variant, seed), LAST)

    def average(self, variant: Variant, seed: int) -> Step:
        """Scores of the averaged weights."""
        train, (first, last) = self.train(variant, seed), self.averaged
        folder = self.folder(variant, seed)
        average = self._then(
            train, "average.pt", "eval.average", str(folder), "--epochs", str(first), str(last)
        )
        return self._predict(average, AVERAGE, model=average.done)

    def figures(self, variant: Variant, seed: int) -> Step:
        """Scores of every epoch, and of the means from each epoch to the last."""
        train, folder = self.train(variant, seed), self.folder(variant, seed)
        words = (str(folder), *_indexes(self.test_index), "--no-plans")  # no table has them
        step = self._then(train, FIGURES, "eval.figures", *words)
        return replace(step, done=step.done / "averaging.json", weights=(train.done,))

    def scored(self, predicted: Step, *words: str, name: str | None = None) -> Step:
        """The metrics of a score file, in a folder of its name."""
        folder = predicted.done.with_suffix("") if name is None else predicted.done.parent / name
        return replace(
            predicted,
            name=f"{self._name(folder)}/score",
            module="eval.score",
            words=(str(predicted.done), *words, f"--output={folder}"),
            done=folder / METRICS,
            after=(predicted,),
            config=None,
        )

    def elsewhere(self, variant: Variant, seed: int, where: str) -> Step:
        """The metrics of the last epoch on other clips, or against other labels."""
        if where == "annotated":
            return self.scored(self.last(variant, seed))
        if where.startswith("labels-"):
            threshold = where.rpartition("-")[2]
            overlay = self.overlay(Enhancement(threshold=threshold), EVALUATED)
            labels = f"--labels={overlay.done.parent}"
            last = self.last(variant, seed)
            step = self.scored(last, *_indexes(self.test_index), labels, name=f"{LAST}-{where}")
            return replace(step, after=(last, overlay))
        index = getattr(self._args, f"{where}_index")
        if not index:
            raise Lacking(f"there is no --{where}-index")
        train = self.train(variant, seed)
        predicted = self._predict(train, where, *_indexes(index), "--other-classes")
        return self.scored(predicted, *_indexes(index), f"--mapping={where}")

    def overlay(self, labels: Enhancement | None, clips: str = "train") -> Step:
        """Enhanced labels of the clips that are trained on, or evaluated on."""
        if self._args.ontology is None or labels is None:
            raise Lacking("there is no --ontology")
        index = self.test_index if clips == EVALUATED else self.base.index
        folder = self._args.work / "labels" / f"{clips}-{labels.name}"
        scores = self._teacher(clips, index)
        words = (str(scores.done.parent), *_indexes(index), f"--ontology={self._args.ontology}",
                 f"--type={labels.type}", f"--threshold={labels.threshold}",
                 "--allow-empty-classes", f"--output={folder}")  # fmt: skip
        return Step(self._name(folder), "eval.enhance", words, folder / "report.json", (scores,),
                    scores.run, weights=scores.weights)  # fmt: skip

    def _teacher(self, clips: str, index: tuple[str, ...]) -> Step:
        """The teacher's scores, which may be more than memory holds."""
        folder = self._args.work / "labels" / f"teacher-{clips}"
        own = None if self._args.teacher else self.train(Variant(), 0)
        model = self._args.teacher or self.folder(Variant(), 0)
        words = (str(model), *_indexes(index), f"--output={folder}")
        weights = own.done if own else model
        return Step(self._name(folder), "eval.predict", words, folder / "scores.json",
                    (own,) if own else (), own.run if own else "labels",
                    weights=(weights,))  # fmt: skip

    def committee(self, cell: Cell) -> Step:
        """The metrics of the mean scores of several models."""
        models = self.models(cell)
        files: tuple[str | Best, ...] = tuple(str(model.after[0].done) for model in models)
        if cell.best:
            files = (Best(cell.best, models),)
        name = f"best-{cell.best}-of-" if cell.best else ""
        output = self._args.work / "committees" / f"{name}{self._committee_name(cell.members)}.npz"
        weights = tuple(path for model in models for path in model.weights)
        step = Step(self._name(output.with_suffix("")), "eval.ensemble",
                    (*files, f"--output={output}"), output, models, weights=weights)  # fmt: skip
        return self.scored(step)

    def models(self, cell: Cell) -> tuple[Step, ...]:
        """Steps that score each member alone."""
        named = [(self.name(member.variant), member.seed) for member in cell.members]
        if len(set(named)) < len(named):
            twice = next(name for name in named if named.count(name) > 1)
            raise Lacking(f"several of its models are the same here: {twice[0]}")
        return tuple(self.scored(self.last(m.variant, m.seed)) for m in cell.members)

    def _committee_name(self, members: tuple[Member, ...]) -> str:
        seeds: dict[str, list[str]] = {}
        for member in members:
            seeds.setdefault(self.name(member.variant), []).append(str(member.seed))
        names = [f"{name}-{''.join(numbers)}" for name, numbers in seeds.items()]
        return "+".join(names) if len(names) < 4 else f"{names[0]}+{len(members) - 1}-others"

    def _predict(self, before: Step, name: str, *words: str, model: Path | None = None) -> Step:
        assert before.run is not None
        folder = self._args.work / before.run
        where = words or _indexes(self.test_index)
        words = (str(model or folder), *where)
        step = self._then(before, f"{name}.npz", "eval.predict", *words)
        return replace(step, weights=(before.done,))

    def _then(self, before: Step, file: str, module: str, *words: str) -> Step:
        """A step of the same run, whose output is a file of its folder."""
        assert before.run is not None
        output = self._args.work / before.run / file
        return Step(self._name(output), module, (*words, f"--output={output}"), output, (before,),
                    before.run)  # fmt: skip

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._args.work))


def _indexes(specs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"--index={spec}" for spec in specs)
