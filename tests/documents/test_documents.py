"""README.md and docs/: their commands parse, their links, flags and messages exist."""

import ast
import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from pages import FENCE, PAGES, ROOT, commands_of, inline_commands_of

from psla_wds import cli
from psla_wds.commands import MODULES
from psla_wds.errors import PslaError
from train.config import TrainConfig
from train.main import parse

PACKAGES = ("psla_wds", "sharding", "train", "eval", "benchmarks")
REST = {
    "psla-wds build audioset": "--segments S.csv --audio-root A --class-labels C.csv --output O",
    "psla-wds build": "folder FOLDER --output O",
    "python -m sharding.build folder": "FOLDER --output O",
    r".* (train|train/main.py) [\w-]+": "--index S",
}
"""Meaning of `...` after beginnings of commands."""
OTHER_FLAGS = {
    *("help", "nproc-per-node", "standalone", "max-restarts", "signals-to-handle"),  # torchrun's
    *("rdzv-conf", "rdzv-endpoint"),
    *("array", "requeue"),  # Slurm's
}
OFFICIAL_FLAGS = {
    "data-train", "data-val", "data-eval", "label-csv", "exp-dir", "optim", "batch-size",
    "num-workers", "lr", "lr-decay", "momentum", "weight-decay", "n-epochs", "n-print-steps",
    "model", "dataset", "dataset_mean", "dataset_std", "target_length", "noise", "metrics",
    "warmup", "loss", "lrscheduler_start", "lrscheduler_decay", "wa", "wa_start", "wa_end",
    "n_class", "save_model", "eff_b", "esc", "impretrain", "freqm", "timem", "mixup",
    "lr_patience", "att_head", "bal",
}  # fmt: skip
"""Flags of src/run.py of the official repository."""


class Parsed(Exception):  # noqa: N818 (not an error)
    """A command accepted its arguments; raised in place of running it."""


@pytest.fixture
def only_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cli.parse

    def parse_and_stop(kind: type, *arguments: object, **options: object) -> object:
        found = real(kind, *arguments, **options)
        if kind is TrainConfig:  # which is checked after it
            return found
        raise Parsed

    monkeypatch.setattr(cli, "parse", parse_and_stop)
    monkeypatch.setattr(sys, "argv", ["command"])


def started_by(words: list[str]) -> tuple[str, list[str]]:
    """The module of ours that a command starts, or "", and its arguments."""
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        launch = get_args_parser().parse_args(words[1:])
        start = {"train/main.py": ["train"], "psla_wds": []}.get(launch.training_script)
        if start is None:
            return "", []
        words = ["psla-wds", *start, *launch.training_script_args]
    if words[:3] == ["python", "-m", "psla_wds"]:
        words = ["psla-wds", *words[3:]]
    if words[0] == "psla-wds":
        return MODULES[words[1]], words[2:]
    is_ours = words[:2] == ["python", "-m"] and words[2].split(".")[0] in PACKAGES
    return (words[2], words[3:]) if is_ours else ("", [])


def check(text: str) -> None:
    """Parse a command of ours; others, such as those of a cluster, are not looked at."""
    for start, rest in REST.items():
        text = re.sub(rf"^({start}) \.\.\.", rf"\1 {rest}", text)
    text = re.sub(r" \[[^]]*\]", "", text)
    text = text.replace("{}", "0").replace("RECIPE", "demo")
    for part in text.split(" | "):
        module, sys.argv[1:] = started_by(shlex.split(part, comments=True))
        if module == "train.main":
            parse(sys.argv[1:])
        elif module and module != "train.study":  # tests/train/study parses all of its rows
            with pytest.raises(Parsed):
                if module.startswith("benchmarks."):
                    runpy.run_module(module, run_name="__main__")
                else:
                    importlib.import_module(module).main()


@pytest.mark.usefixtures("only_parsing")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_parse(page: Path, capsys: pytest.CaptureFixture[str]):
    wrong = {}
    for command in (*commands_of(page), *inline_commands_of(page)):
        try:
            check(command.text)
        except (PslaError, SystemExit, ImportError, KeyError, pytest.fail.Exception) as error:
            wrong[command.text] = f"{error}\n{capsys.readouterr().err[-800:]}"
    assert not wrong, "\n".join(f"{text}\n  {why}" for text, why in wrong.items())


