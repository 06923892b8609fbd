"""Run a command: its arguments by a dataclass, its help, and one readable message with exit status
2 for errors that a user can mend."""

import ast
import inspect
import io
import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache, reduce
from itertools import pairwise, takewhile
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    NoReturn,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
    UnsupportedTypeAnnotationError,
)

from psla_wds.commands import MODULES, called_as
from psla_wds.config import check_ranges
from psla_wds.errors import ConfigError, PslaError, system_errors
from psla_wds.io.locations import Location, Url, parse_location
from psla_wds.printable import printable, typed

Args = TypeVar("Args")
WIDTH = 100
"""Width limit of text, in columns."""
WIDEST = 10_000
"""Width for text that is not to be filled, in columns."""
JARGON = {
    r"^Unrecognized options: ": "these words are not understood here: ",
    r"^Missing value for argument '\('(\S+)',\)'": r"Missing value for argument '\1'",  # tyro 1.0.9
    r"^Missing value for argument '(\S+)'\. Expected 1 values": r"\1 needs a value",
    r"^Missing value for argument '(\S+)'\. Expected (\d+) values": r"\1 needs \2 values",
    r"^invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*?),?\)": (
        r"\2: '\1' is not one of \3"
    ),
    r"invalid literal for int\(\) with base 10: ('.*')": r"\1 is not a whole number",
    r"could not convert string to float: ('.*')": r"\1 is not a number",
    r"Could not parse arguments \[(.*)\] into .*": r"\1 cannot be its values",
}
"""Patterns in tyro's messages, and plainer words."""

LocationArg: TypeAlias = Annotated[
    Location,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH|URL",
        instance_from_str=lambda words: parse_location(words[0]),
        is_instance=lambda value: isinstance(value, (Path, Url)),
        str_from_instance=lambda location: [str(location)],
    ),
]
"""Type of an argument that names a local path or a URL."""

Shards: TypeAlias = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="SHARDS[:SPLIT,...]")
]
"""Type of an option that names sets of shards, and may be repeated."""


@dataclass(frozen=True)
class New:
    """Mark of a path that a command writes, as in `Annotated[Path, New()]`.

    One rule for all commands: what is there already is an error, unless the command has --overwrite
    and it is given; a folder is never replaced.
    """

    files: tuple[str, ...] = ()
    """Names of the files in a folder, which may be there. Default: the path is what is written."""
    twins: tuple[str, ...] = ()
    """Suffixes of files of the same name that are written too."""

    def paths(self, output: Path) -> list[Path]:
        """All that is written."""
        files = [output / name for name in self.files] or [output]
        return files + [output.with_suffix(suffix) for suffix in self.twins]


@dataclass(frozen=True, kw_only=True)
class Overwrite:
    """Base of the arguments of commands that write files."""

    overwrite: bool = False
    """Replace files that are there already; without it, they are an error."""


def check_outputs(given: Any) -> None:
    """Raise `ConfigError` if something that a command writes is there already, and may not be
    replaced."""
    may = getattr(given, "overwrite", None)
    for name, hint in get_type_hints(type(given), include_extras=True).items():
        output, marks = getattr(given, name), get_args(hint)[1:]
        writes = [mark for mark in marks if isinstance(mark, New)] if output else []
        for path in [path for new in writes for path in new.paths(output)]:
            is_file = path.is_file()
            if os.path.lexists(path) and not (may and is_file):
                fix = f"choose another --{name.replace('_', '-')}"
                fix += ", or add --overwrite to replace it" if may is False and is_file else ""
                raise ConfigError("the output exists already", where=path, fix=fix)


