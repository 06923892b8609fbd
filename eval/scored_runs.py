"""Whether a run has the weights that gave its scores: one that went on has others."""

import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from psla_wds.errors import ScoreError
from psla_wds.evaluation.scores import Origin
from psla_wds.io.atomic_files import sha256_of
from psla_wds.models.checkpoint import epoch_checkpoints, epoch_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """What of a run was scored."""

    files: tuple[Path, ...]
    """Its checkpoints that gave the scores; none where that cannot be told."""
    epoch: int
    """The last that went in."""
    last_epoch: int
    """Of the run."""
    is_foreign: bool = False
    """The run's folder has not got all of these weights."""

    @property
    def is_current(self) -> bool:
        """Whether the run has not gone on since, as far as can be told."""
        return self.epoch == self.last_epoch and not self.is_foreign

    def __str__(self) -> str:
        if self.is_foreign:
            return "weights that the run's folder does not have"
        if not self.files:
            return "weights that are not known"
        what = f"{len(self.files)} checkpoints" if len(self.files) > 1 else self.files[0].name
        gone_on = "" if self.is_current else f", and the run has {self.last_epoch}"
        return f"{what} (epoch {self.epoch}{gone_on})"


def scored_of_run(origins: Sequence[Origin], run: Path, *, where: Path) -> Scored:
    """The run's checkpoints that gave the scores at `where`, as far as its folder has them.

    Score files of older versions do not say, and a run may have been copied without its
    checkpoints: then nothing can be told, which is a warning.
    """
    last_epoch = max(epoch_checkpoints(run), default=0)
    if not origins or not last_epoch:
        lacking = "the score file does not say" if last_epoch else "the run has no checkpoints"
        logger.warning("%s: whether it is of the run's weights is not known: %s", where, lacking)
        return Scored((), last_epoch, last_epoch)
    files = [_find(origin, run, last_epoch) for origin in origins]
    found = tuple(path for path in files if path)
    epoch = max(origin.epoch for origin in origins)
    return Scored(found, epoch, last_epoch, is_foreign=len(found) < len(files))


def current_scored(origins: Sequence[Origin], run: Path, *, where: Path) -> Scored:
    """The same of scores that stand for the run; `ScoreError` if they are not of its weights, or it
    went on since."""
    scored = scored_of_run(origins, run, where=where)
    if scored.is_foreign:
        raise ScoreError(
            "the scores are of weights that the run does not have: it was trained or averaged anew "
            "since, or they are another model's",
            where=f"{where}, {run}",
            fix=f"{predict_again(run, where)}; or give the score file in place of the run",
        )
    if not scored.is_current:
        raise ScoreError(
            f"the scores are those of {scored}",
            where=where,
            fix=f"{predict_again(run, where)} (of an average, make it anew first); or give the "
            "score file in place of the run",
        )
    return scored


def predict_again(model: Path, scores: Path) -> str:
    """The command that scores a model: of a run's folder, its last epoch."""
    words = [shlex.quote(str(path)) for path in (model, scores)]
    return f"python -m eval.predict {words[0]} --index SHARDS --output {words[1]}"


def _find(origin: Origin, run: Path, last_epoch: int) -> Path | None:
    candidates = _candidates(run, origin.epoch, last_epoch)
    return next((path for path in candidates if sha256_of(path) == origin.sha256), None)


def _candidates(run: Path, epoch: int, last_epoch: int) -> Iterator[Path]:
    """Where such weights may be: to hash all checkpoints of a run would take its time."""
    epochs = (epoch_path(run, number) for number in dict.fromkeys((last_epoch, epoch)))
    yield from (path for path in epochs if path.is_file())
    yield from sorted(run.glob("*.pt"))
