from pathlib import Path

import pytest

from psla_wds.errors import ManifestError
from psla_wds.labels.class_list import ClassList, read_class_list, write_class_list

CLASSES = ClassList(
    ("/m/09x0r", "/m/05zppz", "7"), ("Speech", "Male speech, man speaking", "Seven")
)


@pytest.mark.parametrize(
    ("label", "position"),
    [("/m/05zppz", 1), ("Male speech, man speaking", 1), ("1", 1), ("7", 2), ("speech", None)],
    ids=["mid", "name with a comma", "index", "a mid that looks like a number", "another case"],
)
def test_a_label_is_a_mid_a_name_or_an_index(label: str, position: int | None):
    assert CLASSES.find(label) == position


def test_the_nearest_name_is_offered_whatever_its_case():
    assert CLASSES.nearest("SPEACH") == "Speech"
    assert CLASSES.nearest("zzzzzzzzzzzz") is None


def test_a_class_list_survives_writing_and_reading(tmp_path: Path):
    write_class_list(CLASSES, tmp_path / "classes.csv")
    assert read_class_list(tmp_path / "classes.csv") == CLASSES


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("index,mid,display_name\n", "has no classes"),
        ("index,mid,display_name\n1,/m/a,A\n", "index 1 where 0 was expected"),
        ("index,mid,display_name\n0,/m/a,A\n1,/m/a,B\n", "mid /m/a appears twice"),
        ("index,mid,display_name\n0,/m/a,A\n1,/m/b,A\n", "display_name A appears twice"),
        ("mid,name\n/m/a,A\n", "needs an index, a mid and a name"),
        ("index,mid,display_name\n0,/m/a,\xe9\n", "not CSV in UTF-8"),
        ("index,mid,display_name\n0,/m/a,A\x1b[2J\n", r"where: class A\\u001b\[2J\n"),
        ('index,mid,display_name\n0,"/m/\n/a",A\n', r"where: class /m/\\n/a\n"),
    ],
)
def test_a_wrong_class_list_is_refused_with_its_line(tmp_path: Path, content: str, what: str):
    (tmp_path / "classes.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ManifestError, match=what):
        read_class_list(tmp_path / "classes.csv")


def test_a_missing_class_list_is_named(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"no class list here\n  where: .*nothing\.csv"):
        read_class_list(tmp_path / "nothing.csv")
