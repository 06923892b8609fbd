"""Plan, render and write the clips of a demo corpus, in AudioSet's layout.

Clip i is a function of the seed, i and the length: a smaller corpus is the beginning of a larger
one. Plans, audio and annotations have random streams of their own: labels do not depend on audio.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
from jaxtyping import Float64

from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError
from psla_wds.io.atomic_files import atomic_open
from psla_wds.labels.class_list import write_class_list
from psla_wds.progress import progress_bar
from sharding.demo import classes
from sharding.demo.sounds import Event, noise

PLAN_STREAM, SOUND_STREAM, ANNOTATION_STREAM = 0, 1, 2
NUM_EVENTS_SHARES = (0.66, 0.28, 0.06)  # of clips with 1, 2 and 3 events: 1.4 on average
CALL_EVERY = 10  # so many clips have one whose first class is not drawn but the next in turn
EVENT_SHARE = (0.5, 1.0)  # length of an event, as a share of the clip's
EVENT_GAIN_DB = (-8.0, 0.0)
FADE_S = 0.005  # an event begins and ends without a click
FLOOR_BAND_HZ, FLOOR_DB = (20.0, 500.0), (-65.0, -45.0)
PEAK_DB = (-15.0, -1.0)  # below 0, since what Vorbis decodes to overshoots a little
FILE_FORMATS = (  # suffix, sample rate, channels: mixed as in real collections
    ("wav", 16_000, 1),
    ("flac", 16_000, 1),
    ("wav", 22_050, 1),
    ("flac", 44_100, 2),
    ("ogg", 32_000, 1),
)
FORMAT_SHARES = (0.40, 0.40, 0.08, 0.06, 0.06)


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What is in the corpus."""

    clips: Annotated[int, Within(1, 2**32)] = 1000
    """Number of clips. A smaller corpus is the beginning of a larger one."""
    seed: Annotated[int, Within(0, 2**32 - 1)] = 0
    """Seed of the clips. Use another seed for evaluation."""
    clip_s: Annotated[float, Within(0.1, 3600, without=(0.1,))] = 2.5
    """Length of every clip in seconds."""
    families: bool = False
    """Label families, such as Vehicle, as well; also write ontology.json and truth.jsonl."""
    missing_parents: Annotated[float, Within(0, 1)] = 0.0
    """Share of the labels of families to leave out of segments.csv."""
    missing_children: Annotated[float, Within(0, 1)] = 0.0
    """Share of the labels of families' members to leave out of segments.csv."""

    def __post_init__(self) -> None:
        check_ranges(self)
        missing = self.missing_parents + self.missing_children
        if missing > 1 or (missing and not self.families):
            raise ConfigError(
                f"cannot leave out {self.missing_parents:g} of parents and "
                f"{self.missing_children:g} of children",
                where="--missing-parents, --missing-children",
                fix="set --families, and shares that sum to at most 1",
            )


@dataclass(frozen=True)
class ClipPlan:
    """What a clip is to be."""

    clip_id: str
    sounds: tuple[classes.SoundClass, ...]
    """1 to 3 different classes, in the order of the class list."""
    suffix: str
    rate_hz: int
    num_channels: int


