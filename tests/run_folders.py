"""Run folders as a training leaves them, with logs of any content."""

import json
from collections.abc import Sequence
from pathlib import Path

from train.run.log import QUALITY


def write_run(folder: Path, lines: Sequence[str], **config: object) -> Path:
    """A run's folder with these lines for its log, and these settings."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"run_dir": str(folder)} | config))
    (folder / "log.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def step_line(step: int, loss: float = 0.5) -> str:
    rates = {"learning_rate": 1e-4, "clips_per_s": 900.0, "data_wait": 0.02}
    return json.dumps({"event": "step", "step": step, "epoch": 1, "loss": loss, **rates})


def epoch_line(epoch: int, map_: float | None = 0.25, **other: float | None) -> str:
    quality = {"train_loss": 0.4, "eval_loss": 0.3, "mAP": map_, "mAUC": 0.8, "d_prime": 1.19}
    rates = {"learning_rate": 1e-4, "clips_per_s": 900.0, "data_wait": 0.02, "duration_s": 60.0}
    rates["storage_wait"] = 0.01
    record = {"event": "epoch", "epoch": epoch, "step": 100 * epoch, **quality, **rates, **other}
    return json.dumps(record)


def not_evaluated(epoch: int) -> str:
    """The line of an epoch of a run without evaluation shards."""
    record = json.loads(epoch_line(epoch))
    return json.dumps({k: v for k, v in record.items() if k not in QUALITY})
