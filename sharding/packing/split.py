"""The order of the clips, and their split into train and eval by a share: fair to each class."""

import hashlib
import logging
from array import array
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int64

from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import Clip
from sharding.packing.clip_table import ClipTable, Unsplit
from sharding.packing.plan import Layout

if TYPE_CHECKING:
    from scipy.sparse import csr_array

COMMON = 100
"""Number of clips above which a class has nearly the same share with one clip more or less."""
MAX_NAMED = 5
"""Most classes that the warning names."""

logger = logging.getLogger("sharding.build")


def in_order(clips: Iterable[Clip], layout: Layout, classes: ClassList) -> ClipTable:
    """Clips with their splits, in a random order that depends only on each id and the seed: any
    first n clips, and any shard, are a fair sample of the data set."""
    is_stratified = layout.eval_share > 0 and layout.split_by_class
    return ClipTable(
        (
            (_random_number("order", layout.seed, clip.clip_id), _with_split(clip, layout))
            for clip in clips
        ),
        EvalChoice(layout.eval_share, layout.seed, classes) if is_stratified else None,
    )


def _random_number(purpose: str, seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{purpose} {seed} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _with_split(clip: Clip, layout: Layout) -> Clip:
    """Put a clip without a split into eval or train by its id alone, as the first builds did."""
    if clip.split or not layout.eval_share or layout.split_by_class:
        return clip
    is_eval = _random_number("split", layout.seed, clip.clip_id) < layout.eval_share * 2**64
    return replace(clip, split="eval" if is_eval else "train")


class EvalChoice:
    """Chooses the clips for eval among those without a split; the others are for train."""

    def __init__(self, share: float, seed: int, classes: ClassList) -> None:
        self._share, self._seed, self._classes = share, seed, classes

    def __call__(self, clips: Iterable[Unsplit]) -> Iterable[int]:
        """Numbers of the clips that go to eval; only ids, groups, labels and the seed matter, and
        not the order of the clips."""
        from scipy.sparse import coo_array  # here, since most builds do not need SciPy

        numbers, unit_of, keys = array("q"), array("q"), array("Q")
        labels, num_labels, groups = array("i"), array("q"), dict[str, int]()
        for number, clip_id, group, clip_labels in clips:
            numbers.append(number)
            unit = groups.setdefault(group, len(keys)) if group else len(keys)
            if unit == len(keys):
                keys.append(_random_number("split", self._seed, group or clip_id))
            unit_of.append(unit)
            labels.extend(clip_labels or (len(self._classes),))  # no label counts as a class
            num_labels.append(len(clip_labels) or 1)
        if not numbers:
            return ()
        rank = np.empty(len(keys), np.int64)
        rank[np.argsort(np.asarray(keys), kind="stable")] = np.arange(len(keys))
        units = rank[np.asarray(unit_of)]
        places = (np.repeat(units, np.asarray(num_labels)), np.asarray(labels))
        shape = (len(keys), len(self._classes) + 1)
        counts = coo_array((np.ones(len(labels), np.int64), places), shape).tocsr()
        in_eval = stratified(counts, np.bincount(units, minlength=len(keys)), self._share)
        self._warn(counts[in_eval].sum(axis=0), counts[~in_eval].sum(axis=0))
        return map(int, np.asarray(numbers)[in_eval[units]])

    def _warn(self, in_eval: Int64[np.ndarray, " c"], in_train: Int64[np.ndarray, " c"]) -> None:
        """Log the classes with clips on one side alone, by their numbers of clips."""
        lacks = []
        for split, own, other in (("eval", in_eval, in_train), ("train", in_train, in_eval)):
            rows = np.flatnonzero((own == 0) & (other > 0))
            names = [self._classes.names[row] for row in rows if row < len(self._classes)]
            if names:
                more = ", ..." if len(names) > MAX_NAMED else ""
                lacks.append(f"{len(names)} in {split} ({', '.join(names[:MAX_NAMED])}{more})")
        if lacks:
            logger.warning("classes without a clip on one side: %s", ", ".join(lacks))


def stratified(
    counts: "csr_array", sizes: Int64[np.ndarray, " units"], share: float
) -> Bool[np.ndarray, " units"]:
    """Whether each unit, a clip or several that stay together, goes to eval.

    The share is that of all clips, to the clip, and of each class as nearly as it can be. This is
    iterative stratification (Sechidis et al. 2011): the class with the fewest clips left is split
    first, with all that its clips have of other classes, and what is rounded for one class is made
    up for by the next. Packages for it need clips x classes numbers in memory, and know no groups.

    Args:
        counts: clips of each unit (row) with each class (column), a class at least in each row; the
            order of units decides between equals.
        sizes: number of clips of each unit.
    """
    by_class, total = counts.tocsc(), counts.sum(axis=0)
    left, chosen = total.copy(), np.zeros_like(total)
    waits, in_eval = np.ones(len(sizes), bool), np.zeros(len(sizes), bool)
    surplus = 0.0  # clips in eval beyond their share of those that are placed
    while left.any():
        one = int(np.argmin(np.where(left > 0, left, np.iinfo(left.dtype).max)))
        part = slice(*by_class.indptr[one : one + 2])
        is_left = waits[by_class.indices[part]]
        units, clips = by_class.indices[part][is_left], by_class.data[part][is_left]
        largest_first = np.argsort(-clips, kind="stable")
        units, clips = units[largest_first], clips[largest_first]
        surplus -= share * sizes[units].sum()
        quotas = np.maximum(0, share * total - chosen)
        room = (0.5 + quotas / 10)[(quotas >= 1.5) & (left > 0)].sum()  # for fewer of other classes
        low, high = _bounds(quotas[one], clips.mean(), is_urgent=bool(surplus + 1 <= room))
        high = min(high, total[one] - chosen[one] - 1)  # the last clip is for train
        fitting = _fitting(clips, np.clip(np.rint(-surplus), min(low, high), high))
        surplus += sizes[units[fitting]].sum()
        waits[units], in_eval[units[fitting]] = False, True
        left -= counts[units].sum(axis=0)
        chosen += counts[units[fitting]].sum(axis=0)
    _correct(in_eval, counts, sizes, share)
    return in_eval


def _bounds(quota: float, unit_clips: float, *, is_urgent: bool) -> tuple[float, float]:
    """Fewest and most clips of a class for eval; the total decides between them."""
    grain = (unit_clips - 1) / 2
    low = max(0.0, np.floor(quota - grain))
    return (1.0 if not low and quota >= 0.5 and is_urgent else low), np.ceil(quota + grain)


def _fitting(clips: Int64[np.ndarray, " units"], wanted: float | int) -> list[int]:
    """Positions of units that together have about this number of clips, the first ones."""
    fitting, num_clips = list[int](), 0
    for position, more in enumerate(clips.tolist()):
        if num_clips + 0.5 > wanted:
            break
        if num_clips + more / 2 <= wanted:
            fitting.append(position)
            num_clips += more
    return fitting


def _correct(
    in_eval: Bool[np.ndarray, " units"],
    counts: "csr_array",
    sizes: Int64[np.ndarray, " units"],
    share: float,
) -> None:
    """Move clips of common classes alone until eval has its share of all clips."""
    missing = round(share * sizes.sum()) - int(sizes[in_eval].sum())
    total = counts.sum(axis=0)
    rarest = np.minimum.reduceat(total[counts.indices], counts.indptr[:-1])
    units = np.flatnonzero(in_eval != (missing > 0))
    units = units[np.argsort(-np.minimum(rarest[units], COMMON), kind="stable")]
    in_eval[units[_fitting(sizes[units], abs(missing))]] = missing > 0
