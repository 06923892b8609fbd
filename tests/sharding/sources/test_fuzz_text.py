"""Changed manifests, class lists and segment lists: refused, or clips that can be packed."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from data_sets import write_class_labels, write_classes, write_panns_hdf5
from fuzz.mutations import AWKWARD_TEXTS, changed_bytes, changed_json
from fuzz.properties import accepted, fuzz, limited_memory, tiers
from hypothesis import strategies as st

from psla_wds.errors import ClipRefusedError
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.manifest import Clip, checked
from psla_wds.shards.tar import key_of
from sharding.packing.decode import decode
from sharding.sources import AudioSetSource, Hdf5Source, ManifestSource

JSONL = json.dumps(
    {"path": "a.wav", "labels": ["low", 1], "start_s": 0.5, "end_s": 1, "clip_id": 3}
)
CSV = 'path,labels,clip_id,start_s\na.wav,low|noise,x,0.5\nb.wav,"middle, or so",y,\n'
SEGMENTS = '# made, by, hand\nabc, 30.000, 40.000, "/t/0,/t/1"\nabd, 0.000, 10.000, "/t/2"\n'


@st.composite
def changed_text(draw: st.DrawFn, text: bytes) -> bytes:
    """Changed bytes, or a field that is another text or number."""
    if draw(st.booleans()):
        return draw(changed_bytes(text))
    fields = text.split(b",")
    place = draw(st.integers(0, len(fields) - 1))
    other = draw(
        st.sampled_from([*AWKWARD_TEXTS, "nan", "inf", "-1", "1e400", '"', "\n", "9" * 99])
    )
    fields[place] = other.encode("utf-8", "surrogatepass")
    return b",".join(fields)


def sound(classes: ClassList, clips: Iterable[Clip]) -> int:
    for clip in (found := list(checked(clips))):
        assert key_of(clip.clip_id) and 0 <= clip.start_s < clip.end_s
        assert all(0 <= label < len(classes) for label in clip.labels)  # none: refused when packed
        with pytest.raises(ClipRefusedError):
            decode(clip, sample_rate_hz=16_000)
    return len(found)


@tiers(40, 4000)
@pytest.mark.parametrize(("suffix", "text"), [("csv", CSV), ("jsonl", JSONL)], ids=["csv", "jsonl"])
def test_a_changed_manifest_is_refused_or_lists_clips(
    tmp_path: Path, suffix: str, text: str, num_cases: int
):
    path = tmp_path / f"clips.{suffix}"
    source = ManifestSource(file=path, class_labels=write_class_labels(tmp_path / "classes.csv"))

    def changed(content: bytes) -> None:
        path.write_bytes(content)
        accepted(lambda: sound(*source.read()))

    change = changed_text if suffix == "csv" else changed_json
    fuzz(num_cases, change(text.encode()), changed)


@tiers(40, 4000)
def test_a_changed_segment_list_is_refused_or_lists_clips(tmp_path: Path, num_cases: int):
    path = tmp_path / "train_segments.csv"
    classes = write_class_labels(tmp_path / "classes.csv")
    (tmp_path / "abc.wav").touch()  # without a file, no list is accepted
    source = AudioSetSource(segments=path, audio_root=tmp_path, class_labels=classes)

    def changed(content: bytes) -> None:
        path.write_bytes(content)
        accepted(lambda: sound(*source.read()))

    fuzz(num_cases, changed_text(SEGMENTS.encode()), changed)


@tiers(40, 4000)
def test_a_changed_class_list_is_refused_or_is_one(tmp_path: Path, num_cases: int):
    path = write_class_labels(tmp_path / "classes.csv")
    text = path.read_bytes()

    def changed(content: bytes) -> None:
        path.write_bytes(content)
        classes = accepted(lambda: read_class_list(path))
        if classes:
            assert len(classes) == len(set(classes.mids)) == len(set(classes.names))

    fuzz(num_cases, changed_text(text), changed)


@tiers(40, 2000)
def test_a_changed_hdf5_file_is_refused_or_lists_clips(tmp_path: Path, num_cases: int):
    path = write_panns_hdf5(tmp_path / "clips.h5")
    source = Hdf5Source(files=(path,), class_labels=write_classes(tmp_path))

    def changed(content: bytes) -> None:
        path.write_bytes(content)
        for clip in accepted(lambda: list(checked(source.read()[1]))) or ():
            with suppress(ClipRefusedError), limited_memory():
                decode(clip, sample_rate_hz=16_000)

    fuzz(num_cases, changed_bytes(path.read_bytes()), changed)
