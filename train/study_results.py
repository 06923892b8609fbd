"""The numbers of a study, read from the files that its commands wrote; or why there is none."""

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psla_wds.errors import ScoreError
from train.paper_tables import Cell, Measure
from train.run.log import Run, read_run
from train.study_commands import LAST, METRICS, Best, Commands, Lacking, Step
from train.variants import Variant

MOST_LAST_EPOCHS = 5
"""The paper's number of a single model is the mean of its last five epochs."""


class Results:
    """Values of cells, by what is measured."""

    def __init__(self, commands: Commands, seeds: int) -> None:
        self._commands, self._seeds = commands, range(seeds)
        self._values: dict[Measure, Callable[[Cell, Variant, int], float]] = {
            "log": self._log,
            "average": self._average,
            "checkpoints": self._checkpoints,
            "elsewhere": self._elsewhere,
            "labels": self._labels,
            "class gain": self._class_gain,
        }

    def seeds(self, cell: Cell) -> range:
        """Of a cell: what has members has their seeds, and labels are the same for all."""
        single = cell.members or cell.measure in ("labels", "class gain")
        return range(1) if single else self._seeds

    def steps(self, cell: Cell, seed: int) -> tuple[Step, ...]:
        """The commands that a cell needs, in an order that does; `Lacking` if it cannot be had."""
        ends = self._ends(cell, seed)
        found = {step.name: step for end in ends for step in end.with_all_before()}
        return tuple(found.values())

    def _ends(self, cell: Cell, seed: int) -> tuple[Step, ...]:
        commands, variant = self._commands, cell.variant
        if cell.members:
            return (commands.committee(cell),)
        if variant is None:
            return ()
        self._check_differs(cell, variant)
        if cell.measure == "log":
            validated = commands.test_index != commands.base.eval_index
            return ((commands.figures if validated else commands.train)(variant, seed),)
        if cell.measure == "elsewhere":
            return (commands.elsewhere(variant, seed, cell.field),)
        if cell.measure == "labels":
            return (commands.overlay(variant.labels),)
        if cell.measure == "class gain":
            assert cell.unlike is not None
            models = [(v, s) for v in (variant, cell.unlike) for s in self._seeds]
            scored = [commands.scored(commands.last(v, s)) for v, s in models]
            return (*scored, commands.overlay(variant.labels))
        if cell.measure == "checkpoints":
            return (commands.figures(variant, seed),)
        return (commands.scored(commands.average(variant, seed)),)

    def _check_differs(self, cell: Cell, variant: Variant) -> None:
        """A part that the recipe has not cannot be taken away, nor what lacks here be added."""
        commands = self._commands
        if cell.unlike and commands.name(variant) == commands.name(cell.unlike):
            why = commands.why_same(variant, cell.unlike)
            raise Lacking(f"nothing differs from the row compared with: {why}")

    def notes(self, cell: Cell) -> tuple[str, ...]:
        """What the runs of a cell have not here that the paper's had."""
        variants = [cell.variant] if cell.variant else [m.variant for m in cell.members]
        found = [note for variant in variants for note in self._commands.notes(variant)]
        return tuple(dict.fromkeys(found))

    def value(self, cell: Cell, seed: int) -> float:
        """The number; its commands have ended. `PslaError` if a file has it not."""
        if cell.members:
            return self._committee(cell)
        assert cell.variant is not None
        value = self._values[cell.measure](cell, cell.variant, seed)
        if not math.isfinite(value):
            raise ScoreError(f"{cell.field} is not defined", where=cell.column)
        return value

    def _log(self, cell: Cell, variant: Variant, seed: int) -> float:
        folder = self._commands.folder(variant, seed)
        run = evaluated_run(folder)
        if self._commands.test_index == self._commands.base.eval_index:
            last = run.epochs[-MOST_LAST_EPOCHS:]
            return statistics.mean(getattr(epoch, cell.field) for epoch in last)
        best = max(run.epochs, key=lambda epoch: epoch.mAP).epoch
        starts = _json(self._commands.figures(variant, seed).done)
        if cell.field != "mAP":
            raise Lacking(f"{cell.field} of the epoch chosen by --eval-index is not measured")
        return next(start["checkpoint"] for start in starts if start["epoch"] == best)

    def _average(self, cell: Cell, variant: Variant, seed: int) -> float:
        step = self._commands.scored(self._commands.average(variant, seed))
        return _json(step.done)[cell.field]

    def _checkpoints(self, cell: Cell, variant: Variant, seed: int) -> float:
        starts = _json(self._commands.figures(variant, seed).done)
        alone = [start["checkpoint"] for start in starts]
        found = {"average": statistics.mean(alone), "best": max(alone)}
        return found.get(cell.field, starts[0]["score_ensemble"])

    def _elsewhere(self, cell: Cell, variant: Variant, seed: int) -> float:
        return _json(self._commands.elsewhere(variant, seed, cell.field).done)["mAP"]

    def _labels(self, cell: Cell, variant: Variant, _: int) -> float:
        return float(_json(self._commands.overlay(variant.labels).done)[cell.field])

    def _class_gain(self, cell: Cell, variant: Variant, _: int) -> float:
        """Mean relative gain in AP over classes, of which each is the mean over seeds."""
        assert cell.unlike is not None
        report = _json(self._commands.overlay(variant.labels).done)
        impacted = {row["mid"]: row["added"] > 0 for row in report["per_class"]}
        before, after = self._class_means(cell.unlike), self._class_means(variant)
        wanted = {"impacted": (True,), "others": (False,), "all": (True, False)}[cell.field]
        gains = [
            after[mid] / before[mid] - 1
            for mid in before
            if impacted[mid] in wanted and before[mid] and mid in after
        ]
        return statistics.mean(gains) if gains else math.nan

    def _class_means(self, variant: Variant) -> dict[str, float]:
        files = [self._commands.folder(variant, seed) / LAST / METRICS for seed in self._seeds]
        tables = [{c["mid"]: c["AP"] for c in _json(file)["per_class"]} for file in files]
        return {
            mid: statistics.mean(table[mid] for table in tables)
            for mid, value in tables[0].items()
            if value is not None
        }

    def _committee(self, cell: Cell) -> float:
        if cell.field not in ("average", "best"):
            return _json(self._commands.committee(cell).done)[cell.field]
        models = sorted((_json(m.done)["mAP"] for m in self._commands.models(cell)), reverse=True)
        chosen = models[: cell.best]
        return statistics.mean(chosen) if cell.field == "average" else chosen[0]


def evaluated_run(folder: Path) -> Run:
    """A run and the mAP of all its epochs; an error if some were not evaluated."""
    run = read_run(folder)
    missing = [epoch.epoch for epoch in run.epochs if not epoch.evaluated]
    if missing or not run.epochs:
        raise ScoreError(
            f"{len(missing) or 'all'} epochs were not evaluated",
            where=folder,
            fix="move the run away: the study then trains it again, with --eval-index",
        )
    return run


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ScoreError(
            f"this cannot be read: {error}", where=path, fix="delete it: it is made again"
        ) from None


def best_models(best: Best) -> list[str]:
    """The score files of the models with the highest mAP."""
    ranked = sorted(best.models, key=lambda model: -_json(model.done)["mAP"])
    return [str(model.after[0].done) for model in ranked[: best.count]]
