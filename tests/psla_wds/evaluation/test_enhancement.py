"""Label enhancement: exact on cases worked by hand, in blocks, and from scores in any order."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_overlays import named_index, write_ontology

from psla_wds.evaluation import score_folder
from psla_wds.evaluation.enhancement import (
    Enhancement,
    Teacher,
    against_truth,
    enhance,
    enhancement_report,
    propagate,
    to_text,
)
from psla_wds.labels.ontology import read_ontology
from psla_wds.sampling.plan import clip_weights
from psla_wds.shards.index import ShardIndex

MIDS = ("animal", "dog", "bark", "cat")
TREE = {"animal": ["dog", "cat"], "dog": ["bark"]}
ANIMAL, DOG, BARK, CAT = range(4)

LABELS = {"a": [ANIMAL], "b": [ANIMAL, DOG], "c": [BARK], "d": [CAT], "e": [DOG, BARK]}
SCORES = np.array(
    [  # animal  dog  bark   cat
        # a: dog is above its mean; bark too, and does not follow, as it is not a direct child
        [0.50, 0.55, 0.90, 0.30],
        [0.30, 0.40, 0.45, 0.70],  # b: bark is below its mean, cat above
        [0.41, 0.10, 0.60, 0.00],  # c: dog is below, animal, two levels up, is above its mean
        [0.40, 0.99, 0.99, 0.60],  # d: animal equals its mean; dog and bark are no kin of a cat
        [0.39, 0.60, 0.40, 0.99],  # e: animal is below; nobody in it says cat
    ],
    np.float32,
)
# Over the clips that carry the class; that of animal is 0.4 exactly as a float32 rounds it.
MEANS = [0.4, 0.5, 0.5, 0.6]


def rules(tmp_path: Path, index: ShardIndex) -> dict[str, np.ndarray]:
    tree = read_ontology(write_ontology(tmp_path / "o.json", TREE, set()))
    return {
        "I": tree.child_pairs(index.classes, through_abstract=False),
        "II": tree.ancestor_pairs(index.classes, through_abstract=False),
    }


def in_order(scores: np.ndarray) -> Teacher:
    return Teacher(scores, np.arange(len(scores)))


@pytest.fixture
def done(tmp_path: Path) -> Enhancement:
    index = named_index(LABELS, MIDS)
    return enhance(index, in_order(SCORES), rules(tmp_path, index), "mean")


def labels_of(index: ShardIndex) -> dict[str, list[int]]:
    return {index.clip_id(row): index.labels(row).tolist() for row in range(len(index))}


def test_labels_are_added_as_worked_out_by_hand(done: Enhancement):
    assert done.thresholds == pytest.approx(MEANS, abs=1e-7)
    assert labels_of(done.after) == {
        "a": [ANIMAL, DOG],
        "b": [ANIMAL, DOG, CAT],
        "c": [ANIMAL, BARK],
        "d": [CAT],
        "e": [DOG, BARK],
    }
    assert {kind: counts.tolist() for kind, counts in done.added.items()} == {
        "I": [0, 1, 0, 1],
        "II": [1, 0, 0, 0],
    }
    assert {k: np.argwhere(p).tolist() for k, p in done.pairs.items()} == {
        "I": [[ANIMAL, DOG], [ANIMAL, CAT]],
        "II": [[BARK, ANIMAL]],
    }


def test_weights_follow_the_enhanced_labels(done: Enhancement):
    counts = done.after.class_counts()
    assert counts.tolist() == [3, 3, 2, 2]
    assert clip_weights(done.after)[1] == pytest.approx(1 / 3 + 1 / 3 + 1 / 2)
    assert done.after.fingerprint != done.before.fingerprint


def brute_force(labels, scores, pairs, threshold):
    """The definition, clip by clip."""
    num_classes = scores.shape[1]
    carried = [
        [scores[i, k] for i, own in enumerate(labels) if k in own] for k in range(num_classes)
    ]
    limit = [np.mean(values, dtype=np.float64) if values else np.inf for values in carried]
    if threshold != "mean":
        percentile = 50.0 if threshold == "median" else threshold
        limit = [np.percentile(np.float64(v), percentile) if v else np.inf for v in carried]
    return [
        sorted({*own, *(c for k in own for c in range(num_classes)
                        if pairs[k, c] and scores[i, c] > limit[c])})
        for i, own in enumerate(labels)
    ]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["mean", "median", 25.0, 90.0]))
def test_blocks_and_any_order_follow_the_definition(seed, threshold):
    rng = np.random.default_rng(seed)
    num_clips, num_classes = int(rng.integers(1, 40)), int(rng.integers(2, 9))
    drawn = rng.random((num_clips, num_classes)) < 0.3
    labels = [np.flatnonzero(row).tolist() for row in drawn]
    scores = rng.choice([0.1, 0.4, 0.7, 0.9], (num_clips, num_classes)).astype(np.float32)
    above = np.triu(rng.random((num_classes, num_classes)) < 0.5, 1)
    mids = tuple(f"m{k}" for k in range(num_classes))
    index = named_index({f"{i}": own for i, own in enumerate(labels)}, mids)
    order = rng.permutation(num_clips)
    teacher = Teacher(scores[np.argsort(order)], order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_folder, "ROWS_AT_ONCE", 7)
        done = enhance(index, teacher, {"I": above, "II": above.T & (above.sum() > 3)}, threshold)
    both = above | (above.T & (above.sum() > 3))
    expected = brute_force(labels, scores[np.argsort(order)][order], both, threshold)
    assert list(labels_of(done.after).values()) == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_without_a_teacher_all_that_follows_is_added(seed):
    rng = np.random.default_rng(seed)
    num_clips, num_classes = int(rng.integers(1, 40)), int(rng.integers(2, 9))
    labels = [np.flatnonzero(row).tolist() for row in rng.random((num_clips, num_classes)) < 0.3]
    above = np.triu(rng.random((num_classes, num_classes)) < 0.5, 1)
    mids = tuple(f"m{k}" for k in range(num_classes))
    index = named_index({f"{i}": own for i, own in enumerate([[0], *labels])}, mids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_folder, "ROWS_AT_ONCE", 7)
        done = propagate(index, {"II": above})
    expected = [sorted({*own, *np.flatnonzero(above[own].any(axis=0))}) for own in ([0], *labels)]
    assert list(labels_of(done.after).values()) == expected
    report = enhancement_report(done)
    added = [c for own, all_ in zip([[0], *labels], expected, strict=True)
             for c in set(all_) - set(own)]  # fmt: skip
    assert [row["added"] for row in report["per_class"]] == np.bincount(
        np.array(added, int), minlength=num_classes
    ).tolist()
    assert report["types"]["II"]["labels_added"] == report["labels_added"] == len(added)
    assert "threshold" not in to_text(report)


def test_the_report_counts_classes_pairs_and_types(done: Enhancement):
    report = enhancement_report(done)
    assert (report["labels_before"], report["labels_added"]) == (7, 3)
    assert (report["impacted_classes"], report["impacted_clips"]) == (3, 3)
    assert report["types"]["I"] == {"labels_added": 2, "impacted_classes": 2}
    assert [row["added"] for row in report["per_class"]] == [1, 1, 0, 1]
    assert [(p["carried"], p["added"], p["labels"]) for p in report["pairs"]] == [
        ("animal", "dog", 1), ("animal", "cat", 1), ("bark", "animal", 1),
    ]  # fmt: skip
    assert (
        "3 labels added to 7 (42.9%), in 3 of 4 classes and 3 of 5 clips: 1.40 to 2.00"
        in to_text(report)
    )


def test_added_labels_are_compared_with_the_truth(done: Enhancement):
    truth = named_index(
        {"a": [ANIMAL, DOG], "b": [ANIMAL, DOG], "c": [ANIMAL, DOG, BARK], "d": [ANIMAL, CAT],
         "e": [ANIMAL, DOG, BARK]}, MIDS,
    )  # fmt: skip
    found = against_truth(done, truth)
    assert (found["missing"], found["added"], found["right"]) == (5, 3, 2)
    assert found["precision"] == pytest.approx(2 / 3) and found["recall"] == pytest.approx(2 / 5)
