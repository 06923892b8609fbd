"""Make a demo corpus: sounds one can name by ear, in AudioSet's layout, from a seed.

python -m sharding.synthesize OUT --clips 1500 --seed 0
"""

import base64
import io
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import tyro
from jaxtyping import Float64

from psla_wds import cli
from psla_wds.errors import ConfigError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.progress import progress_bar
from sharding.families import FAMILIES, annotated_labels, ontology, truth_line
from sharding.sounds import SOUND_CLASSES, SoundClass, class_probabilities
from sharding.waveforms import Waveform, soften

SHORTEST_CLIP_S = 0.1
LIMIT = 2**32  # of clips and of seeds: both go into the 64 bits of a clip id

# The counter of a random stream is (seed, clip, purpose): the labels do not depend on the audio.
PLAN_STREAM, SOUND_STREAM, ANNOTATION_STREAM = 0, 1, 2

NUM_EVENTS_SHARES = (0.46, 0.33, 0.15, 0.06)  # of clips with 1, 2, 3, 4 events: 1.8 on average
ROLL_CALL_CLIPS = 375  # every class is called once in so many clips: 4 times in 1500

EVENT_SHARE = (0.5, 1.0)  # length of an event, of its clip's
EVENT_GAIN_DB = (-12.0, 0.0)
FADED_SHARE = 0.3  # of the beginnings of events, and of their ends
FADE = 0.25  # length of a fade, of its event's
CUT_S = 0.005  # where there is no fade, an event is still cut without a click
FLOOR_CUTOFF_HZ = 500.0
FLOOR_DB = (-55.0, -35.0)  # deviation before the cutoff, which takes off another 10 dB
PEAK_DB = (-15.0, -1.0)  # not up to 0, since what Vorbis gives back overshoots a little

# Steele, Lea & Flood 2014: each step can be undone, so different numbers stay different.
SPLITMIX64_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


@dataclass(frozen=True, kw_only=True)
class Args:
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to make: audio/, segments.csv, class_labels_indices.csv."""
    clips: int = 1500
    """How many; a smaller corpus is the beginning of a larger one."""
    seed: int = 0
    """Clip i depends on nothing but the seed, i and the length; use another seed for evaluation."""
    clip_s: float = 2.5
    """Length of every clip in seconds."""
    families: bool = False
    """Also label families, such as Speech; write ontology.json and, of all clips, truth.jsonl."""
    missing_parents: float = 0.0
    """Share of the families' labels that are left out of segments.csv."""
    missing_children: float = 0.0
    """Share of the labels of families' members that are left out of segments.csv."""

    def __post_init__(self) -> None:
        shares = (self.missing_parents, self.missing_children)
        if min(shares) < 0 or sum(shares) > 1 or (any(shares) and not self.families):
            raise ConfigError(
                f"shares of {shares[0]:g} missing parents and {shares[1]:g} missing children "
                "cannot be made",
                where="--missing-parents, --missing-children",
                fix="set --families, and shares from 0 to 1 that sum to at most 1",
            )
        if not 1 <= self.clips <= LIMIT:
            raise ConfigError(
                f"clips={self.clips} is not between 1 and {LIMIT}",
                where="--clips",
                fix="set --clips 1500",
            )
        if not 0 <= self.seed < LIMIT:
            raise ConfigError(
                f"seed={self.seed} is not between 0 and {LIMIT - 1}",
                where="--seed",
                fix="set --seed 0",
            )
        if not SHORTEST_CLIP_S < self.clip_s < math.inf:
            raise ConfigError(
                f"clip_s={self.clip_s:g} is not a length above {SHORTEST_CLIP_S} seconds",
                where="--clip-s",
                fix="set --clip-s 2.5",
            )


@dataclass(frozen=True)
class FileFormat:
    """How a clip is stored. Collections in the wild are mixed, so the packer must resample."""

    suffix: str
    sample_rate_hz: int
    num_channels: int
    share: float
    """Of all clips."""


FILE_FORMATS = (
    FileFormat("wav", 16_000, 1, 0.40),
    FileFormat("flac", 16_000, 1, 0.38),
    FileFormat("wav", 22_050, 1, 0.08),
    FileFormat("flac", 44_100, 2, 0.06),
    FileFormat("wav", 48_000, 1, 0.04),
    FileFormat("ogg", 32_000, 1, 0.04),
)


