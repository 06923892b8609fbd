"""Every command, flag and message in README.md and docs/ is one that the programs know."""

import ast
import importlib
import re
import sys
from collections.abc import Callable
from configparser import ConfigParser

import pytest
import tyro
from documents import PAGES, ROOT, Command, commands_of, inline_commands_of

from psla_wds import cli
from psla_wds.errors import PslaError
from train.main import parse
from train.study.settings import StudyArgs, base_config

REST = {
    "python -m sharding.build audioset ...": "--segments S.csv --audio-root A --class-labels C.csv "
    "--output O",
    "python -m train.study NAME ...": "--index S --eval-index S --work W",
    "python -m sharding.build ...": "folder FOLDER --output O",
    "torchrun --nproc-per-node 8 train/main.py ...": "demo",
}
"""What `...` stands for, by what is before it."""
ERRORS = (
    "PslaError", "ConfigError", "ManifestError", "LabelError", "ShardError", "StaleIndexError",
    "CheckpointError", "ScoreError", "DamagedClipError", "AudioError",
)  # fmt: skip


class Parsed(Exception):  # noqa: N818 (no error)
    """A command took its arguments; raised in place of running it."""


@pytest.fixture
def only_parsing(monkeypatch: pytest.MonkeyPatch):
    """Commands stop when they have parsed their arguments."""
    real = cli.parse

    def parse_and_stop(*arguments: object, **options: object) -> None:
        real(*arguments, **options)
        raise Parsed

    monkeypatch.setattr(cli, "parse", parse_and_stop)
    monkeypatch.setattr(sys, "argv", ["command"])


def module(words: list[str]) -> None:
    """python -m MODULE ARGUMENTS"""
    name, *arguments = words[2:]
    if name == "pip":
        return pip(words[2:])
    if name == "build":  # PyPA's, in its own environment
        assert not arguments
        return None
    if name == "train.study":
        return study(arguments)
    if name == "train.main":
        parse(arguments)
        return None
    sys.argv[1:] = arguments
    with pytest.raises(Parsed):
        importlib.import_module(name).main()
    return None


def study(arguments: list[str]) -> None:
    """python -m train.study NAME, with settings of a training run"""
    args, settings = tyro.cli(StudyArgs, args=arguments, prog="study", return_unknown_args=True)
    if args.name != "list":
        base_config(args, settings)


def torchrun(words: list[str]) -> None:
    """torchrun LAUNCHER'S OPTIONS train/main.py RECIPE SETTINGS"""
    from torch.distributed.run import get_args_parser

    launch = get_args_parser().parse_args(words[1:])
    assert launch.training_script.endswith("train.main" if launch.module else "train/main.py")
    parse(launch.training_script_args)


def make(words: list[str]) -> None:
    """make TARGET VARIABLE=VALUE: both stand in the Makefile; test_commands.py plans a demo."""
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    for word in words[1:]:
        variable = word.partition("=")[0] if "=" in word else None
        assert f"({variable})" in makefile if variable else word in targets, word


def pip(words: list[str]) -> None:
    """pip install -c FILE NAMES: the file is there, and extras and names are those of setup.cfg."""
    assert words[1] == "install"
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    names = words[2:]
    if "-c" in names:
        place = names.index("-c")
        assert (ROOT / names[place + 1]).is_file()
        del names[place : place + 2]
    for name in names:
        found = re.fullmatch(r"(?:psla-wds|\.)\[([\w,]+)\]", name)
        known = set(found[1].split(",")) <= set(extras) if found else name in {*extras, "build"}
        assert known or f"\n{name}==" in (ROOT / "constraints.txt").read_text(), name


def dask(words: list[str]) -> None:
    """dask scheduler|worker OPTIONS"""
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    command = importlib.import_module(f"distributed.cli.dask_{words[1]}").main
    command.make_context("dask", words[2:])


def srun(words: list[str]) -> None:
    """srun --ntasks N COMMAND"""
    check(words[3:] if words[1] == "--ntasks" else words[1:])


def clone(words: list[str]) -> None:
    assert words[1] == "clone" and words[2].startswith("https://")


def source(words: list[str]) -> None:
    """A program that gives audio, piped into a command."""


def script(words: list[str]) -> None:
    """What only a job's script has: a shell's own words, and Slurm's."""


def activate(words: list[str]) -> None:
    assert words[1].endswith(".venv/bin/activate")


RULES: dict[str, Callable[[list[str]], None]] = {
    "python": module,
    "torchrun": torchrun,
    "make": make,
    "pip": pip,
    "dask": dask,
    "srun": srun,
    "git": clone,
    "source": activate,
    **dict.fromkeys(("ffmpeg", "arecord"), source),
    **dict.fromkeys(("if", "fi", "exit", "export", "scontrol"), script),
}
"""What makes sure of a command, by its first word."""


