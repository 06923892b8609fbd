"""Where a model comes from: the settings, the shards and the scores that go with it."""

import json
from pathlib import Path
from typing import Any

from psla_wds.config import Kind, to_json
from psla_wds.errors import ScoreError
from psla_wds.models.checkpoint import CHECKPOINTS
from psla_wds.models.config import IMAGENET, RANDOM
from psla_wds.models.model_folder import Provenance
from train.config import KINDS, read_config, read_made_with

HEADLINES = (
    "mAP",
    "mAUC",
    "d_prime",
    "accuracy",
    "mean_prevalence",
    "clips",
    "classes",
    "classes_scored",
)
"""What is taken of a metrics.json."""


def provenance_of(model: Path) -> Provenance:
    """That of the run that a model is of: its folder, or a file in it; nothing of others."""
    for folder in (model, *model.absolute().parents[:2]):
        if (folder / "config.json").is_file() and (folder / CHECKPOINTS).is_dir():
            return _of_run(folder / "config.json")
    return Provenance()


def headline_metrics(path: Path) -> dict[str, Any]:
    """The scores of all classes together, of a metrics.json by eval.score."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {name: content[name] for name in HEADLINES if name in content}
        if not isinstance(found["mAP"], int | float) or not isinstance(found["clips"], int):
            raise TypeError("mAP and clips are no numbers")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ScoreError(
            f"these are no metrics: {error}",
            where=path,
            fix="--metrics names a metrics.json that python -m eval.score wrote",
        ) from None
    return found


def _of_run(path: Path) -> Provenance:
    config, made_with = read_config(path), read_made_with(path)
    recipe = {n: v for n, v in to_json(config).items() if KINDS[n] is Kind.METHOD}
    if config.model.initial_weights not in (IMAGENET, RANDOM):
        recipe["model"]["initial_weights"] = Path(config.model.initial_weights).name
    fingerprint = made_with.get("index_fingerprint")
    return Provenance(recipe, None if fingerprint is None else str(fingerprint))
