"""The clips of a build on disk: as they were, in order, by slices, each id once."""

import math
import resource
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psla_wds.errors import ManifestError, PslaError
from psla_wds.io.locations import parse_location
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import ByteRange, Cell, Clip, Row, checked
from sharding.packing.clip_table import ClipTable
from sharding.packing.config import PackConfig
from sharding.packing.plan import open_output, plan_shards
from sharding.packing.split import in_order

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
MESSAGES = st.text(st.characters())
"""They may hold what names in no encoding become: halves of surrogates."""
COUNTS = st.integers(0, 2**63)
LOCATIONS = st.one_of(
    TEXTS.map(Path),
    st.sampled_from(
        [parse_location("https://h:80/a%20b/c.wav?x=1"), parse_location("memory://ä/b")]
    ),
)
FIELDS = st.fixed_dictionaries(
    {
        "clip_id": TEXTS,
        "path": LOCATIONS,
        "labels": st.lists(st.integers(0, 10_000), max_size=30).map(
            lambda found: tuple(sorted(found))
        ),
        "split": TEXTS,
        "source": MESSAGES,
        "start_s": st.floats(allow_nan=False),
        "end_s": st.just(math.inf) | st.floats(0),
        "may_be_cut": st.booleans(),
        "part": st.none()
        | st.builds(Row, COUNTS)
        | st.builds(ByteRange, COUNTS, COUNTS)
        | st.builds(Cell, COUNTS, COUNTS, COUNTS),
        "refusal": st.none() | st.tuples(TEXTS, MESSAGES),
        "group": TEXTS,
    }
)
PLACED = st.lists(
    st.tuples(st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1]), FIELDS),
    unique_by=lambda placed: placed[1]["clip_id"],
    max_size=6,
)


def clip_of(number: int, clip_id: str = "") -> Clip:
    return Clip(clip_id or f"clip {number}", Path("a.wav"), (0,), "", f"list.csv, line {number}")


TABLE = ClipTable((number, clip_of(number)) for number in range(9))


@settings(max_examples=40)
@given(PLACED)
def test_clips_come_back_in_the_order_of_their_places(found: list[tuple[int, dict]]):
    placed = [(place, Clip(**fields)) for place, fields in found]
    ordered = sorted(placed, key=lambda entry: (entry[0], entry[1].clip_id))
    table = ClipTable(placed)
    assert len(table) == len(placed)
    # Written out, since 0.0 equals -0.0 and True equals 1, and the fingerprint of a build differs.
    assert list(map(repr, table)) == [repr(clip) for _, clip in ordered]


@given(st.slices(9), st.integers(-12, 12))
def test_a_table_is_sliced_as_a_list_is(key: slice, row: int):
    clips = [clip_of(number) for number in range(9)]
    assert TABLE[key] == tuple(clips[key])
    if -9 <= row < 9:
        assert TABLE[row] == clips[row]
    else:
        with pytest.raises(IndexError):
            TABLE[row]


@pytest.mark.parametrize(
    ("ids", "told", "lines"), [("abba", "b", (1, 2)), ("aaa", "a", (0, 1)), ("xbyb", "b", (1, 3))]
)
def test_the_first_clip_id_given_twice_is_named_with_both_lines(
    ids: str, told: str, lines: tuple[int, int]
):
    placed = [(ord(clip_id), clip_of(line, clip_id)) for line, clip_id in enumerate(ids)]
    both = " and ".join(f"list.csv, line {line}" for line in lines)
    with pytest.raises(ManifestError, match=f"clip id '{told}' appears twice\n  where: {both}\n"):
        ClipTable(placed)


def test_the_first_of_two_mistakes_in_a_list_is_reported():
    def listed(*ids: str) -> Iterator[tuple[int, Clip]]:
        some_wrong = (clip_of(line, clip_id) for line, clip_id in enumerate(ids))
        return ((0, clip) for clip in checked(some_wrong))

    with pytest.raises(ManifestError, match="'a' appears twice"):
        ClipTable(listed("a", "a", "\ud800"))
    with pytest.raises(ManifestError, match="UTF-8"):
        ClipTable(listed("a", "\ud800", "a"))


def test_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As on a disk that is full from some size on (which takes no mount, and no root)."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(PslaError, match=f"list of clips on disk: .*\n.*{tmp_path}\n.*TMPDIR"):
            ClipTable(
                (number, clip_of(number, 10_000 * "a" + str(number))) for number in range(400)
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def peak_of_planning(num_clips: int, output: Path) -> int:
    """Most bytes of Python objects while so many clips are read and dealt to shards."""
    config = PackConfig(output=output, clips_per_shard=20, eval_share=0.1)
    classes = ClassList(("/m/a",), ("a",))
    tracemalloc.start()
    clips = in_order(checked(map(clip_of, range(num_clips))), config.layout, classes)
    tasks = plan_shards(clips, classes, output, config.clips_per_shard, config.encoding)
    open_output(output, tasks, classes, config.layout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_planning_many_clips_takes_no_more_memory(tmp_path: Path):
    few, many = (peak_of_planning(n, tmp_path / str(n)) for n in (100, 600))
    assert many < few + 2**16  # a list of 500 clips takes 2**18