def parse(args: type[Args], description: str | None, /, *, prog: str, **options: Any) -> Args:
    """The arguments of a command, by its dataclass; options may come before or after words.

    Args:
        description: text above the options in --help, whose indented lines stay as they are.
        prog: name of a command, or the beginning of its line, for usage and errors.
        options: of `tyro.cli`, such as `args`, the words (default: those of this process), and
            `default`, the values of what is not given.

    Raises `ConfigError` for a number out of its range.
    """
    words = options.setdefault("args", sys.argv[1:])
    options |= {"prog": called_as(prog) if prog in MODULES else prog, "registry": _RULES}
    shown = io.StringIO()
    if not {"-h", "--help"} & {*words}:
        try:
            with redirect_stderr(shown), _columns(WIDEST):
                given = tyro.cli(args, **options)
        except SystemExit:
            raise _usage_error(args, options["prog"], words, shown.getvalue()) from None
        known = given[0] if options.get("return_unknown_args") else given
        check_ranges(known)
        check_outputs(known)
        return given
    useful = tyro.conf.FlagCreatePairsOff  # of --x and --no-x, the one that changes something
    try:
        with redirect_stdout(shown), _columns(_width()):
            return tyro.cli(args, description="", config=(useful,), **options)
    except SystemExit:
        usage, _, groups = shown.getvalue().partition("\n\n")
        whole = re.sub(r"\[[^][]*\]", lambda m: m[0].replace(" ", "\0"), " ".join(usage.split()))
        usage = _filled(whole, subsequent_indent="  ").replace("\0", " ")
        groups = re.sub(r"^ (\w.*?) *\n -+ *$", r"\1:", groups, flags=re.MULTILINE)
        text = "\n\n".join([usage, *([wrapped(description)] if description else []), groups])
        print("\n".join(line.rstrip() for line in text.rstrip().splitlines()))
        raise


@contextmanager
def _columns(width: int) -> Iterator[None]:
    """Let tyro write for a terminal of this width."""
    before = os.environ.get("COLUMNS", "")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        os.environ["COLUMNS"] = before


def _usage_error(kind: type, prog: str, words: Sequence[str], box: str) -> ConfigError:
    """What is wrong with the words of a command, from the box that tyro shows."""
    listed, options = f"{prog} --help lists all options", [*_options(kind)]
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and not {name, name.replace("--no-", "--", 1)} & {*options}:
            close = get_close_matches(name, options, 1)
            fix = f"type {close[0]}; {listed}" if close else listed
            return ConfigError(f"there is no option {name}", where=prog, fix=fix)
    lines = [line.strip("\u2502").rstrip() for line in box.splitlines()[1:-1]]
    text = [*takewhile(lambda line: "\u2500" not in line, lines)]
    if missing := re.findall(r"^ {5}(\S.*)", "\n".join(text), re.MULTILINE):
        names = " and ".join(name.split()[0] for name in missing)
        fix = f"type {' '.join([prog, *map(typed, words), *missing])}; {listed}"
        return ConfigError(f"{names} must be given", where=prog, fix=fix)
    what = re.sub(r"^Error parsing (\S+): ", r"\1: ", " ".join(text).strip().rstrip("."))
    for jargon, plain in JARGON.items():
        what = re.sub(jargon, plain, what)
    return ConfigError(what or box, where=prog, fix=listed)


