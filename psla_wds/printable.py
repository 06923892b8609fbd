"""Text of strangers, made safe to show: names, ids and messages from files that others wrote."""

import html
import re
import shlex

_HARMFUL = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Controls of terminals, ends of lines, changes of direction, and bytes that are not UTF-8."""
_INVISIBLE = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2060-\u206f\ufeff\ufff9-\ufffb\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
)
"""Format characters (category Cf) that show nothing: names that look alike may differ in them. The
joiners U+200C and U+200D are not among them: scripts and emoji need them."""
_REFUSED = re.compile(f"[{_HARMFUL}]")
_UNPRINTABLE = re.compile(f"[{_HARMFUL}{_INVISIBLE}]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#|!~$])")
_FORMULA = re.compile(r"[=+@]|-.*[(|!]")
"""Beginnings that a spreadsheet computes; a name such as -12dB is only text to it."""


def printable(text: str) -> str:
    """`text` on one line, with escapes (as in JSON) for what is not to be shown as it is."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return _SHORT.get(found[0]) or re.sub("(....)", r"\\u\1", units)


def is_printable(text: str) -> bool:
    """Whether text moves no cursor, ends no line, and keeps its direction."""
    return _REFUSED.search(text) is None


def typed(*words: object) -> str:
    """Words as they are typed in a shell, such as paths with spaces in quotes."""
    return shlex.join(map(str, words))


def markdown(text: str) -> str:
    """`text` for Markdown, where none of its characters has a meaning."""
    return html.escape(_MARKDOWN.sub(r"\\\1", printable(text)), quote=False)


def csv_cell(text: str) -> str:
    """`text` for a cell; with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{printable(text)}" if _FORMULA.match(text) else printable(text)
