"""Labels of every form that people write; what can be read in two ways is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import LabelError, label_positions


def classes_of(*names: str) -> ClassList:
    return ClassList(tuple(f"/m/{name}" for name in names), names)


ONE, TWO = classes_of("cat"), classes_of("cat", "dog")
FOUR = classes_of("cat", "cow", "dog", "rain|hail")
NUMBERS = classes_of("2", "0", "1984")
DIGITS = classes_of("0", "1", "2")


@pytest.mark.parametrize(
    ("value", "classes", "positions"),
    [
        (None, FOUR, ()),
        ("", FOUR, ()),
        ([], FOUR, ()),
        (["", " "], FOUR, ()),
        ("cat", FOUR, (0,)),
        (" dog | /m/cow|0|", FOUR, (0, 1, 2)),
        (["dog", "cow"], FOUR, (1, 2)),
        (["dog", "/m/dog", "dog", 2], FOUR, (2,)),
        (["cow|dog", 0, "3"], FOUR, (0, 1, 2, 3)),
        ("rain|hail", FOUR, (3,)),
        (["rain|hail", "cow"], FOUR, (1, 3)),
        (3, FOUR, (3,)),
        (0, ONE, (0,)),
        ([2, 0], FOUR, (0, 2)),
        ([0, 1], FOUR, (0, 1)),
        ([1], FOUR, (1,)),
        ("0|1", TWO, (0, 1)),
        (["1", "0"], TWO, (0, 1)),
        ("0", ONE, (0,)),
        ([1984], NUMBERS, (2,)),
        ("2|2", NUMBERS, (0,)),
    ],
)
def test_names_mids_and_indices_mean_their_classes(value, classes, positions):
    assert label_positions(value, classes) == positions


@pytest.mark.parametrize(
    ("value", "classes", "positions"),
    [
        ([0, 0, 1, 0], FOUR, (2,)),
        ([0, 1, 0, 1], FOUR, (1, 3)),
        ([0, 0, 0, 0], FOUR, ()),
        ((1, 1, 1, 1), FOUR, (0, 1, 2, 3)),
        ([0.0, 0.0, 1.0, 0.0], FOUR, (2,)),
        ([False, True, False, False], FOUR, (1,)),
        ("0|1|0|1", FOUR, (1, 3)),
        (["0", "0", "1", "0"], FOUR, (2,)),
        ([0.0, 1.0], TWO, (1,)),
        ([True, False], TWO, (0,)),
        ([1, 1], TWO, (0, 1)),
        ([0, 0], TWO, ()),
        ([1], ONE, (0,)),
        ([0, 0, 1], DIGITS, (2,)),
    ],
)
def test_an_entry_for_each_class_is_multi_hot(value, classes, positions):
    assert label_positions(value, classes) == positions


@pytest.mark.parametrize(
    ("value", "classes", "words"),
    [
        ([0, 1], TWO, ("indices", "0 or 1 for each of 2")),
        ([1, 0], TWO, ("indices", "0 or 1 for each of 2")),
        ([0], ONE, ("indices", "0 or 1 for each of 1")),
        ("0|1|0", DIGITS, ("names", "0 or 1 for each of 3")),
        (0, NUMBERS, ("index of '2'", "name of the class with the index 1")),
        ([1, 2], NUMBERS, ("index of '1984'", "name of the class with the index 0")),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(value, classes, words):
    with pytest.raises(LabelError) as caught:
        label_positions(value, classes)
    assert caught.value.reason == "bad-label" and caught.value.fix
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("value", "classes", "words"),
    [
        ([0, 0, 1], FOUR, ("index 0", "3", "4 classes")),
        ([0, 1, 0, 0, 0], FOUR, ("index 0", "5", "4 classes")),
        ("0|1|0", FOUR, ("index 0", "3", "4 classes")),
        ([3, 3], FOUR, ("index 3",)),
        (["1", 1], FOUR, ("index 1",)),
        ("1|1", TWO, ("index 1",)),
        ([True, False], FOUR, ("2", "4 classes")),
        ([1.0, 0.0, 0.0], FOUR, ("3", "4 classes")),
        (True, FOUR, ("1", "4 classes")),
        ([True, "cat"], FOUR, ("True",)),
        ([1.5], FOUR, ("1.5",)),
        (float("nan"), FOUR, ("nan",)),
        ([0, 1, 0, 0.5], FOUR, ("0.5",)),
        ({"cat": 1}, FOUR, ("{'cat': 1}",)),
        ([["cat"]], FOUR, ("['cat']",)),
        (["cat", None], FOUR, ("None",)),
        (b"cat", FOUR, ("b'cat'",)),
    ],
)
def test_labels_of_no_known_form_are_bad(value, classes, words):
    with pytest.raises(LabelError) as caught:
        label_positions(value, classes)
    assert caught.value.reason == "bad-label" and caught.value.fix
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("value", [4, -1, "4", "lion", ["cat", "lion"], [0, 4]])
def test_labels_outside_the_class_list_are_unknown(value):
    with pytest.raises(LabelError, match=r"is not in the class list of 4 classes") as caught:
        label_positions(value, FOUR)
    assert caught.value.reason == "unknown-label"


def test_the_nearest_name_of_an_unknown_label_is_offered():
    with pytest.raises(LabelError) as caught:
        label_positions("Dogs", FOUR)
    assert caught.value.fix == "did you mean 'dog'?"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 5)
    | st.floats()
    | st.sampled_from("01|2 x")
    | st.text(),
    lambda values: st.lists(values, max_size=5) | st.dictionaries(st.text(), values, max_size=2),
)


@given(json_values, st.sampled_from([ONE, TWO, FOUR, NUMBERS, DIGITS]))
def test_any_value_gives_classes_or_a_label_error(value, classes):
    try:
        found = label_positions(value, classes)
    except LabelError as error:
        assert error.reason in ("bad-label", "unknown-label") and error.fix and str(error)
    else:
        assert list(found) == sorted(set(found)) and set(found) <= set(range(len(classes)))