def _options(kind: Any, section: str = "--") -> Iterator[str]:
    """Names of the options of a dataclass, those in its sections with theirs."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint = hints[field.name]
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        hint = get_args(hint)[0] if marks else hint
        name = f"{section}{field.name.replace('_', '-')}"
        if is_dataclass(hint):
            is_flat = any(getattr(mark, "name", None) == "" for mark in marks)
            yield from _options(hint, section if is_flat else f"{name}.")
        elif tyro.conf.Positional not in marks:
            yield name


def show_choices(
    prog: str, metavar: str, description: str | None, choices: Mapping[str, str]
) -> NoReturn:
    """Print the help of a command whose first word is one of `choices`, which have summaries."""
    width = max(map(len, choices))
    print(
        f"usage: {prog} {metavar} [OPTIONS]\n\n{wrapped(description or '')}\n\n{metavar.lower()}s:"
    )
    for name, summary in choices.items():
        first, later = f"  {name:{width}}  ", " " * (width + 4)
        print(_filled(summary, initial_indent=first, subsequent_indent=later))
    print(f"\nOptions of each: {prog} {metavar} --help")
    sys.exit(0)


def wrapped(text: str) -> str:
    """Text for this terminal: paragraphs are filled anew; indented lines stay as they are."""
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(part if part.startswith(" ") else _filled(part) for part in paragraphs)


def _filled(text: str, **indents: Any) -> str:
    return textwrap.fill(text, _width(), break_on_hyphens=False, **indents)


def _width() -> int:
    return min(shutil.get_terminal_size().columns, WIDTH)


_RULES = ConstructorRegistry()
"""How tyro reads the dataclasses of commands, for a help without what it would say of None."""


@_RULES.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """`T | None` is shown as T; the word None gives None."""
    if info.type_origin not in (Union, UnionType) or NoneType not in get_args(info.type):
        return None
    others: Any = reduce(or_, (kind for kind in get_args(info.type) if kind is not NoneType))
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(others, info.markers))
    if isinstance(spec, UnsupportedTypeAnnotationError):
        return None
    return replace(
        spec,
        choices=spec.choices and (*spec.choices, "None"),
        instance_from_str=lambda words: (
            None if words == ["None"] else spec.instance_from_str(words)
        ),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: (
            ["None"] if value is None else spec.str_from_instance(value)
        ),
    )


@_RULES.struct_rule
def _dataclass(info: StructTypeInfo) -> StructConstructorSpec | None:
    if not is_dataclass(info.type):
        return None
    hints, docs = get_type_hints(info.type, include_extras=True), _docs_of(info.type)
    specs = []
    for field in sorted(fields(info.type), key=lambda field: field.name == "overwrite"):
        own = tyro.MISSING_NONPROP if field.default is MISSING else field.default
        own = own if field.default_factory is MISSING else field.default_factory()
        default = own
        if isinstance(info.default, info.type):
            default = getattr(info.default, field.name)
        doc = docs.get(field.name, "")
        says_default = "Default: " in doc and default == own
        hint = _shown(hints[field.name], field.name, None if says_default else default)
        specs.append(StructFieldSpec(field.name, hint, default, doc))
    return StructConstructorSpec(info.type, tuple(specs))


def _shown(hint: Any, name: str, default: Any) -> Any:
    """The type of a field with what help shows of it: a word by its name, and a default that says
    something."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    kind = get_args(hint)[0] if marks else hint
    metavar, text, several = None, None, get_origin(kind) is tuple
    if tyro.conf.Positional in marks:
        metavar = (name.removesuffix("s") if several else name).upper()
        metavar = f"{metavar} [{metavar} ...]" if several else metavar
        metavar = f"[{metavar}]" if default is None else metavar
        text = "(required)" if several else None  # tyro would take none of them
    if default is tyro.MISSING_NONPROP and tyro.conf.UseAppendAction in marks:
        text = "(required, repeatable)"
    if default is None or isinstance(default, bool) or default in ((), ""):
        text = None if tyro.conf.UseAppendAction in marks else ""
    shown = tyro.conf.arg(metavar=metavar, help_behavior_hint=text)
    return Annotated[(kind, shown, *marks)]


@cache
def _docs_of(kind: type) -> dict[str, str]:
    """Docstrings below the fields of a class, each as one line."""
    found: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(kind.__mro__)):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # made by a program: it has none
            continue
        (definition,) = tree.body
        assert isinstance(definition, ast.ClassDef)
        for field, doc in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                text = ast.literal_eval(doc.value)
                found[ast.unparse(field.target)] = " ".join(text.split())
    return found


class _Lines(logging.Formatter):
    """A line for each record, whatever the names in it hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        record.message = printable(record.message)
        return super().formatMessage(record)


def run(main: Callable[[], None]) -> None:
    """Call `main`. Stderr gets the log and three lines for a `PslaError` or what the system refuses
    (exit status 2)."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # They log each request that is made for hf://, and each node of a network that is exported.
    for library in ("httpx", "httpx2", "onnx_ir", "onnxscript"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        with system_errors(), _bars_closed():
            main()
            if sys.stdout is not None:  # as it is where it was closed
                sys.stdout.flush()
    except PslaError as error:
        with suppress(OSError):
            print(f"error: {error}", file=sys.stderr, flush=True)
        _abandon_stdout()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `... | head`: the reader has seen enough
        _abandon_stdout()
        sys.exit(0)


@contextmanager
def _bars_closed() -> Iterator[None]:
    """Close all bars at the end: before an error is shown, which has them in its traceback."""
    try:
        yield
    finally:
        if progress := sys.modules.get("psla_wds.progress"):  # its import takes time
            with suppress(OSError):
                progress.close_bars()


def _abandon_stdout() -> None:
    """Keep Python from writing once more at its end to a stdout that takes nothing."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
