"""The demo corpus: the same for a seed, as unbalanced as promised, and made of real sounds."""

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from psla_wds.errors import ConfigError
from sharding.families import FAMILIES, annotated_labels, true_labels
from sharding.sounds import SOUND_CLASSES, SoundClass
from sharding.synthesize import Args, clip_id, plan_clip, synthesize
from sharding.waveforms import buzz, noise

ROOT = Path(__file__).resolve().parents[2]
NUM_CLIPS = 100  # enough for every file format
SEEDS = st.integers(0, 2**32 - 1)

by_name = pytest.mark.parametrize("sound", SOUND_CLASSES, ids=lambda sound: sound.name)


def make(output: Path, *, clips: int = 12, seed: int = 0) -> Path:
    synthesize(Args(output=output, clips=clips, seed=seed, clip_s=0.5))
    return output


def segment_rows(corpus: Path) -> list[list[str]]:
    lines = (corpus / "segments.csv").read_text().splitlines()
    assert [line.startswith("#") for line in lines[:4]] == [True, True, True, False]
    return list(csv.reader(lines[3:], skipinitialspace=True))


def decoded(corpus: Path) -> dict[str, tuple[int, bytes]]:
    """Samples of every file; an Ogg stream also has a serial number, which is random."""
    clips = {path.name: soundfile.read(path) for path in (corpus / "audio").iterdir()}
    return {name: (rate_hz, samples.tobytes()) for name, (samples, rate_hz) in clips.items()}


def class_counts(num_clips: int, seed: int) -> list[int]:
    names = Counter(
        sound.name for number in range(num_clips) for sound in plan_clip(seed, number).sounds
    )
    return [names[sound.name] for sound in SOUND_CLASSES]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("corpus") / "a", clips=NUM_CLIPS)


def test_a_seed_gives_the_same_corpus_again_and_another_seed_another(tmp_path: Path):
    first, again, other = (make(tmp_path / f"{i}", seed=seed) for i, seed in enumerate((7, 7, 8)))
    assert decoded(first) == decoded(again)
    assert segment_rows(first) == segment_rows(again)
    assert decoded(first).keys().isdisjoint(decoded(other).keys())
    assert set(decoded(first).values()).isdisjoint(decoded(other).values())


def test_a_small_corpus_is_the_beginning_of_a_large_one(corpus: Path, tmp_path: Path):
    small = make(tmp_path / "small", clips=9)
    assert segment_rows(small) == segment_rows(corpus)[:9]
    assert decoded(small).items() <= decoded(corpus).items()


