"""The split by --eval-share: fair to classes, whole groups, the same for the same seed."""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from builds import build, content, tars_of
from conftest import assert_user_error, manifest_arguments, run_command
from data_sets import write_classes, write_sound
from hypothesis import given, settings
from hypothesis import strategies as st

from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import Clip
from psla_wds.shards.index_files import read_index
from sharding.packing.config import PackConfig
from sharding.packing.split import in_order

LABELS = st.lists(
    st.lists(st.integers(0, 11), max_size=4, unique=True).map(sorted).map(tuple),
    min_size=1,
    max_size=200,
)


def split(
    labels: Sequence[tuple[int, ...]],
    share: float = 0.2,
    *,
    groups: Sequence[str] = (),
    seed: int = 0,
    reverse: bool = False,
) -> dict[str, Clip]:
    """Clips by id, as a build with --eval-share gives them their splits."""
    layout = PackConfig(output=Path("out"), eval_share=share, seed=seed).layout
    names = tuple(f"class {number}" for number in range(12))
    clips = [
        Clip(f"clip {n}", Path("a.wav"), one, "", "list.csv", group=groups[n] if groups else "")
        for n, one in enumerate(labels)
    ]
    ordered = in_order(clips[::-1] if reverse else clips, layout, ClassList(names, names))
    return {clip.clip_id: clip for clip in ordered}


def counts(clips: dict[str, Clip], name: str) -> Counter[int]:
    return Counter(label for clip in clips.values() if clip.split == name for label in clip.labels)


@pytest.mark.parametrize("seed", range(4))
def test_a_fifth_of_80_clips_of_10_classes_is_16(seed: int):
    clips = split([(n % 10,) for n in range(80)], seed=seed)
    in_eval = counts(clips, "eval")
    assert in_eval.total() == 16 and set(in_eval.values()) == {1, 2} and len(in_eval) == 10
    assert clips != split([(n % 10,) for n in range(80)], seed=seed + 1)


@settings(max_examples=60, deadline=None)
@given(LABELS, st.sampled_from([0.05, 0.2, 0.5, 0.9]))
def test_any_labels_get_the_share_and_no_order_matters(labels: list[tuple[int, ...]], share: float):
    clips = split(labels, share)
    in_eval = [clip for clip in clips.values() if clip.split == "eval"]
    assert len(in_eval) == round(share * len(labels))
    assert {clip.split for clip in clips.values()} <= {"eval", "train"}
    again = split(labels, share, reverse=True)
    assert {name: clip.split for name, clip in again.items()} == {
        name: clip.split for name, clip in clips.items()
    }


def test_clips_of_several_classes_keep_shares_of_each():
    labels = [tuple(sorted({n % 3, 3 + n % 4, 7 + n * n % 5})) for n in range(600)]
    clips = split(labels, 0.1)
    of_all = counts(clips, "eval") + counts(clips, "train")
    for label, number in counts(clips, "eval").items():
        assert abs(number - 0.1 * of_all[label]) <= 2
    assert len(counts(clips, "eval")) == len(of_all)


def test_rare_classes_are_heard_on_both_sides():
    labels = [(n // 3,) if n < 30 else (10,) for n in range(230)]  # 3 clips: 0.6 for eval
    clips = split(labels)
    assert set(counts(clips, "eval")) == set(counts(clips, "train")) == set(range(11))
    assert counts(clips, "eval").total() == 46


def test_the_only_clip_of_a_class_is_for_training(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    clips = split([(0,)] + [(1,)] * 9, 0.5)
    assert clips["clip 0"].split == "train"
    assert [record.getMessage() for record in caplog.records] == [
        "classes without a clip on one side: 1 in eval (class 0)"
    ]


@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_in_one_split(seed: int):
    groups = [f"recording {n // 5}" for n in range(400)]
    clips = split([(n // 40,) for n in range(400)], groups=groups, seed=seed)
    by_group: dict[str, set[str]] = {}
    for clip in clips.values():
        by_group.setdefault(clip.group, set()).add(clip.split)
    assert {len(splits) for splits in by_group.values()} == {1}
    in_eval = counts(clips, "eval")
    assert in_eval.total() == 80 and set(in_eval.values()) == {5, 10}


def test_groups_are_those_of_a_column(tmp_path: Path):
    for number in range(20):
        write_sound(tmp_path / f"{number}.wav", number)
    classes, table = write_classes(tmp_path), tmp_path / "clips.csv"
    rows = [f"{n}.wav,Bark,{n // 4}" for n in range(20)]
    table.write_text("\n".join(["path,labels,take", *rows, ""]))
    words = ["manifest", table, f"--class-labels={classes}", f"--output={tmp_path / 'shards'}"]
    done = run_command("sharding.build", *words, "--group-column=take", check=False)
    assert_user_error(done, "--group-column", "--eval-share")
    done = run_command(
        "sharding.build", *words, "--group-column=tke", "--eval-share=0.2", check=False
    )
    assert_user_error(done, "tke")
    run_command("sharding.build", *words, "--group-column=take", "--eval-share=0.2")
    index = read_index(tmp_path / "shards")
    is_eval = index.split == index.splits.index("eval")
    takes = [int(index.clip_id(row).removesuffix(".wav")) // 4 for row in range(len(index))]
    assert len({take for take, own in zip(takes, is_eval, strict=True) if own}) == 1
    assert is_eval.sum() == 4


def test_a_build_begun_with_the_rule_by_ids_continues(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    begun, words = tmp_path / "begun", ["--eval-share=0.3", "--clips-per-shard=4"]
    rows = map(json.loads, (corpus / "clips.jsonl").read_text().splitlines())
    without = [{key: value for key, value in row.items() if key != "split"} for row in rows]
    mine = shutil.copytree(corpus, tmp_path / "corpus")
    (mine / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in without))
    with monkeypatch.context() as patch:
        patch.setattr(PackConfig, "split_by_class", False)
        build(mine, begun, *words)
    plan = json.loads((begun / "build.json").read_text())
    del plan["layout"]["split_by_class"]  # as it was written before there was this rule
    (begun / "build.json").write_text(json.dumps(plan))
    before = content(begun)
    for name in ("shard-000001.tar", "index/meta.json"):
        (begun / name).unlink()
    build(mine, begun, *words)
    assert content(begun) == before
    fresh = [*manifest_arguments(mine, tmp_path / "fresh"), *words]
    run_command("sharding.build", "manifest", *fresh)
    assert tars_of(tmp_path / "fresh") != tars_of(begun)