@dataclass(frozen=True)
class ClipPlan:
    """What a clip is, before any of it sounds."""

    clip_id: str
    sounds: tuple[SoundClass, ...]
    """1 to 4 different classes, the order of the table."""
    file_format: FileFormat

    @property
    def file_name(self) -> str:
        return f"Y{self.clip_id}.{self.file_format.suffix}"


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m sharding.synthesize")
    with disk_errors(args.output, "write the corpus", then="delete the folder, and run it again"):
        print(synthesize(args))


def synthesize(args: Args) -> str:
    """Write the corpus; give a line that says what was written and what to run next.

    The two CSV files come last: where they stand, the audio is complete.
    """
    _check_is_free(args.output)
    audio_root = args.output / "audio"
    audio_root.mkdir(parents=True)
    plans = [plan_clip(args.seed, number) for number in range(args.clips)]
    for number, plan in enumerate(progress_bar(plans, desc="synthesize")):
        rng = np.random.default_rng([args.seed, number, SOUND_STREAM])
        clip = render_clip(rng, plan, args.clip_s)
        (audio_root / plan.file_name).write_bytes(_encode(clip, plan.file_format))
    labels = [_labels(args, number, plan) for number, plan in enumerate(plans)]
    if args.families:
        _write_lines(args.output / "ontology.json", ontology().splitlines())
        truth = (truth_line(plan.clip_id, plan.sounds) for plan in plans)
        _write_lines(args.output / "truth.jsonl", truth)
    _write_lines(args.output / "class_labels_indices.csv", _class_list_lines(args.families))
    _write_lines(args.output / "segments.csv", _segment_lines(plans, labels, args.clip_s))
    return _last_line(args, labels)


def _labels(args: Args, number: int, plan: ClipPlan) -> list[str]:
    """The mids that an annotator found."""
    if not args.families:
        return [sound.mid for sound in plan.sounds]
    return annotated_labels(
        np.random.default_rng([args.seed, number, ANNOTATION_STREAM]),
        plan.sounds,
        no_parent=args.missing_parents,
        no_child=args.missing_children,
    )


def plan_clip(seed: int, number: int) -> ClipPlan:
    """What clip `number` is: a function of these two, so a small corpus begins a large one."""
    rng = np.random.default_rng([seed, number, PLAN_STREAM])
    num_events = 1 + rng.choice(len(NUM_EVENTS_SHARES), p=NUM_EVENTS_SHARES)
    shares = [file_format.share for file_format in FILE_FORMATS]
    return ClipPlan(
        clip_id=clip_id(seed, number),
        sounds=tuple(SOUND_CLASSES[i] for i in _draw_classes(rng, number, num_events)),
        file_format=FILE_FORMATS[rng.choice(len(FILE_FORMATS), p=shares)],
    )


