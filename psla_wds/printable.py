"""Text of strangers, made safe to show: names, ids and messages from files that others wrote."""

import html
import re
import shlex

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls of terminals, ends of lines, changes of direction, and bytes that are not UTF-8."""
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#|!~$])")
_FORMULA = re.compile(r"[=+@]|-.*[(|!]")
"""Beginnings that a spreadsheet computes; a name such as -12dB is only text to it."""


def printable(text: str) -> str:
    """`text` on one line, with escapes (as in JSON) for what is not to be shown as it is."""
    return _UNPRINTABLE.sub(lambda c: _SHORT.get(c[0], f"\\u{ord(c[0]):04x}"), text)


def is_printable(text: str) -> bool:
    """Whether `printable` changes nothing."""
    return _UNPRINTABLE.search(text) is None


def typed(*words: object) -> str:
    """Words as they are typed in a shell, such as paths with spaces in quotes."""
    return shlex.join(map(str, words))


def markdown(text: str) -> str:
    """`text` for Markdown, where none of its characters has a meaning."""
    return html.escape(_MARKDOWN.sub(r"\\\1", printable(text)), quote=False)


def csv_cell(text: str) -> str:
    """`text` for a cell; with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{printable(text)}" if _FORMULA.match(text) else printable(text)