@given(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2))
def test_clip_ids_look_like_youtubes_and_differ_over_seeds_and_clips(seed, number):
    ids = [clip_id(seed + i, number + j) for i in (0, 1) for j in (0, 1)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{11}", clip) for clip in ids)
    assert len(set(ids)) == 4


def test_ids_are_unique_and_some_begin_with_a_dash_as_in_audioset():
    ids = {clip_id(0, number) for number in range(1500)}
    assert len(ids) == 1500
    assert any(clip.startswith("-") for clip in ids)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_class_counts_of_1500_clips_span_two_orders_of_magnitude_and_none_is_below_4(seed):
    counts = class_counts(1500, seed)
    assert len(counts) >= 28
    assert min(counts) >= 4
    assert max(counts) >= 75 * min(counts)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_every_class_is_there_from_twice_as_many_clips_as_classes_on(seed):
    assert min(class_counts(2 * len(SOUND_CLASSES), seed)) >= 1


def test_a_clip_has_1_to_4_labels_and_1_point_8_on_average():
    num_labels = [len(set(plan_clip(0, number).sounds)) for number in range(1500)]
    assert set(num_labels) == {1, 2, 3, 4}
    assert np.mean(num_labels) == pytest.approx(1.8, abs=0.1)


def test_no_two_classes_share_a_mid_a_name_or_a_sound():
    for of_class in (lambda s: s.mid, lambda s: s.display_name, lambda s: s.generate):
        assert len(set(map(of_class, SOUND_CLASSES))) == len(SOUND_CLASSES)


@by_name
@settings(max_examples=15, deadline=None)
@given(st.integers(700, 30_000), st.sampled_from([16_000, 22_050, 32_000, 44_100, 48_000]), SEEDS)
def test_a_sound_is_finite_audible_and_as_long_as_asked(sound, num_samples, sample_rate_hz, seed):
    waveform = sound.generate(np.random.default_rng(seed), num_samples, sample_rate_hz)
    assert waveform.shape == (num_samples,)
    assert waveform.dtype == np.float64
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() > 1e-3


@by_name
def test_two_events_of_a_class_are_not_the_same(sound: SoundClass):
    first, second = (sound.generate(np.random.default_rng(i), 8000, 16_000) for i in (0, 1))
    assert np.abs(first / np.abs(first).max() - second / np.abs(second).max()).max() > 0.1


def test_classes_can_be_told_apart_by_spectrum_and_its_change_alone():
    train = np.array([[features(s, seed) for seed in range(6)] for s in SOUND_CLASSES])
    test = np.array([[features(s, seed) for seed in range(100, 104)] for s in SOUND_CLASSES])
    scale = train.std(axis=(0, 1))
    distances = np.linalg.norm((test[:, :, None] - train.mean(1)) / scale, axis=-1)
    accuracy = distances.argmin(-1) == np.arange(len(SOUND_CLASSES))[:, None]
    assert accuracy.mean() > 0.75  # chance: 0.03


def features(sound: SoundClass, seed: int) -> np.ndarray:
    """Mean over time of the log spectrum in 16 bands of equal ratio, and its deviation."""
    waveform = sound.generate(np.random.default_rng(seed), 32_000, 16_000)
    frames = (waveform / np.abs(waveform).max())[: 512 * 62].reshape(62, 512) * np.hanning(512)
    power = np.abs(np.fft.rfft(frames))[:, 1:] ** 2
    edges = np.unique(np.geomspace(1, 256, 20).astype(int)) - 1
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-4)
    return np.concatenate([bands.mean(0), bands.std(0)])


def test_pulses_are_the_sum_of_all_harmonics_below_the_limit():
    frequency_hz = np.linspace(150, 180, 3000)
    turns = np.cumsum(frequency_hz) / 16_000
    num_harmonics = int(0.46 * 16_000 / 180)
    harmonics = [np.cos(2 * np.pi * k * turns) for k in range(1, num_harmonics + 1)]
    assert buzz(frequency_hz, 16_000) == pytest.approx(np.mean(harmonics, axis=0), abs=1e-3)


def test_band_noise_has_deviation_1_and_falls_outside_its_band():
    band = noise(np.random.default_rng(0), 80_000, 16_000, 1000.0, 2000.0)
    assert band.std() == pytest.approx(1, rel=0.05)
    power = np.abs(np.fft.rfft(band)) ** 2
    # Bins are 0.2 Hz apart. An octave outside the power is 1/17; in the middle it is 1/1.25².
    below, middle, above = (power[5 * hz - 300 : 5 * hz + 300].mean() for hz in (500, 1414, 4000))
    assert below / middle == pytest.approx(1.25**2 / 17, rel=0.2)
    assert above / middle == pytest.approx(1.25**2 / 17, rel=0.2)


def test_every_segment_has_its_file_and_every_label_its_class(corpus: Path):
    with (corpus / "class_labels_indices.csv").open() as file:
        classes = list(csv.DictReader(file))
    rows = segment_rows(corpus)

    assert [int(row["index"]) for row in classes] == list(range(len(SOUND_CLASSES)))
    assert [row["display_name"] for row in classes] == [s.display_name for s in SOUND_CLASSES]
    assert {mid for row in rows for mid in row[3].split(",")} <= {row["mid"] for row in classes}
    assert {row[0] for row in rows} == {path.stem[1:] for path in (corpus / "audio").iterdir()}
    assert {tuple(row[1:3]) for row in rows} == {("0.000", "0.500")}


def test_families_leave_the_sounds_as_they_are_and_miss_labels_as_asked(tmp_path: Path):
    plain = make(tmp_path / "plain", clips=6)
    args = Args(output=tmp_path / "f", clips=6, clip_s=0.5, families=True, missing_parents=0.5)
    assert "45 classes" in synthesize(args)
    assert decoded(plain) == decoded(args.output)
    truth = [json.loads(line) for line in (args.output / "truth.jsonl").read_text().splitlines()]
    for row, plain_row, right in zip(
        segment_rows(args.output), segment_rows(plain), truth, strict=True
    ):
        assert row[0] == right["clip_id"] == plain_row[0]
        assert set(plain_row[3].split(",")) <= set(row[3].split(",")) <= set(right["labels"])
    assert sum(len(right["labels"]) for right in truth) > sum(
        len(row[3].split(",")) for row in segment_rows(args.output)
    )


