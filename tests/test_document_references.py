"""What the sentences of README.md and docs/ refer to is there: flags, pages, sections."""

import ast
import re
from pathlib import Path

import pytest
from documents import FENCE, PAGES, ROOT
from test_documents import OFFICIAL_FLAGS

PACKAGES = ("psla_wds", "sharding", "train", "eval", "benchmarks")
OTHERS = {
    "help",
    *("nproc-per-node", "max-restarts", "signals-to-handle"),  # torchrun's
    *("array", "requeue"),  # Slurm's
}
FLAG = re.compile(r"(?<![\w-])--([a-z][\w.-]*)")

Fields = dict[str, str]
"""Annotations by name."""


def classes() -> list[tuple[str, Fields]]:
    """Every class of the sources, of which some are arguments of commands."""
    return [
        (node.name, fields_of(node))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]


def fields_of(node: ast.ClassDef) -> Fields:
    return {
        part.target.id: ast.unparse(part.annotation)
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }


CLASSES = classes()


def is_flag(name: str) -> bool:
    """Whether a class has such a field, and, of `a.b`, a field `a` of a class that has `b`; with
    `no-` before its name a field is turned off."""
    *group, field = name.replace("-", "_").split(".")
    types = {annotation for _, fields in CLASSES for f, annotation in fields.items() if f in group}
    turned_on = field.removeprefix("no_")
    return any(
        (field in fields or fields.get(turned_on) == "bool") and (not group or n in types)
        for n, fields in CLASSES
    )


def flags_in_code(text: str) -> list[str]:
    code = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    return [flag for part in code for flag in FLAG.findall(part)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_a_sentence_names_is_one_of_ours(page: Path):
    known = OTHERS | (OFFICIAL_FLAGS if page.name == "from_the_official_code.md" else set())
    found = set(flags_in_code(page.read_text())) - known
    assert not [flag for flag in found if not is_flag(flag)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_page_and_a_section(page: Path):
    wrong = [link for link in links_of(page.read_text()) if not leads_somewhere(page, link)]
    assert not wrong


def links_of(text: str) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def leads_somewhere(page: Path, link: str) -> bool:
    name, _, section = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not section or section in sections_of(target.read_text()))


def sections_of(text: str) -> set[str]:
    """Names of the sections as GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_flags_and_links_that_are_wrong_are_noticed():
    text = "`--optimizer.trunk-factor 0` and `--trunk-factor-x`, [here](docs/install.md#cuda-12)"
    assert flags_in_code(text) == ["optimizer.trunk-factor", "trunk-factor-x"]
    for wrong in ("windows.trunk-factor", "optimizers.trunk-factor", "optimizer.factor", "lr"):
        assert not is_flag(wrong)
    assert is_flag("optimizer.trunk-factor") and is_flag("epochs")
    (link,) = links_of(text)
    assert leads_somewhere(ROOT / "README.md", link)
    for wrong in ("docs/no.md", "docs/install.md#cuda-11", "#no-section"):
        assert not leads_somewhere(ROOT / "README.md", wrong)
