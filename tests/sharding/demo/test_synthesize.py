"""The demo corpus: the same for a seed, unbalanced, in mixed files, with labels missed as asked."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import assert_user_error, run_command
from hypothesis import given, settings
from hypothesis import strategies as st

from psla_wds.errors import ConfigError
from psla_wds.labels.class_list import read_class_list
from sharding.demo.classes import FAMILIES, SOUND_CLASSES, annotated_labels, true_labels
from sharding.demo.corpus import CorpusConfig, plan_clip, write_corpus
from sharding.demo.sounds import Event

MIDS = [sound.mid for sound in SOUND_CLASSES]
MEMBERS = {mid for family in FAMILIES for mid in family.members}


def make(output: Path, **changes: object) -> Path:
    write_corpus(output, CorpusConfig(**{"clips": 12, "clip_s": 0.5} | changes))
    return output


def labels_of(corpus: Path) -> dict[str, list[str]]:
    lines = (corpus / "segments.csv").read_text().splitlines()
    assert [line.startswith("#") for line in lines[:4]] == [True, True, True, False]
    rows = list(csv.reader(lines[3:], skipinitialspace=True))
    assert {tuple(row[1:3]) for row in rows} == {("0.000", "0.500")}
    return {row[0]: row[3].split(",") for row in rows}


def decoded(corpus: Path) -> dict[str, bytes]:
    """Samples of every file; an Ogg stream also has a serial number, which is random."""
    return {p.stem[1:]: soundfile.read(p)[0].tobytes() for p in (corpus / "audio").iterdir()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("corpus") / "a", clips=100)


def test_a_small_corpus_begins_a_large_one(corpus: Path, tmp_path: Path):
    small, other = make(tmp_path / "small"), make(tmp_path / "other", seed=8)
    assert labels_of(small).items() <= labels_of(corpus).items()
    assert decoded(small).items() <= decoded(corpus).items()
    assert set(decoded(other).items()).isdisjoint(decoded(small).items())
    assert decoded(other).keys().isdisjoint(decoded(corpus))


def test_files_and_lists_fit_together(corpus: Path):
    labels = labels_of(corpus)
    assert len(labels) == 100 and labels.keys() == decoded(corpus).keys()
    assert read_class_list(corpus / "class_labels_indices.csv").mids == tuple(MIDS)
    assert set().union(*labels.values()) <= set(MIDS)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{11}", clip) for clip in labels)


def test_files_are_mixed_neither_silent_nor_clipped(corpus: Path):
    infos = [soundfile.info(path) for path in (corpus / "audio").iterdir()]
    peaks = [np.abs(soundfile.read(info.name)[0]).max() for info in infos]
    assert {info.format for info in infos} == {"WAV", "FLAC", "OGG"}
    assert {info.channels for info in infos} == {1, 2}
    assert len({info.samplerate for info in infos}) >= 4
    assert [info.duration for info in infos] == pytest.approx([0.5] * 100, abs=1e-4)
    assert 0.1 < min(peaks) <= max(peaks) < 1


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_few_classes_are_frequent_and_none_is_missing(seed: int):
    sounds = [plan_clip(seed, number).sounds for number in range(1000)]
    counts = Counter(sound.mid for of_clip in sounds for sound in of_clip)
    assert counts.keys() == set(MIDS) and min(counts.values()) >= 5
    assert max(counts.values()) >= 20 * min(counts.values())
    assert {len(set(of_clip)) for of_clip in sounds} == {1, 2, 3}


@pytest.mark.parametrize("sound", SOUND_CLASSES, ids=lambda sound: sound.mid[3:])
@settings(max_examples=15, deadline=None)
@given(st.integers(700, 30_000), st.sampled_from([16_000, 22_050, 44_100]), st.integers(0, 2**32))
def test_sounds_are_finite_audible_and_as_long_as_asked(sound, num_samples, rate_hz, seed):
    waveform = sound.generate(Event(np.random.default_rng(seed), num_samples, rate_hz))
    other = sound.generate(Event(np.random.default_rng(seed + 1), num_samples, rate_hz))
    assert waveform.shape == (num_samples,) and np.isfinite(waveform).all()
    assert np.abs(waveform).max() > 1e-3 and not np.allclose(waveform, other)


def test_families_leave_the_sounds_as_they_are(tmp_path: Path):
    plain, made = make(tmp_path / "a"), make(tmp_path / "b", families=True, missing_parents=0.5)
    lines = (made / "truth.jsonl").read_text().splitlines()
    truth = {line["clip_id"]: set(line["labels"]) for line in map(json.loads, lines)}
    found, sounds = labels_of(made), labels_of(plain)
    assert decoded(plain) == decoded(made) and found.keys() == truth.keys()
    assert all(set(sounds[clip]) <= set(found[clip]) <= truth[clip] for clip in truth)
    assert sum(map(len, truth.values())) > sum(map(len, found.values()))


def test_parents_and_children_are_missed_as_asked_but_never_both():
    lost, whole = Counter(), Counter()
    for number in range(4000):
        right = true_labels(plan_clip(0, number).sounds)
        found = annotated_labels(np.random.default_rng(number), right, (0.3, 0.2))
        assert found and set(found) <= set(right)
        for mid in right:
            kind = "child" if mid in MEMBERS else "alone" if mid in MIDS else "parent"
            whole[kind] += 1
            lost[kind] += mid not in found
    shares = {kind: lost[kind] / whole[kind] for kind in whole}
    assert shares == pytest.approx({"parent": 0.3, "child": 0.2, "alone": 0}, abs=0.025)


@pytest.mark.parametrize(
    ("name", "value"),
    [("clips", 0), ("seed", -1), ("clip_s", 0.1), ("clip_s", np.nan), ("missing_parents", 0.1)],
)
def test_impossible_settings_are_refused_with_a_fix(name: str, value: float):
    with pytest.raises(ConfigError, match="fix:   set --"):
        CorpusConfig(**{name: value})
    with pytest.raises(ConfigError, match="sum to at most 1"):
        CorpusConfig(families=True, missing_parents=0.6, missing_children=0.5)


def test_command_names_the_next_and_refuses_a_full_folder(tmp_path: Path):
    words = ["sharding.synthesize", str(tmp_path / "my corpus"), "--clips=2", "--clip-s=0.2"]
    last = run_command(*words).stdout.splitlines()[-1]
    assert f"next: psla-wds build audioset --segments '{tmp_path}/my corpus/seg" in last
    files = sorted((tmp_path / "my corpus").iterdir())
    assert_user_error(run_command(*words, check=False))
    assert sorted((tmp_path / "my corpus").iterdir()) == files


def test_an_unfinished_corpus_has_no_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(soundfile, "write", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path / "corpus")
    assert not (tmp_path / "corpus" / "segments.csv").exists()
