"""Where each number of a table comes from: the steps that it needs, and how it is read."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from train.run.log import read_run
from train.study.paper import Cell
from train.study.run import Step, read_json
from train.study.steps import Lacking, Steps

LAST_EPOCHS = 5
"""The paper's number of a single model is the mean of its last five epochs."""


@dataclass(frozen=True)
class Number:
    """A number, once its steps have run."""

    steps: tuple[Step, ...]
    read: Callable[[], float]
    """Reads it from their outputs; `PslaError` if it is not there."""


class Numbers:
    """Numbers of cells.

    Args:
        seeds: runs of each row.
    """

    def __init__(self, steps: Steps, seeds: int) -> None:
        self._steps, self._seeds = steps, seeds

    def seeds(self, cell: Cell) -> range:
        """Seeds that a cell has numbers of: those of a committee and of labels come once."""
        if cell.model is None and not cell.members:
            return range(0)
        once = cell.members or cell.source in ("labels", "class gain")
        return range(1 if once else self._seeds)

    def notes(self, cell: Cell) -> list[str]:
        """What the runs of a cell lack here that the paper's had."""
        words = [cell.model] if cell.model is not None else [model for model, _ in cell.members]
        return list(dict.fromkeys(n for model in words for n in self._steps.model(model).notes))

    def number(self, cell: Cell, seed: int) -> Number:
        """The number of a cell; `Lacking` if it cannot be had here."""
        if cell.members:
            return self._committee(cell)
        assert cell.model is not None
        model, steps = self._steps.model(cell.model), self._steps
        if cell.source == "log" and steps.test_index == steps.base.eval_index:
            train = steps.train(model, seed)
            return Number((train,), lambda: _last_epochs(train.folder, cell.field))
        if cell.source == "log":
            return self._chosen_epoch(cell, seed)
        if cell.source == "epochs":
            figures = steps.figures(model, seed)
            return Number((figures,), lambda: _of_epochs(read_json(figures.output), cell.field))
        if cell.source == "elsewhere":
            return _value(steps.elsewhere(model, seed, cell.field), "mAP")
        if cell.source == "average":
            return _value(steps.scored(steps.average(model, seed)), cell.field)
        if model.labels is None:
            raise Lacking("there is no --ontology")
        overlay = steps.overlay(model.labels)
        return _value(overlay, cell.field) if cell.source == "labels" else self._gain(cell, overlay)

    def _chosen_epoch(self, cell: Cell, seed: int) -> Number:
        """The test score of the epoch that is best on --eval-index."""
        if cell.field != "mAP":
            raise Lacking(f"{cell.field} of the epoch chosen by --eval-index is not measured")
        assert cell.model is not None
        model = self._steps.model(cell.model)
        train, figures = self._steps.train(model, seed), self._steps.figures(model, seed)

        def read() -> float:
            best = max(read_run(train.folder).epochs, key=lambda epoch: epoch.mAP).epoch
            scored = {start["epoch"]: start["checkpoint"] for start in read_json(figures.output)}
            return scored[best]

        return Number((figures,), read)

    def _committee(self, cell: Cell) -> Number:
        committee, members = self._steps.committee(cell), self._steps.members(cell)
        if cell.field not in ("average", "best"):
            return _value(committee, cell.field)

        def read() -> float:
            values = sorted((read_json(m.output)["mAP"] for m in members), reverse=True)
            return mean(values[: cell.best]) if cell.field == "average" else values[0]

        return Number((committee,), read)

    def _gain(self, cell: Cell, overlay: Step) -> Number:
        """Mean relative gain in AP over classes, each the mean over seeds."""
        before, after = (
            [self._steps.scored(self._steps.last(model, seed)) for seed in range(self._seeds)]
            for model in map(self._steps.model, (cell.reference, cell.model))
        )
        wanted = {"impacted": (True,), "others": (False,), "all": (True, False)}[cell.field]

        def read() -> float:
            impacted = {c["mid"]: c["added"] > 0 for c in read_json(overlay.output)["per_class"]}
            old, new = _class_means(before), _class_means(after)
            gains = [
                new[mid] / value - 1
                for mid, value in old.items()
                if impacted[mid] in wanted and value and mid in new
            ]
            return mean(gains) if gains else math.nan

        return Number((*before, *after, overlay), read)


def _last_epochs(run: Path, field: str) -> float:
    return mean(getattr(epoch, field) for epoch in read_run(run).epochs[-LAST_EPOCHS:])


def _of_epochs(starts: list[dict[str, Any]], field: str) -> float:
    """The mean or best of single epochs, or the mean scores of all."""
    alone = [start["checkpoint"] for start in starts]
    return {"average": mean(alone), "best": max(alone)}.get(field, starts[0]["score_ensemble"])


def _value(step: Step, field: str) -> Number:
    return Number((step,), lambda: float(read_json(step.output)[field]))


def _class_means(scored: list[Step]) -> dict[str, float]:
    """Mean AP of each class that has one."""
    tables = [{c["mid"]: c["AP"] for c in read_json(step.output)["per_class"]} for step in scored]
    return {mid: mean(t[mid] for t in tables) for mid, ap in tables[0].items() if ap is not None}
