"""Steps whose loss or gradient is not finite: their clips are reported, their number is limited."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psla_wds.errors import PslaError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.runtime.distributed import World
from psla_wds.sampling.augment import Draws
from psla_wds.shards.index import ShardIndex
from train.config import BAD_BATCHES
from train.steps.metrics import Measured

logger = logging.getLogger("train")


class BadSteps:
    """Bad steps of a run, which did not change the model; too many of them end the run."""

    def __init__(self, folder: Path, world: World, *, most: int) -> None:
        self._path, self._world, self._most = folder / BAD_BATCHES, world, most
        self.steps: list[int] = []

    def record(
        self, found: list[Measured], epoch: int, clips_of_step: Callable[[int], list[Any]]
    ) -> None:
        """Write steps to the file, on rank 0; raises `PslaError` on all ranks if they are too many.

        Args:
            clips_of_step: this rank's share of a step, by `clips_as_json`.
        """
        clips = json.dumps([clips_of_step(measured.step) for measured in found])
        shares = [json.loads(share) for share in self._world.messages(clips)]
        lines = [
            json.dumps(
                {
                    "step": measured.step,
                    "epoch": epoch,
                    "loss": str(measured.loss),  # strict JSON has no nan and inf
                    "gradient_norm": str(measured.gradient_norm),
                    "clips": [clip for share in shares for clip in share[number]],
                }
            )
            for number, measured in enumerate(found)
        ]
        self._world.together(lambda: self._append(lines) if self._world.is_main else None)
        self.steps += [measured.step for measured in found]
        if len(self.steps) > self._most:
            self._world.together(lambda: self._give_up(found[-1], epoch))
        if self._world.is_main:
            logger.warning(
                "%d of at most %d bad steps were skipped so far; %s lists their clips",
                *(len(self.steps), self._most, self._path),
            )

    def _append(self, lines: list[str]) -> None:
        what, then = "write the clips of a bad step", "go on with --resume"
        with disk_errors(self._path, what, then=then), self._path.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def _give_up(self, last: Measured, epoch: int) -> None:
        what = "gradient" if math.isfinite(last.loss) else "loss"
        allowed = f", and only {self._most} bad steps are allowed" if self._most else ""
        raise PslaError(
            f"the {what} of step {last.step}, in epoch {epoch}, is not finite{allowed}",
            where=f"{self._path} has the clips of its batch; the weights are those before it",
            fix="listen to the clips; lower --optimizer.learning-rate, or set --precision float32; "
            f"or skip such steps: --resume --max-bad-steps {len(self.steps)}",
        )


def clips_as_json(draws: Draws, index: ShardIndex) -> list[dict[str, Any]]:
    """The clip of each draw, its partner if it has one, and the clip's share of the mix."""
    return [
        {
            "clip_id": index.clip_id(row),
            "partner": index.clip_id(partner) if mixed else None,
            "lam": round(float(lam), 6),
        }
        for row, partner, mixed, lam in zip(
            draws.rows, draws.partners, draws.mixed, draws.lam, strict=True
        )
    ]
