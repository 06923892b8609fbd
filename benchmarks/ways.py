"""Loaders that are compared: how each is opened, tuned and timed."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.harness import compare, synchronize

WARMUP_BATCHES = 12
"""More than any loader here reads ahead: from then on it is as fast as it can be for long."""

Setting = dict[str, int]


@dataclass(frozen=True)
class Batch:
    """What reaches the consumer, whichever loader it comes from."""

    keys: Sequence[str] | np.ndarray
    """Clip ids, or rows of the index."""
    clips: Sequence[Any]
    """Encoded bytes, or float32 waveforms."""
    targets: np.ndarray | torch.Tensor
    """float32 [clips, classes], 1 where a clip carries a class."""


@dataclass(frozen=True)
class Way:
    """One loader at one level of work."""

    name: str
    order: str
    """The order of clips that it delivers."""
    open: Callable[..., AbstractContextManager[Iterator[Any]]]
    """Endless batches, given a setting; whatever it started ends with the context."""
    settings: tuple[Setting, ...] = ({},)
    """What is tried before the measurement; the fastest is measured."""


@dataclass(frozen=True)
class Timing:
    """How long each loader is timed."""

    batch_size: int
    seconds: float
    repeats: int


def steady_rate(opened: AbstractContextManager[Iterator[Any]], timing: Timing) -> float:
    """Clips per second, once what was read ahead is used up.

    Each loader is opened for its own measurement only: one that reads ahead while another is
    measured would gain what that one loses.
    """
    with opened as batches:
        for _ in itertools.islice(batches, WARMUP_BATCHES):
            pass
        synchronize()
        started, taken = time.perf_counter(), 0
        for _ in batches:
            taken += 1
            if time.perf_counter() - started > timing.seconds:
                break
        synchronize()
        return taken * timing.batch_size / (time.perf_counter() - started)


def swept(way: Way, timing: Timing) -> dict[str, float]:
    """Clips per second of each setting, by its name; one that was not needed is not measured."""
    if len(way.settings) == 1:
        return {setting_name(way.settings[0]): 0.0}
    return {setting_name(s): steady_rate(way.open(**s), timing) for s in way.settings}


def setting_name(setting: Setting) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items()) or "as it is"


def measure_level(
    level: str, ways: list[Way], limits: dict[str, Callable[[], float]], timing: Timing
) -> list[dict[str, Any]]:
    """Tune each way, then compare them and the limits: results of one level, for the record."""
    sweeps, rates = {}, {}
    for way in tqdm(ways, desc=f"{level}: settings", leave=False):
        sweeps[way.name] = swept(way, timing)
        best = max(way.settings, key=lambda s, way=way: sweeps[way.name][setting_name(s)])
        rates[way.name] = lambda way=way, best=best: steady_rate(way.open(**best), timing)
    orders = {way.name: way.order for way in ways}
    results = []
    for result in compare(rates | limits, repeats=timing.repeats):
        sweep = sweeps.get(result.name, {})
        results.append(
            asdict(result)
            | {
                "level": level,
                "order": orders.get(result.name, "limit"),
                "setting": max(sweep, key=sweep.__getitem__, default=""),
                "sweep": sweep,
            }
        )
    return results


def check_same_clips(way: Way, expected: dict[str, np.ndarray], ids: Callable[[Any], str]) -> None:
    """What a way delivers under a clip's id is that clip; at least one must have been met.

    Args:
        expected: bytes as uint8, or a float32 waveform, of some clips, by id.
        ids: the clip id of a key of the way's batches.
    """
    met = 0
    with way.open(**way.settings[0]) as batches:
        for batch in itertools.islice(batches, 2 * WARMUP_BATCHES):
            for key, clip in zip(batch.keys, batch.clips, strict=True):
                wanted = expected.get(ids(key))
                if wanted is None:
                    continue
                met += 1
                if not same_clip(clip, wanted):
                    raise AssertionError(f"{way.name} delivers another clip as {ids(key)}")
    if not met:
        raise AssertionError(f"{way.name} delivered none of the {len(expected)} clips compared")


LARGEST_DIFFERENCE = 1e-6
"""Between decoders of the same 16-bit samples, which scale by 2**-15 or by 1 / 32767 rounded."""


def same_clip(clip: Any, wanted: np.ndarray) -> bool:
    """Bytes must be the same, and waveforms but for rounding."""
    if wanted.dtype == np.uint8:
        return bytes(memoryview(clip)) == wanted.tobytes()
    found = np.asarray(clip).reshape(-1)
    return len(found) == len(wanted) and float(np.abs(found - wanted).max()) <= LARGEST_DIFFERENCE
