"""The commands in README.md and docs/, as their pages have them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md")

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:\A|(?<=\n\n))(?:    [^\n]*\n)+")
INLINE = re.compile(r"`((?:psla-wds|python|torchrun|make|pip|dask|git) [^`]*)`")
MENTION = re.compile(
    r"psla-wds( COMMAND)?( [\w-]+)?( [\w-]+)?( --[\w.-]+)*|python -m (\w+\.)?\w+|"
    r"torchrun( -m \w+| train/main\.py| --[\w-]+)?"
)
"""A command that a sentence names, without values of its arguments."""
SHELL = ("bash", "sh", "shell", "console")
NO_COMMANDS = re.compile(
    r"psla_wds/ +the library|shard-0+\.tar +clips|config\.json +every setting|my_clips/|"
    r"model\.safetensors +the weights|recordings/street\.flac|session = |scores, frame_scores = "
)
"""First lines of the blocks that show folders, output or Python, and no commands."""


@dataclass(frozen=True)
class Command:
    """One command of a page, its continued lines joined."""

    page: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"

    @property
    def words(self) -> list[str]:
        """As a shell would take them; without `&` at the end and a comment."""
        words = shlex.split(self.text, comments=True)
        return words[:-1] if words[-1:] == ["&"] else words


def blocks_of(page: Path) -> list[str]:
    """The texts of the blocks that hold commands: fenced as a shell's, or indented."""
    text = page.read_text(encoding="utf-8")
    fenced = [m["text"] for m in FENCE.finditer(text) if m["language"] in SHELL]
    plain = [m["text"] for m in FENCE.finditer(text) if not m["language"]]
    indented = [re.sub("^    ", "", b, flags=re.M) for b in INDENTED.findall(FENCE.sub("", text))]
    return fenced + [block for block in plain + indented if not NO_COMMANDS.match(block)]


def commands_of(page: Path) -> list[Command]:
    """Every command of the page's blocks, in their order."""
    lines = [
        line.strip()
        for block in blocks_of(page)
        for line in re.sub(r" *\\\n *", " ", block).splitlines()
    ]
    return [Command(page.name, line) for line in lines if line and not line.startswith("#")]


def inline_commands_of(page: Path) -> list[Command]:
    """Commands with arguments in the page's sentences and tables."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = [" ".join(command.split()) for command in INLINE.findall(INDENTED.sub("", text))]
    return [Command(page.name, text) for text in found if not MENTION.fullmatch(text)]