def write_corpus(output: Path, config: CorpusConfig) -> list[list[str]]:
    """Write the corpus; return the labels (mids) of each clip.

    segments.csv comes last: where it is, everything is complete. `ConfigError` if the folder
    exists and is not empty.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(
            "the output is not an empty folder",
            where=output,
            fix="name a folder that is empty or does not exist yet",
        )
    (output / "audio").mkdir(parents=True)
    plans = [plan_clip(config.seed, number) for number in range(config.clips)]
    for number, plan in enumerate(progress_bar(plans, desc="synthesize")):
        rng = np.random.default_rng([config.seed, number, SOUND_STREAM])
        path = output / "audio" / f"Y{plan.clip_id}.{plan.suffix}"
        path.write_bytes(_render(rng, plan, config.clip_s))
    labels = [_annotate(config, number, plan) for number, plan in enumerate(plans)]
    if config.families:
        truth = [{"clip_id": p.clip_id, "labels": classes.true_labels(p.sounds)} for p in plans]
        _write(output / "truth.jsonl", (f"{json.dumps(line)}\n" for line in truth))
        _write(output / "ontology.json", [classes.ontology()])
    class_list = classes.class_list(families=config.families)
    write_class_list(class_list, output / "class_labels_indices.csv")
    _write(output / "segments.csv", _segment_lines(plans, labels, config.clip_s))
    return labels


def plan_clip(seed: int, number: int) -> ClipPlan:
    """The plan of a clip, which depends on these two alone.

    Classes are drawn by their frequency, but for the first of every tenth clip: chance alone leaves
    the rarest out of a small corpus.
    """
    rng = np.random.default_rng([seed, number, PLAN_STREAM])
    num_events = 1 + rng.choice(len(NUM_EVENTS_SHARES), p=NUM_EVENTS_SHARES)
    turn, others = divmod(number, CALL_EVERY)
    called = [] if others else [turn % len(classes.SOUND_CLASSES)]
    weights = np.array([sound.frequency for sound in classes.SOUND_CLASSES])
    weights[called] = 0.0
    drawn = rng.choice(
        len(weights), num_events - len(called), replace=False, p=weights / weights.sum()
    )
    sounds = (classes.SOUND_CLASSES[i] for i in sorted([*called, *drawn]))
    file_format = FILE_FORMATS[rng.choice(len(FILE_FORMATS), p=FORMAT_SHARES)]
    return ClipPlan(clip_id(seed, number), tuple(sounds), *file_format)


def clip_id(seed: int, number: int) -> str:
    """11 characters as on YouTube: 64 bits of a hash in base64."""
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return base64.urlsafe_b64encode(digest[:8]).decode().rstrip("=")


def _annotate(config: CorpusConfig, number: int, plan: ClipPlan) -> list[str]:
    if not config.families:
        return [sound.mid for sound in plan.sounds]
    rng = np.random.default_rng([config.seed, number, ANNOTATION_STREAM])
    missing = config.missing_parents, config.missing_children
    return classes.annotated_labels(rng, classes.true_labels(plan.sounds), missing)


def _render(rng: np.random.Generator, plan: ClipPlan, clip_s: float) -> bytes:
    """The events of a clip over a faint floor, encoded."""
    num_samples = round(clip_s * plan.rate_hz)
    floor = noise(Event(rng, num_samples, plan.rate_hz), band_hz=FLOOR_BAND_HZ)
    clip = np.tile(floor[:, None] * _gain(rng, FLOOR_DB), plan.num_channels)
    for sound in plan.sounds:
        length = round(rng.uniform(*EVENT_SHARE) * num_samples)
        event = sound.generate(Event(rng, length, plan.rate_hz))
        event *= _gain(rng, EVENT_GAIN_DB) / np.abs(event).max()
        to_edge = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1))
        event *= np.minimum(1.0, to_edge / (FADE_S * plan.rate_hz))
        onset = rng.integers(0, num_samples - length + 1)
        panning = rng.uniform(0.3, 1.0, plan.num_channels)
        clip[onset : onset + length] += event[:, None] * (panning / panning.max())
    return _encode(clip * (_gain(rng, PEAK_DB) / np.abs(clip).max()), plan)


def _gain(rng: np.random.Generator, range_db: tuple[float, float]) -> float:
    return 10 ** (rng.uniform(*range_db) / 20)


def _encode(clip: Float64[np.ndarray, "samples channels"], plan: ClipPlan) -> bytes:
    buffer = io.BytesIO()  # given a path, soundfile syncs every file to the disk: 5 ms
    soundfile.write(buffer, clip, plan.rate_hz, format=plan.suffix)
    return buffer.getvalue()


def _segment_lines(plans: list[ClipPlan], labels: list[list[str]], clip_s: float) -> Iterator[str]:
    """AudioSet's segments: three lines of comment, then a comma *and a space* between fields."""
    mids = [mid for found in labels for mid in found]
    yield "# Segments csv created by sharding.synthesize\n"
    yield f"# num_ytids={len(plans)}, num_segs={len(plans)}, "
    yield f"num_unique_labels={len(set(mids))}, num_positive_labels={len(mids)}\n"
    yield "# YTID, start_seconds, end_seconds, positive_labels\n"
    for plan, found in zip(plans, labels, strict=True):
        yield f'{plan.clip_id}, 0.000, {clip_s:.3f}, "{",".join(found)}"\n'


def _write(path: Path, lines: Iterable[str]) -> None:
    with atomic_open(path, "w") as file:
        file.writelines(lines)
