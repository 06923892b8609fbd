"""Text of strangers: one line in errors, logs and tables; without meaning in Markdown and CSV."""

import json
import logging
import pickle
from unicodedata import category

import pytest

from psla_wds import cli
from psla_wds.errors import ConfigError, PslaError
from psla_wds.printable import csv_cell, is_printable, markdown, printable
from psla_wds.text_table import text_table

FAKE = "a\nerror: all is lost\n  fix:   rm -r /\x1b[2J\x9b2J\u202etxt\udce9"
SHOWN = r"a\nerror: all is lost\n  fix:   rm -r /\u001b[2J\u009b2J\u202etxt\udce9"


def test_escapes_are_those_of_json_and_nothing_else_changes():
    assert printable(FAKE) == SHOWN and not is_printable(FAKE)
    assert json.loads(f'"{SHOWN}"') == FAKE
    text = "Größe, 音 🎻 и שלום, क\u200cष 👩\u200d🚒"
    assert printable(text) == text and is_printable(text)


def test_characters_that_show_nothing_are_shown():
    """All format characters but joiners, and signs of Arabic and other scripts that are drawn."""
    drawn = "\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
    drawn += "\U000110bd\U000110cd"
    for char in filter(lambda c: category(c) in ("Cf", "Zl", "Zp"), map(chr, range(0x110000))):
        assert (printable(char) == char) == (char in drawn), hex(ord(char))
        assert json.loads(f'"{printable(char)}"') == char
    assert is_printable("a\u200fb\u00ad")  # names of classes may have them


def test_no_name_adds_a_line_to_an_error():
    error = ConfigError(f"no class {FAKE}", where=FAKE, fix=f"name {FAKE}")
    assert str(error).splitlines() == [
        f"no class {SHOWN}",
        f"  where: {SHOWN}",
        f"  fix:   name {SHOWN}",
    ]
    assert str(PslaError.relayed(str(error))) == str(error)
    sent = pickle.loads(pickle.dumps(error))
    assert type(sent) is ConfigError and str(sent) == str(error)


def test_no_name_adds_a_line_to_a_log_or_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    cli.run(lambda: logging.getLogger("train").warning("clip %s", FAKE))
    assert capsys.readouterr().err[9:] == f"train: clip {SHOWN}\n"
    assert text_table([[FAKE[:20], "1"]]) == r"a\nerror: all is lost  1"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Dog, _bark_ (loud)", r"Dog, \_bark\_ \(loud\)"),
        ("<script> &", "&lt;script&gt; &amp;"),
        ("![x](http://a)", r"\!\[x\]\(http://a\)"),
        ("# a\n- b", r"\# a\\n- b"),
    ],
)
def test_no_name_has_a_meaning_in_markdown(text: str, shown: str):
    assert markdown(text) == shown


@pytest.mark.parametrize("text", ["=1+1", "+1", "@SUM(A1)", "-1+cmd|' /C calc'!A0", "-SUM(A1)"])
def test_no_name_is_a_formula_in_a_cell(text: str):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-PJHxphWEs.wav", "a=b", "Dog", "-12 dB", ""])
def test_other_names_stay_as_they_are_in_a_cell(text: str):
    assert csv_cell(text) == text
