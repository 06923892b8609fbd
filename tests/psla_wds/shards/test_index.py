"""The index of shards: what it holds, how it is cut and joined, and what is refused."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from label_index import label_index
from scipy.stats import chi2

from psla_wds.errors import ConfigError, ShardError, StaleIndexError
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import COLUMN_DTYPES, open_indexes, read_index
from psla_wds.shards.merge import merge_sidecars
from psla_wds.shards.tar import read_sidecar, sidecar_path


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    """Shards that a test may damage."""
    return shutil.copytree(shards, tmp_path / "shards")


def same(one: ShardIndex, other: ShardIndex) -> bool:
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in COLUMN_DTYPES)


def test_the_index_holds_what_the_sidecars_say(shards: Path):
    index = read_index(shards)
    sidecars = [read_sidecar(tar) for tar in index.shards]
    assert [index.clip_id(row) for row in range(len(index))] == [
        clip_id for sidecar in sidecars for clip_id in sidecar.clips.clip_id
    ]
    mids = [[index.classes.mids[k] for k in index.labels(row)] for row in range(len(index))]
    assert mids == [m for sidecar in sidecars for m in sidecar.clips.mids]
    assert index.class_counts().tolist() == [12, 12, 12, 12]
    assert index.targets(np.arange(len(index))).sum(axis=0).tolist() == [12, 12, 12, 12]


def test_merging_again_gives_the_same_index(copied: Path):
    before = read_index(copied)
    assert same(before, merge_sidecars(copied))
    assert read_index(copied).fingerprint == before.fingerprint


def test_splits_part_the_clips(shards: Path):
    whole, train, evaluation = (
        open_indexes([f"{shards}{splits}"]) for splits in ("", ":train", ":eval")
    )
    assert len(train) + len(evaluation) == len(whole) and len(evaluation) > 0
    assert set(train.splits[s] for s in np.unique(train.split)) == {"train"}
    assert same(open_indexes([f"{shards}:train,eval"]), whole)
    assert len({index.fingerprint for index in (whole, train, evaluation)}) == 3


def test_several_sets_follow_one_another(shards: Path):
    train, evaluation = open_indexes([f"{shards}:train"]), open_indexes([f"{shards}:eval"])
    both = open_indexes([f"{shards}:train", f"{shards}:eval"])
    for part, start in ((train, 0), (evaluation, len(train))):
        for row in range(len(part)):
            assert both.clip_id(start + row) == part.clip_id(row)
            assert both.where(start + row) == part.where(row)
            assert both.labels(start + row).tolist() == part.labels(row).tolist()


def with_splits(shards: Path, names: list[str]) -> None:
    """Give the clips of each shard splits of these names, in turn."""
    clips = 0
    for path in sorted(shards.glob("*.sidecar.json")):
        sidecar = json.loads(path.read_text())
        number = len(sidecar["clips"]["clip_id"])
        sidecar["clips"]["split"] = [names[(clips + i) % len(names)] for i in range(number)]
        path.write_text(json.dumps(sidecar))
        clips += number


def test_more_splits_than_a_byte_can_number_are_refused(
    copied: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("psla_wds.shards.index.MAX_SPLITS", 40)
    with_splits(copied, [f"speaker{number}" for number in range(40)])
    assert len(merge_sidecars(copied).splits) == 40
    with_splits(copied, [f"speaker{number}" for number in range(41)])
    with pytest.raises(ConfigError, match="41 splits, and an index has room for 40"):
        merge_sidecars(copied)
    assert read_index(copied).splits[0] == "speaker0"  # the index that was there still is


def test_an_unknown_split_is_refused_with_those_there_are(shards: Path):
    with pytest.raises(ConfigError, match=r"no split test\n.*\n.*eval, train"):
        open_indexes([f"{shards}:test"])


def ids(index: ShardIndex) -> list[str]:
    return [index.clip_id(row) for row in range(len(index))]


def test_a_random_choice_keeps_the_order_and_holds_smaller_ones(shards: Path):
    whole = read_index(shards)
    chosen = [ids(whole.select_random(count, seed=5)) for count in range(len(whole) + 1)]
    for count, (few, more) in enumerate(pairwise(chosen)):
        assert len(few) == count and set(few) < set(more)
        assert few == [clip_id for clip_id in ids(whole) if clip_id in few]
    assert same(whole.select_random(len(whole), seed=5), whole)


def test_a_random_choice_does_not_depend_on_the_order(shards: Path):
    whole = read_index(shards)
    turned = whole.select(np.arange(len(whole))[::-1], "turned")
    choice = whole.select_random(17, seed=3)
    assert ids(turned.select_random(17, seed=3)) == ids(choice)[::-1]
    others = [whole, *(whole.select_random(n, seed=seed) for n, seed in ((17, 0), (16, 3)))]
    assert len({index.fingerprint for index in (choice, *others)}) == 4


def test_every_clip_and_every_pair_is_as_likely_to_be_chosen(shards: Path):
    whole = read_index(shards)
    row_of = {clip_id: row for row, clip_id in enumerate(ids(whole))}
    chosen = np.zeros((1000, 48))
    for seed, row in enumerate(chosen):
        row[[row_of[clip_id] for clip_id in ids(whole.select_random(12, seed=seed))]] = 1
    # Of 12 out of 48: a clip's chance is 1/4; counts of clips sum to a constant, hence 47/48.
    statistic = ((chosen.sum(axis=0) - 250) ** 2).sum() / (1000 * 1 / 4 * 3 / 4) * 47 / 48
    assert 1e-3 < chi2(47).cdf(statistic) < 1 - 1e-3
    together = (chosen.T @ chosen)[np.triu_indices(48, k=1)]
    chance = 12 / 48 * 11 / 47
    assert together.mean() == pytest.approx(1000 * chance)
    assert together.var() == pytest.approx(1000 * chance * (1 - chance), rel=0.15)


def test_each_of_many_rows_takes_its_labels_along():
    clips = np.arange(200_000)
    starts = np.concatenate([[0], np.cumsum(clips % 4)])
    whole = label_index(starts, np.repeat(clips % 1000, clips % 4).astype(np.uint16), 1000)
    rows = clips[::-1][::2]
    few = whole.select(rows, "every second, backwards")
    assert np.diff(few.label_starts).tolist() == (rows % 4).tolist()
    assert few.label_values.tolist() == np.repeat(rows % 1000, rows % 4).tolist()


def test_more_clips_than_there_are_cannot_be_chosen(shards: Path):
    with pytest.raises(ConfigError, match=r"49 clips cannot be chosen from 48\n.*\n.*at most 48"):
        read_index(shards).select_random(49, seed=0)


def test_sets_of_other_classes_do_not_mix(shards: Path, copied: Path):
    meta = json.loads((copied / "index" / "meta.json").read_text())
    meta["mids"][0] = "/t/other"
    (copied / "index" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ConfigError, match="other classes"):
        open_indexes([str(shards), str(copied)])


def test_an_unfinished_shard_is_named_with_what_mends_it(copied: Path):
    tar = read_index(copied).shards[1]
    size = tar.stat().st_size
    with tar.open("r+b") as file:
        file.truncate(700)
    with pytest.raises(StaleIndexError) as caught:
        read_index(copied).check_shards()
    assert f"a shard of {size:,} bytes, it has 700\n  where: {tar}\n" in str(caught.value)
    assert f"psla-wds index {copied}" in str(caught.value)
    with pytest.raises(ShardError, match="not finished"):
        merge_sidecars(copied)
    sidecar_path(tar).unlink()
    with pytest.raises(ShardError, match="not finished"):
        merge_sidecars(copied)


@pytest.mark.parametrize("name", ["offset", "id_bytes", "meta"])
@pytest.mark.parametrize("damage", ["missing", "short", "garbage"])
def test_a_damaged_index_is_refused(copied: Path, name: str, damage: str):
    path = copied / "index" / ("meta.json" if name == "meta" else f"{name}.npy")
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.write_bytes(b"\x93NUMPY" + b"garbage" * 30)
    with pytest.raises(StaleIndexError, match=r"psla-wds index"):
        read_index(copied)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shard", 99),
        ("split", 99),
        ("label_values", 99),
        ("offset", -1),
        ("size", 2**62),
        ("label_starts", 2**40),
    ],
)
def test_a_row_that_points_outside_is_refused(copied: Path, name: str, value: int):
    path = copied / "index" / f"{name}.npy"
    column = np.load(path)
    column[3] = value
    np.save(path, column)
    with pytest.raises(StaleIndexError, match="damaged"):
        read_index(copied)


def test_a_missing_folder_and_one_without_shards_differ(tmp_path: Path):
    with pytest.raises(StaleIndexError, match="no such folder"):
        read_index(tmp_path / "no")
    with pytest.raises(StaleIndexError, match="no index here"):
        read_index(tmp_path)
    with pytest.raises(ShardError, match="no shards here"):
        merge_sidecars(tmp_path)


def test_one_name_is_one_set_and_none_is_an_error(shards: Path):
    assert len(open_indexes(str(shards))) == len(read_index(shards))
    with pytest.raises(ConfigError, match="no shards are named"):
        open_indexes([])