def _draw_classes(rng: np.random.Generator, number: int, num_events: int) -> list[int]:
    """Different classes by their frequency, of which the first may be called by its turn.

    Chance alone leaves the rarest classes out of a small corpus. So every class is called once
    in `ROLL_CALL_CLIPS`, at every second clip from the first on.
    """
    turn = number % ROLL_CALL_CLIPS
    called = [turn // 2] if turn % 2 == 0 and turn < 2 * len(SOUND_CLASSES) else []
    probabilities = class_probabilities()
    probabilities[called] = 0.0
    probabilities /= probabilities.sum()
    drawn = rng.choice(len(SOUND_CLASSES), num_events - len(called), replace=False, p=probabilities)
    return sorted([*called, *drawn.tolist()])


def clip_id(seed: int, number: int) -> str:
    """11 characters as on YouTube: 64 bits in base64; equal for no two (seed, number)."""
    mixed = ((seed << 32 | number) + 0x9E3779B97F4A7C15) % 2**64  # golden ratio: 0 does not stay 0
    for shift, factor in SPLITMIX64_ROUNDS:
        mixed = ((mixed ^ mixed >> shift) * factor) % 2**64
    mixed ^= mixed >> 31
    return base64.urlsafe_b64encode(mixed.to_bytes(8, "big")).decode().rstrip("=")


def render_clip(
    rng: np.random.Generator, plan: ClipPlan, clip_s: float
) -> Float64[np.ndarray, "samples channels"]:
    """The sound of a clip: its events over a faint floor, at a level of its own."""
    rate_hz, num_channels = plan.file_format.sample_rate_hz, plan.file_format.num_channels
    num_samples = round(clip_s * rate_hz)
    floor = soften(rng.standard_normal(num_samples), rate_hz, FLOOR_CUTOFF_HZ)
    clip = np.tile(floor[:, None] * _amplitude(rng.uniform(*FLOOR_DB)), num_channels)
    for sound in plan.sounds:
        event = _render_event(rng, sound, round(rng.uniform(*EVENT_SHARE) * num_samples), rate_hz)
        onset = rng.integers(0, num_samples - len(event) + 1)
        panning = rng.uniform(0.3, 1.0, num_channels)
        clip[onset : onset + len(event)] += event[:, None] * (panning / panning.max())
    return clip * (_amplitude(rng.uniform(*PEAK_DB)) / np.abs(clip).max())


def _render_event(
    rng: np.random.Generator, sound: SoundClass, num_samples: int, sample_rate_hz: int
) -> Waveform:
    event = sound.generate(rng, num_samples, sample_rate_hz)
    event *= _amplitude(rng.uniform(*EVENT_GAIN_DB)) / np.abs(event).max()
    fade_in, fade_out = np.where(rng.random(2) < FADED_SHARE, FADE * num_samples, 0.0)
    shortest = CUT_S * sample_rate_hz
    to_start, to_stop = np.arange(1, num_samples + 1), np.arange(num_samples, 0, -1)
    event *= np.minimum(1.0, to_start / max(fade_in, shortest))
    return event * np.minimum(1.0, to_stop / max(fade_out, shortest))


def _amplitude(level_db: float) -> float:
    return 10 ** (level_db / 20)


def _encode(clip: Float64[np.ndarray, "samples channels"], file_format: FileFormat) -> bytes:
    buffer = io.BytesIO()  # given a path, soundfile syncs every file to the disk: 5 ms
    soundfile.write(buffer, clip, file_format.sample_rate_hz, format=file_format.suffix)
    return buffer.getvalue()


def _check_is_free(output: Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(
            "the output is not an empty folder",
            where=output,
            fix="name a folder that is empty or does not exist yet",
        )


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text("".join(f"{line}\n" for line in lines))
    partial.replace(path)


def _class_list_lines(with_families: bool) -> list[str]:
    classes = [*SOUND_CLASSES, *(FAMILIES if with_families else ())]
    rows = [f'{i},{c.mid},"{c.display_name}"' for i, c in enumerate(classes)]
    return ["index,mid,display_name", *rows]


def _segment_lines(plans: list[ClipPlan], labels: list[list[str]], clip_s: float) -> list[str]:
    """AudioSet's segments: three lines of comment, then a comma *and a space* between fields."""
    num_labels = sum(map(len, labels))
    rows = [
        f'{plan.clip_id}, 0.000, {clip_s:.3f}, "{",".join(mids)}"'
        for plan, mids in zip(plans, labels, strict=True)
    ]
    return [
        "# Segments csv created by sharding.synthesize",
        f"# num_ytids={len(plans)}, num_segs={len(plans)}, "
        f"num_unique_labels={len({mid for mids in labels for mid in mids})}, "
        f"num_positive_labels={num_labels}",
        "# YTID, start_seconds, end_seconds, positive_labels",
        *rows,
    ]


def _last_line(args: Args, labels: list[list[str]]) -> str:
    labels_per_clip = sum(map(len, labels)) / len(labels)
    segments, audio_root, class_labels = (
        shlex.quote(str(args.output / name))
        for name in ("segments.csv", "audio", "class_labels_indices.csv")
    )
    build = f"--segments {segments} --audio-root {audio_root} --class-labels {class_labels}"
    num_classes = len(_class_list_lines(args.families)) - 1
    return (
        f"wrote {args.output}: {args.clips:,} clips, {num_classes} classes, "
        f"{labels_per_clip:.2f} labels a clip; "
        f"next: python -m sharding.build audioset {build} --output SHARDS"
    )


if __name__ == "__main__":
    cli.run(main)
