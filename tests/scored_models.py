"""Scores of models that agree in their clips and targets."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from psla_wds.evaluation.scores import Scores


def model(seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    targets = (np.random.default_rng(0).random((60, 4)) < 0.3).astype(np.uint8)
    scores = (0.3 * targets + rng.random((60, 4))).astype(np.float32)
    ids, mids = tuple(f"clip-{i}" for i in range(60)), ("/m/0", "/m/1", "/m/2", "/m/3")
    return Scores(ids, scores, targets, mids, ("A", "B", "C", "D"))


def shuffled(scores: Scores) -> Scores:
    order = np.random.default_rng(9).permutation(len(scores))
    ids = tuple(np.array(scores.clip_ids)[order].tolist())
    return replace(scores, clip_ids=ids, scores=scores.scores[order], targets=scores.targets[order])


def saved(folder: Path, *models: Scores) -> list[Path]:
    paths = [folder / f"{i}.npz" for i in range(len(models))]
    for path, scores in zip(paths, models, strict=True):
        scores.save(path)
    return paths