def check(words: list[str]) -> None:
    if re.match(r"(head|status)=", words[0]):  # of a job's script
        return None
    if "|" in words and words[0] not in ("if", "fi"):
        place = words.index("|")
        check(words[:place])
        return check(words[place + 1 :])
    assert words[0] in RULES, f"no rule in tests/test_documents.py for {' '.join(words)}"
    return RULES[words[0]](words)


def complete(command: Command) -> list[str]:
    """The words of a command, with something in place of dots and RECIPE."""
    text = command.text
    for start, rest in REST.items():
        if text.startswith(start):
            text = text.replace("...", rest, 1)
    text = re.sub(r" \[[^]]*\]", "", text)
    text = text.replace("{}", "0").replace("RECIPE", "demo").replace("study NAME", "study ablation")
    return Command(command.page, text).words


ALL = [command for page in PAGES for command in (*commands_of(page), *inline_commands_of(page))]


@pytest.mark.usefixtures("only_parsing")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_documents_is_understood(page, capsys):
    wrong = {}
    for command in (c for c in ALL if c.page == page.name):
        try:
            check(complete(command))
        except (PslaError, SystemExit, AssertionError, ImportError, pytest.fail.Exception) as error:
            said = capsys.readouterr().err
            wrong[command.text] = f"{type(error).__name__}: {error}\n{said[-800:]}"
    assert not wrong, "\n".join(f"{text}\n  {why}" for text, why in wrong.items())


@pytest.mark.usefixtures("only_parsing")
@pytest.mark.parametrize(
    "text",
    [
        "rm -rf shards",
        "python -m sharding.check SHARDS --deeper",
        "python -m eval.average RUN --epochs 16 --output A.pt",
        "torchrun train/main.py audioset-fool",
        "torchrun train/main.py demo --subset-seed 3",
        "torchrun --nprocs 8 train/main.py demo",
        "pip install 'psla-wds[s4]'",
        "make tests",
    ],
)
def test_what_is_no_command_is_noticed(text: str, capsys):
    with pytest.raises((PslaError, SystemExit, AssertionError)):
        check(Command("page", text).words)
    capsys.readouterr()


def test_commands_are_found_in_blocks_and_sentences(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Run `make test`, or `python -m sharding.info`:\n\n    python -m a.b \\\n        --c 1\n"
        "    # a remark\n    torchrun x &\n\n```bash\n#SBATCH\ngit d\n```\n\n"
        "```python\nimport os\n```\n"
    )
    found = commands_of(page)
    assert [c.text for c in found] == ["git d", "python -m a.b --c 1", "torchrun x &"]
    assert found[2].words == ["torchrun", "x"]
    assert [c.text for c in inline_commands_of(page)] == ["make test"]


# The table of the official code's flags


OFFICIAL_FLAGS = {
    "data-train", "data-val", "data-eval", "label-csv", "exp-dir", "optim", "batch-size",
    "num-workers", "lr", "lr-decay", "momentum", "weight-decay", "n-epochs", "n-print-steps",
    "model", "dataset", "dataset_mean", "dataset_std", "target_length", "noise", "metrics",
    "warmup", "loss", "lrscheduler_start", "lrscheduler_decay", "wa", "wa_start", "wa_end",
    "n_class", "save_model", "eff_b", "esc", "impretrain", "freqm", "timem", "mixup",
    "lr_patience", "att_head", "bal",
}  # fmt: skip
"""Of src/run.py of the official repository: 39."""


def table_rows() -> list[list[str]]:
    text = (ROOT / "docs" / "from_the_official_code.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_table_has_every_flag_of_the_official_code_once():
    named = [flag for row in table_rows() for flag in re.findall(r"`--([\w-]+)`", row[0])]
    assert sorted(named) == sorted(OFFICIAL_FLAGS) and len(named) == 39


@pytest.mark.parametrize("row", table_rows(), ids=lambda row: row[0])
def test_our_flags_in_the_table_are_known_to_the_parser(row: list[str]):
    given = [text for cell in row[1:] for text in re.findall(r"`(--[^`]*)`", cell)]
    for text in given:
        parse(["audioset-full", *text.split()])
    assert row[1] == "" or given or "python -m" in row[1]


# The messages in docs/troubleshooting.md


def messages() -> list[str]:
    """What the errors of the sources say, with a NUL for what they fill in."""
    found = []
    for package in ("psla_wds", "sharding", "train", "eval"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ERRORS and node.args:
                    found.append(_template(node.args[0]))
    return found


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    return "\0"


def quoted() -> list[str]:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    return re.findall(r"^\*\*(.+)\*\*$", text, re.MULTILINE)


def test_every_message_in_the_troubleshooting_page_is_one_of_the_sources():
    said = messages()
    assert len(quoted()) > 30 and len(said) > 200
    for quote in quoted():
        parts = map(re.escape, quote.split("..."))
        pattern = re.compile("(?:.*\0.*)".join(parts), re.DOTALL)
        assert any(pattern.fullmatch(text) for text in said), quote
