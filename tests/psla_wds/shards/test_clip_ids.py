"""Clip ids in columns: found by id, whatever the order, and not by their hash alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psla_wds.shards.clip_ids import NOT_THERE, ClipIds

TEXTS = st.lists(st.text(max_size=4), unique=True, max_size=12)


@given(TEXTS, TEXTS)
def test_rows_are_those_of_a_dictionary(have: list[str], wanted: list[str]):
    expected = [have.index(text) if text in have else NOT_THERE for text in wanted]
    assert ClipIds.of(have).rows_of(ClipIds.of(wanted)).tolist() == expected


@given(TEXTS, st.slices(12))
def test_ids_come_back(texts: list[str], some: slice):
    ids = ClipIds.of(texts)
    assert list(ids) == texts == [ids[row] for row in range(len(ids))]
    assert ids[some] == texts[some] and ids[-1:] == texts[-1:]
    with pytest.raises(IndexError):
        ids[len(ids)]


def test_two_ids_of_one_hash_are_not_taken_for_one_another(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ClipIds, "hashes", lambda self, _: np.zeros(len(self), np.uint64))
    have, wanted = ClipIds.of(["ab", "cd"]), ClipIds.of(["cd", "ab", "abc", "ax", ""])
    assert have.rows_of(wanted).tolist() == [NOT_THERE, 0, NOT_THERE, NOT_THERE, NOT_THERE]


@given(st.lists(st.text(max_size=1), max_size=12))
def test_repeats_are_those_of_a_list(texts: list[str]):
    expected = [row for row, text in enumerate(texts) if text in texts[:row]]
    assert ClipIds.of(texts).repeated().tolist() == expected