@pytest.mark.usefixtures("only_parsing")
@pytest.mark.parametrize(
    "text",
    [
        "psla-wds check SHARDS --deeper",
        "psla-wds chekc SHARDS",
        "python -m eval.average RUN --epochs 16 --output A.pt",
        "torchrun train/main.py audioset-fool",
        "torchrun --nprocs 8 -m psla_wds train demo",
        "torchrun --nproc-per-node 8 -m psla_wds predict RUN --index S",
    ],
)
def test_wrong_command_is_noticed(text: str):
    with pytest.raises((PslaError, SystemExit, KeyError)):
        check(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    assert not [link for link in links if "://" not in link and not leads_somewhere(page, link)]


def leads_somewhere(page: Path, link: str) -> bool:
    name, _, section = link.partition("#")
    target = page.parent / name if name else page
    if not target.exists() or not section:
        return target.exists()
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", target.read_text()), re.MULTILINE)
    return section in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_wrong_link_is_noticed():
    assert leads_somewhere(ROOT / "README.md", "docs/install.md#cuda-12")
    for wrong in ("docs/no.md", "docs/install.md#cuda-11", "#no-section"):
        assert not leads_somewhere(ROOT / "README.md", wrong)


def fields() -> set[str]:
    """Names of the fields of all classes, of which some are arguments of commands."""
    return {
        part.target.id
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }


FIELDS = fields()


LIVING = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which names what is gone


@pytest.mark.parametrize("page", LIVING, ids=lambda page: page.name)
def test_flags_in_sentences_exist(page: Path):
    code = re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text()))
    flags = {flag for part in code for flag in re.findall(r"(?<![\w-])--([a-z][\w.-]*)", part)}
    flags -= OTHER_FLAGS | (OFFICIAL_FLAGS if "official_code" in page.name else set())
    names = {flag: flag.replace("-", "_").removeprefix("no_").split(".") for flag in flags}
    assert not {flag for flag, parts in names.items() if not set(parts) <= FIELDS}


def table_rows() -> list[list[str]]:
    text = (ROOT / "docs" / "from_the_official_code.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_table_has_each_flag_of_the_official_code():
    named = [flag for row in table_rows() for flag in re.findall(r"`--([\w-]+)`", row[0])]
    assert sorted(named) == sorted(OFFICIAL_FLAGS) and len(named) == 39


@pytest.mark.parametrize("row", table_rows(), ids=lambda row: row[0])
def test_our_flags_in_the_table_parse(row: list[str]):
    given = [text for cell in row[1:] for text in re.findall(r"`(--[^`]*)`", cell)]
    for text in given:
        parse(["audioset-full", *text.split()])
    assert row[1] == "" or given or "`psla-wds " in row[1]


def test_kinds_of_audio_files_name_their_tests():
    text = (ROOT / "docs" / "data_sets.md").read_text().partition("## Kinds of audio files")[2]
    text = text.partition("## Flags")[0]
    tests = re.findall(r"^(\d+)\. `(.+)::(\w+)`$", text, re.MULTILINE)
    sources = {file: (ROOT / "tests" / file).read_text() for _, file, _ in tests}
    lacking = [test for _, file, test in tests if f"\ndef {test}(" not in sources[file]]
    assert len(tests) > 20 and not lacking
    rows = [line.strip("| ").split("|")[1:] for line in text.splitlines() if line[:2] == "| "]
    says = [cell for row in rows[1:] for cell in row if cell.strip()]
    assert not [cell for cell in says if not re.search(r"\(\d+(, \d+)*\)\s*$", cell)]
    used = {number for group in re.findall(r"\(([\d, ]+)\)", text) for number in group.split(", ")}
    assert used == {number for number, _, _ in tests}


def message(node: ast.expr) -> str:
    """Text of an error, with a NUL for what it fills in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(message(part) for part in node.values)
    return "\0"


def test_messages_in_troubleshooting_are_those_of_the_sources():
    nodes = [
        node
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    calls = [(node.args, ast.unparse(node.func)) for node in nodes if isinstance(node, ast.Call)]
    said = [message(args[0]) for args, name in calls if name.endswith("Error") and args]
    said += [message(args[1]) for args, name in calls if name == "ClipRefusedError" and args[1:]]
    warnings = [args[0] for args, name in calls if name in ("logger.warning", "_warn")]
    said += [re.sub("%[a-z]", "\0", message(node)) for node in warnings]
    said += [message(node) for node in nodes if isinstance(node, ast.JoinedStr)]  # flags
    said += [message(args[1]) for args, name in calls if name == "require"]
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quotes = re.findall(r"^\*\*(.+)\*\*$", page, re.MULTILINE)
    assert len(quotes) > 30
    patterns = {q: "(?:.*\0.*)".join(map(re.escape, q.split("..."))) for q in quotes}
    assert not [
        quote
        for quote, pattern in patterns.items()
        if not any(re.fullmatch(pattern, text, re.DOTALL) for text in said)
    ]
