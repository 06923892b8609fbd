"""Which class may go with which: AudioSet's own ontology, and its abstract nodes."""

import json
from pathlib import Path

import numpy as np
import pytest
from label_overlays import write_ontology

from psla_wds.errors import LabelError
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.ontology import Ontology, read_ontology

TREE = {"music": ["genre", "song"], "genre": ["pop", "rock"], "rock": ["punk"], "sound": ["music"]}
MIDS = ("music", "pop", "rock", "punk", "song")


@pytest.fixture
def tree(tmp_path: Path) -> Ontology:
    return read_ontology(write_ontology(tmp_path / "o.json", TREE, {"genre", "sound"}))


def named(pairs: np.ndarray, mids: tuple[str, ...] = MIDS) -> set[tuple[str, str]]:
    return {(mids[k], mids[c]) for k, c in np.argwhere(pairs)}


def test_children_are_direct_ones(tree: Ontology):
    classes = ClassList(MIDS, MIDS)
    assert named(tree.child_pairs(classes, through_abstract=False)) == {
        ("music", "song"), ("rock", "punk"),
    }  # fmt: skip
    assert named(tree.child_pairs(classes, through_abstract=True)) == {
        ("music", "song"), ("rock", "punk"), ("music", "pop"), ("music", "rock"),
    }  # fmt: skip


def test_ancestors_are_all_above_up_to_an_abstract_one(tree: Ontology):
    classes = ClassList(MIDS, MIDS)
    assert named(tree.ancestor_pairs(classes, through_abstract=False)) == {
        ("song", "music"), ("punk", "rock"),
    }  # fmt: skip
    assert named(tree.ancestor_pairs(classes, through_abstract=True)) == {
        ("song", "music"), ("punk", "rock"), ("pop", "music"), ("rock", "music"), ("punk", "music"),
    }  # fmt: skip


def test_an_ambiguous_parent_can_be_left_out(tmp_path: Path):
    """A growl may be a dog's or a cat's; a puppy's yip is a dog's, and so an animal's."""
    mids = ("animal", "dog", "cat", "growl", "snarl", "yip")
    tree = {"animal": ["dog", "cat"], "dog": ["growl", "yip"], "cat": ["growl"], "growl": ["snarl"]}
    ontology = read_ontology(write_ontology(tmp_path / "o.json", tree, set()))
    classes = ClassList(mids, mids)
    every = named(ontology.ancestor_pairs(classes, through_abstract=False), mids)
    sure = named(ontology.ancestor_pairs(classes, through_abstract=False, single_parent=True), mids)
    assert sure == {("dog", "animal"), ("cat", "animal"), ("yip", "dog"), ("yip", "animal"),
                    ("snarl", "growl")}  # fmt: skip
    assert every - sure == {
        (below, above) for below in ("growl", "snarl") for above in ("dog", "cat", "animal")
    }


def test_ancestors_are_found_past_nodes_that_are_not_classes(tree: Ontology):
    mids = ("sound", "song")  # music, between them, is no class here
    classes = ClassList(mids, mids)
    assert not tree.child_pairs(classes, through_abstract=True).any()
    assert named(tree.ancestor_pairs(classes, through_abstract=True), mids) == {("song", "sound")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not an ontology"),
        ('[{"id": "a"}]', "not an ontology: KeyError"),
        ('[{"id": "a", "child_ids": "b", "restrictions": []}]', "not a list of strings"),
        ("{}", "not an ontology.*{} is not a list of nodes"),
        ("[]", "not an ontology.*is not a list of nodes"),
        ('["a"]', "this is not an ontology"),
        ('[{"id": "a", "child_ids": ["b"], "restrictions": []}]', "a child that is not a node: b"),
        ('[{"id": "a", "child_ids": [], "restrictions": []},'
         ' {"id": "a", "child_ids": [], "restrictions": []}]', "a node that is there twice"),
        ('[{"id": "a", "child_ids": ["b"], "restrictions": []},'
         ' {"id": "b", "child_ids": ["a"], "restrictions": []}]', "cycle: (a > b > a|b > a > b)"),
    ],
    ids=["not JSON", "no children", "a string", "an object", "empty", "texts", "unknown child",
         "twice", "circle"],
)  # fmt: skip
def test_a_bad_ontology_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "o.json").write_text(text)
    with pytest.raises(LabelError, match=message):
        read_ontology(tmp_path / "o.json")


def test_a_class_unknown_to_the_ontology_is_refused(tree: Ontology):
    with pytest.raises(LabelError, match="does not know 1 of 2 classes: hum"):
        tree.check_classes(ClassList(("pop", "hum"), ("pop", "hum")), where="o.json")


def test_pairs_are_as_many_as_the_official_code_finds(meta: Path):
    ontology = read_ontology(meta / "audioset_ontology.json")
    classes = read_class_list(meta / "audioset_class_labels_indices.csv")
    ontology.check_classes(classes, where=meta)
    children = ontology.child_pairs(classes, through_abstract=False)
    ancestors = ontology.ancestor_pairs(classes, through_abstract=False)
    repaired = ontology.ancestor_pairs(classes, through_abstract=True)
    assert (children.sum(), ancestors.sum(), repaired.sum()) == (378, 767, 835)
    assert not (ancestors & ~repaired).any()
    sure = [
        ontology.ancestor_pairs(classes, through_abstract=t, single_parent=True).sum()
        for t in (False, True)
    ]
    assert sure == [632, 697]
    fsd50k = read_class_list(meta / "fsd50k_class_labels_indices.csv")
    pairs = [ontology.ancestor_pairs(fsd50k, through_abstract=t).sum() for t in (False, True)]
    assert pairs == [304, 331]  # the official code loses 4 more by a list of nodes of its own


def test_the_ontology_of_the_demo_reads_as_audiosets(tmp_path: Path):
    from sharding.demo.classes import FAMILIES, ontology

    (tmp_path / "o.json").write_text(ontology())
    assert json.loads(ontology())[0].keys() == {"id", "name", "child_ids", "restrictions"}
    tree = read_ontology(tmp_path / "o.json")
    assert {family.mid for family in FAMILIES} <= tree.children.keys()


def test_a_long_chain_of_abstract_nodes_is_followed(tmp_path: Path):
    between = [f"a{number}" for number in range(3000)]
    nodes = dict(zip(["top", *between], ([name] for name in [*between, "low"]), strict=True))
    tree = read_ontology(write_ontology(tmp_path / "o.json", nodes, set(between)))
    mids = ("top", "low")
    pairs = tree.child_pairs(ClassList(mids, mids), through_abstract=True)
    assert named(pairs, mids) == {("top", "low")}
