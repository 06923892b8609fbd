"""The commands that a study needs: which model the words of a row mean, and its steps."""

import shlex
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from psla_wds import cli
from psla_wds.config import flag
from psla_wds.errors import PslaError
from psla_wds.io.locations import is_url
from psla_wds.models.config import IMAGENET, RANDOM
from train.config import TrainConfig
from train.recipes import RECIPES
from train.study.paper import CHANGES, LABELS, SETS, Cell, expand
from train.study.run import TRAIN, Step
from train.study.settings import BASE, StudyArgs, imagenet_weights

NO_IMAGENET = "random initial weights: the recipe has them, and there is no --imagenet"
NO_ONTOLOGY = "labels as annotated: there is no --ontology"


class Lacking(PslaError):  # noqa: N818 (a gap in the table is not an error)
    """A number that cannot be measured here, and why."""


@dataclass(frozen=True)
class Model:
    """A model that a study trains, once for each seed."""

    name: str
    """Folder of its runs: what it changes, so that models which are the same here share one."""
    flags: tuple[str, ...]
    """Flags of psla-wds train, after the study's base.json."""
    epochs: int
    labels: str | None
    """Word of the enhanced labels that it learns."""
    notes: tuple[str, ...]
    """What the paper's model had and this one lacks."""


class Steps:
    """Steps by what they are for; nothing runs here.

    Args:
        num_clips: clips that `base.index` holds.
    """

    def __init__(self, args: StudyArgs, base: TrainConfig, num_clips: int) -> None:
        self._args, self.base, self._num_clips = args, base, num_clips
        self.test_index = args.test_index or base.eval_index
        self._config, self.model = cache(self._parse), cache(self._model)

    @property
    def averaged(self) -> tuple[int, int]:
        """First and last epoch of the averaged weights."""
        epochs, paper = self.base.epochs, SETS[self._args.data_set]
        decays = [epoch for epoch in self.base.optimizer.decay_after_epochs if epoch < epochs]
        first = decays[1] + 1 if len(decays) > 1 else epochs - epochs // 3
        if epochs == RECIPES[paper["recipe"]][1].epochs:
            first = paper["average_from"]
        first = max(min(first, epochs - 1), 1)  # one epoch is not an average
        return min(self._args.average_from or first, epochs), epochs

    def _parse(self, flags: tuple[str, ...]) -> TrainConfig:
        return cli.parse(TrainConfig, None, prog="study", args=flags, default=self.base)

    def _model(self, words: str) -> Model:
        """The model that words of paper.toml mean here; `Lacking` if it cannot be trained."""
        expanded = expand(words, self._args.data_set)
        wanted = [word for word in expanded if word not in LABELS]
        changes = [w for w in wanted if self._config(self._flags(w)) != self.base]
        flags = tuple(flag for word in changes for flag in self._flags(word))
        config = self._config(flags)
        if config.subset and config.subset > self._num_clips:
            raise Lacking(f"there are only {self._num_clips:,} clips")
        labels = next((word for word in expanded if word in LABELS), None)
        learned = labels if self._args.ontology else None
        random = self.base.model.initial_weights == RANDOM and "no-pretraining" not in wanted
        return Model(
            name="-".join([*changes, *filter(None, [learned])]) or "recipe",
            flags=(*flags, *self._initial_weights(config)),
            epochs=config.epochs,
            labels=learned,
            notes=(NO_IMAGENET,) * random + (NO_ONTOLOGY,) * (labels != learned),
        )

    def _flags(self, change: str) -> tuple[str, ...]:
        kind, _, number = change.rpartition("-")
        if kind == "epochs-times":
            return ("--epochs", str(int(number) * self.base.epochs))
        if kind == "subset":
            decays = map(str, schedule(int(number)))
            return ("--subset", number, "--optimizer.decay-after-epochs", *decays)
        return tuple(shlex.split(CHANGES[change]))

    def _initial_weights(self, config: TrainConfig) -> tuple[str, ...]:
        """Flags for the initial weights of a network other than the base's."""
        weights, backbone = config.model.initial_weights, config.model.backbone
        if backbone == self.base.model.backbone or weights == RANDOM:
            return ()
        if self._args.imagenet:
            return ("--model.initial-weights", imagenet_weights(self._args.imagenet, backbone))
        if weights != IMAGENET:
            raise Lacking(f"{weights} are not weights of {backbone}: set --imagenet")
        return ()

    def train(self, model: Model, seed: int) -> Step:
        """A run, which continues one that was stopped."""
        from psla_wds.models.epochs import epoch_path  # here: it imports torch

        folder = self._args.work / "runs" / model.name / f"seed-{seed}"
        words = [str(self._args.work / BASE), *model.flags, f"--run-dir={folder}"]
        words += [f"--seed={self.base.seed + seed}", "--resume", *self._places()]
        overlays = [self.overlay(model.labels)] if model.labels else []
        words += [f"--labels={overlay.output.parent}" for overlay in overlays]
        output = epoch_path(folder, model.epochs)
        return Step(self._name(folder), TRAIN, tuple(words), output, tuple(overlays))

    def _places(self) -> Iterator[str]:
        """Flags for what a run takes from its command alone, not from base.json."""
        for option in ("index", "eval_index"):
            specs = getattr(self.base, option)
            yield from (f"{flag(option)}={spec}" for spec in specs if any(map(is_url, specs)))
        if self.base.reader.stage:
            yield f"--reader.stage={self.base.reader.stage}"
        if self.base.wandb:
            yield f"--wandb={self.base.wandb}"

    def last(self, model: Model, seed: int) -> Step:
        """Scores of the last epoch."""
        train = self.train(model, seed)
        return self._predict(train.folder, train.folder / "last.npz", self.test_index, train)

    def average(self, model: Model, seed: int) -> Step:
        """Scores of the averaged weights."""
        train, epochs = self.train(model, seed), map(str, self.averaged)
        words, output = [str(train.folder), "--epochs", *epochs], train.folder / "average.pt"
        average = self._made("average", words, output, train)
        return self._predict(output, output.with_suffix(".npz"), self.test_index, average)

    def figures(self, model: Model, seed: int) -> Step:
        """Metrics of every epoch, and of the mean scores from each epoch to the last."""
        train = self.train(model, seed)
        words = [str(train.folder), *_indexes(self.test_index), "--no-plans"]
        return self._made("figures", words, train.folder / "figures/averaging.json", train)

    def all_epochs(self, model: Model, seed: int) -> Step:
        """Mean scores of all epochs."""
        if model.epochs == 1:
            return self.last(model, seed)
        figures = self.figures(model, seed)
        names = [f"epoch-{epoch:03d}.npz" for epoch in range(1, model.epochs + 1)]
        files = [str(figures.output.with_name(name)) for name in names]
        output = figures.output.parents[1] / "epochs.npz"
        return self._made("ensemble", files, output, figures)

    def scored(self, predicted: Step, *words: str, name: str | None = None) -> Step:
        """Metrics of a score file, in a folder of its name."""
        output = predicted.output.with_name(name or predicted.output.stem) / "metrics.json"
        given = [str(predicted.output), *words, "--overwrite"]  # where only half was written
        return self._made("score", given, output, predicted)

    def elsewhere(self, model: Model, seed: int, where: str) -> Step:
        """Metrics of the last epoch on other clips, or against other labels."""
        train, last = self.train(model, seed), self.last(model, seed)
        if where == "annotated":
            return self.scored(last)
        if where in LABELS:
            overlay = self.overlay(where, "eval")
            words = [*_indexes(self.test_index), f"--labels={overlay.output.parent}"]
            return replace(self.scored(last, *words, name=f"last-{where}"), after=(last, overlay))
        index = getattr(self._args, f"{where}_index")
        if not index:
            raise Lacking(f"there is no --{where}-index")
        predicted = self._predict(train.folder, train.folder / f"{where}.npz", index, train)
        predicted = replace(predicted, words=(*predicted.words, "--other-classes"))
        return self.scored(predicted, *_indexes(index), f"--mapping={where}")

    def overlay(self, labels: str, clips: str = "train") -> Step:
        """Enhanced labels of the clips to train on, or to evaluate on."""
        if self._args.ontology is None:
            raise Lacking("there is no --ontology")
        index = self.base.index if clips == "train" else self.test_index
        own = [] if self._args.teacher else [self.train(self.model("recipe"), 0)]
        folder = self._args.work / "labels"
        teacher, output = self._args.teacher or own[0].folder, folder / f"teacher-{clips}"
        scores = self._predict(teacher, output / "scores.json", index, *own)
        words = [str(output), *_indexes(index), f"--ontology={self._args.ontology}"]
        words += [*shlex.split(LABELS[labels]), "--allow-empty-classes"]
        output = folder / f"{clips}-{labels.removeprefix('labels-')}" / "report.json"
        return self._made("enhance", words, output, scores)

    def committee(self, cell: Cell) -> Step:
        """Metrics of the mean scores of several models."""
        models = self.members(cell)
        best = f"best-{cell.best}-of-" if cell.best else ""
        mark = zlib.crc32(" ".join(model.name for model in models).encode())
        output = self._args.work / "committees" / f"{best}{len(models)}-models-{mark:08x}.npz"
        files = [] if cell.best else [model.words[0] for model in models]
        made = self._made("ensemble", files, output, *models)
        return self.scored(replace(made, best=cell.best))

    def members(self, cell: Cell) -> list[Step]:
        """Metrics of each model of a committee alone."""
        found = [self.scored(self.last(self.model(m), seed)) for m, seed in cell.members]
        if len({step.name for step in found}) < len(found):
            raise Lacking("several of its models are the same here")
        return found

    def _predict(self, model: Path, output: Path, index: Sequence[str], *after: Step) -> Step:
        return self._made("predict", [str(model), *_indexes(index)], output, *after)

    def _made(self, command: str, words: Sequence[str], output: Path, *after: Step) -> Step:
        """A step whose command takes --output: a file, or the folder of a JSON file."""
        target = output.parent if output.suffix == ".json" else output
        words = (*words, f"--output={target}")
        return Step(self._name(target), command, words, output, after)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._args.work))


def schedule(clips: int) -> tuple[int, ...]:
    """Epochs after which the rate halves in 30 epochs on a subset of AudioSet (PSLA figure 3).

    The paper does not state them; the training script of the official code has them.
    """
    first = 10 if clips > 200_000 else 15 if clips > 150_000 else 20
    return tuple(range(first, 30, 5))


def _indexes(specs: Sequence[str]) -> list[str]:
    return [f"--index={spec}" for spec in specs]
