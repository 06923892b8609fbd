"""Words of commands: what is wrong with them in three lines, and what is never written over."""

import ast
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import pytest
from tyro.conf import Positional

from psla_wds import cli
from psla_wds.commands import MODULES, ROOT
from psla_wds.config import Within
from psla_wds.errors import ConfigError

RESUMED = {"sharding.build", "sharding.index", "sharding.synthesize", "train.main", "train.study"}
"""Commands that write folders of their own kind, which have their own rules."""
PATHS = r"^\{(\w+\.\w+|path|file|folder)\}$"
"""Expressions in texts that are paths as they are."""


@dataclass(frozen=True)
class Section:
    num_frames: Annotated[int, Within(1, 100)] = 1


@dataclass(frozen=True)
class Args(cli.Overwrite):
    model: Positional[Path]
    output: Annotated[Path, cli.New(twins=(".png",))]
    epochs: tuple[int, int] = (1, 2)
    """First and last epoch."""
    features: Section = Section()
    page: Annotated[Path | None, cli.New(("a.html", "b.json"))] = None


def parsed(*words: str) -> Args:
    return cli.parse(Args, None, prog="score", args=list(words))


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        ([], "MODEL and --output must be given", "type psla-wds score MODEL --output PATH"),
        (["a b", "--outptu", "x"], "no option --outptu", "type --output"),
        (["a b"], "--output must be given", "score 'a b' --output PATH"),
        (["a", "--output=x", "--num-frames=3"], "no option --num-frames", "--features.num-frames"),
        (["a", "--output=x", "--zzz"], "no option --zzz", "psla-wds score --help"),
        (
            ["a", "--output=x", "--epochs", "b", "c"],
            "--epochs: 'b', 'c' cannot be its values",
            "help",
        ),
        (["a", "--output=x", "--features.num-frames=b"], "'b' is not a whole number", "--help"),
        (["a", "--output=x", "b", "c"], "not understood here: b, c", "--help"),
        (["a", "--epochs", "1"], "--epochs needs 2 values", "--help"),
        (["a", "--output"], "--output needs a value", "--help"),
    ],
)
def test_a_usage_error_has_three_lines_with_advice(words: list[str], what: str, fix: str):
    with pytest.raises(ConfigError) as caught:
        parsed(*words)
    first, where, last = str(caught.value).splitlines()
    assert what in first and where == "  where: psla-wds score" and fix in last


def test_files_are_replaced_only_if_asked_and_folders_never(tmp_path: Path):
    file, folder = tmp_path / "a.npz", tmp_path / "folder"
    assert parsed("m", f"--output={file}").output == file
    file.touch()
    folder.mkdir()
    (tmp_path / "lost").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"exists already\n.*a.npz\n.*--overwrite to replace it"):
        parsed("m", f"--output={file}")
    assert parsed("m", f"--output={file}", "--overwrite").output == file
    for path in (folder, tmp_path / "lost"):
        with pytest.raises(ConfigError, match=r"exists already\n.*\n.*choose another --output$"):
            parsed("m", f"--output={path}", "--overwrite")
    (tmp_path / "c.png").touch()
    with pytest.raises(ConfigError, match=r"exists already\n.*c.png\n"):
        parsed("m", f"--output={tmp_path}/c.svg")
    new = f"--output={tmp_path}/new"
    assert parsed("m", new, f"--page={folder}").page == folder
    (folder / "b.json").touch()
    with pytest.raises(ConfigError, match=r"\n.*b.json\n.*another --page"):
        parsed("m", new, f"--page={folder}")


def test_outputs_of_all_commands_follow_the_rule():
    checked, others = set(), []
    for module in set(MODULES.values()) - RESUMED:
        args = importlib.import_module(module).Args
        for name, hint in get_type_hints(args, include_extras=True).items():
            if any(isinstance(mark, cli.New) for mark in get_args(hint)[1:]):
                checked.add(module)
            elif name in ("output", "export", "page", "embeddings"):
                others.append(f"{module} --{name}")
    assert len(checked) >= 12 and not others


def test_paths_in_advice_can_be_pasted():
    """Each word that is put into a command is written as in a shell."""
    bare = []
    for file in (p for part in ("psla_wds", "sharding", "train", "eval")
                 for p in (ROOT / part).rglob("*.py")):  # fmt: skip
        for node in ast.walk(ast.parse(file.read_text())):
            begun = False
            for part in getattr(node, "values", []) if isinstance(node, ast.JoinedStr) else []:
                if isinstance(part, ast.Constant):
                    begun = bool(re.search("psla-wds |open $", part.value)) or (
                        begun and ";" not in part.value
                    )
                elif begun and re.search(PATHS, ast.unparse(part)):
                    bare.append(f"{file.relative_to(ROOT)}: {ast.unparse(part)}")
    assert bare == []