def test_parents_and_children_are_missed_with_the_shares_asked_for_and_never_both():
    parents, children = {family.mid for family in FAMILIES}, members()
    lost, whole = Counter(), Counter()
    for number in range(4000):
        sounds = plan_clip(0, number).sounds
        right = true_labels(sounds)
        found = annotated_labels(
            np.random.default_rng([0, number, 2]), sounds, no_parent=0.3, no_child=0.2
        )
        assert found and set(found) <= set(right)
        for mid in right:
            kind = "parent" if mid in parents else "child" if mid in children else "alone"
            whole[kind] += 1
            lost[kind] += mid not in found
    assert lost["alone"] == 0
    assert lost["parent"] / whole["parent"] == pytest.approx(0.3, abs=0.02)
    assert lost["child"] / whole["child"] == pytest.approx(0.2, abs=0.02)


def members() -> set[str]:
    return {f"/s/{name}" for f in FAMILIES for name in (*f.members, *f.abstract_members)}


def test_every_member_of_a_family_is_a_sound_class_and_of_one_family():
    names = [name for f in FAMILIES for name in (*f.members, *f.abstract_members)]
    assert len(set(names)) == len(names)
    assert set(names) <= {sound.name for sound in SOUND_CLASSES}


@pytest.mark.parametrize("shares", [(-0.1, 0.5), (0.6, 0.5)])
def test_shares_that_cannot_be_made_are_refused(tmp_path: Path, shares: tuple[float, float]):
    with pytest.raises(ConfigError, match="missing parents"):
        Args(output=tmp_path, families=True, missing_parents=shares[0], missing_children=shares[1])
    with pytest.raises(ConfigError, match="set --families"):
        Args(output=tmp_path, missing_parents=0.1)


def test_files_are_of_mixed_formats_and_neither_silent_nor_clipped(corpus: Path):
    paths = list((corpus / "audio").iterdir())
    infos = [soundfile.info(path) for path in paths]
    peaks = [np.abs(soundfile.read(path)[0]).max() for path in paths]

    assert {info.format for info in infos} == {"WAV", "FLAC", "OGG"}
    assert {info.channels for info in infos} == {1, 2}
    assert len({info.samplerate for info in infos}) >= 4
    assert [info.duration for info in infos] == pytest.approx([0.5] * NUM_CLIPS, abs=1e-4)
    assert 0.1 < min(peaks) <= max(peaks) < 1


def test_the_last_line_names_the_command_that_packs_the_corpus(tmp_path: Path):
    output = tmp_path / "my corpus"
    command = [sys.executable, "-m", "sharding.synthesize", str(output)]
    done = subprocess.run(
        [*command, "--clips", "2", "--clip-s", "0.2"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(
        f"next: python -m sharding.build audioset --segments '{output}/segments.csv' "
        f"--audio-root '{output}/audio' --class-labels '{output}/class_labels_indices.csv' "
        "--output SHARDS"
    )


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError) as caught:
        make(tmp_path)
    assert str(caught.value).splitlines() == [
        "the output is not an empty folder",
        f"  where: {tmp_path}",
        "  fix:   name a folder that is empty or does not exist yet",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"clips": 0}, "--clips 1500"),
        ({"seed": -1}, "--seed 0"),
        ({"clip_s": 0.1}, "--clip-s 2.5"),
        ({"clip_s": float("nan")}, "--clip-s 2.5"),
        ({"clip_s": float("inf")}, "--clip-s 2.5"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_with_one_that_works(setting, flag):
    with pytest.raises(ConfigError, match=f"fix:   set {flag}"):
        Args(output=Path("unused"), **setting)


def test_an_unfinished_corpus_has_no_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def power_cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(soundfile, "write", power_cut)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "corpus")
    assert not (tmp_path / "corpus" / "segments.csv").exists()
