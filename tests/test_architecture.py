"""Rules that must not rot: who imports whom, and how long things get."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "psla_wds": set(),
    "sharding": {"psla_wds"},
    "train": {"psla_wds"},
    "eval": {"psla_wds", "train"},
    "benchmarks": {"psla_wds", "sharding", "eval", "train"},
}
ORDER = {
    "psla_wds": [
        "printable",
        "errors",
        "commands",
        "progress",
        "text_table",
        "io",
        "config",
        "cli",
        "runtime",
        "audio",
        "labels",
        "shards",
        "sampling",
        "features",
        "models",
        "reading",
        "loading",
        "evaluation",
        "tagging",
    ],
    "sharding": ["foreign", "sources", "packing", "demo"],
    "train": ["config", "optimizer", "recipes", "steps", "run", "learner", "study"],
    "eval": ["tagging", "exporting", "pages"],
}
"""Rooms of each package: one imports only what stands before it; commands stand behind them all."""
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ARGUMENTS = 500, 50, 6
WITHOUT_TORCH = [
    "psla_wds.shards.tar",
    "psla_wds.shards.index",
    "psla_wds.shards.index_files",
    "psla_wds.sampling.plan",
    "psla_wds.sampling.augment",
    "psla_wds.sampling.schedule",
    "psla_wds.reading.reader",
    "psla_wds.reading.read_ahead",
    "psla_wds.loading.epochs",
    "psla_wds.loading.waveforms",
    "psla_wds.evaluation.scores",
    "eval.pages.report",
    *(f"eval.{path.stem}" for path in sorted((ROOT / "eval").glob("[a-z]*.py"))),
    *(f"sharding.{path.stem}" for path in sorted((ROOT / "sharding").glob("[a-z]*.py"))),
    "psla_wds.__main__",
    "train.main",
    "train.study.__main__",
]
"""Modules that users import without torch, and commands, whose --help starts at once."""
MAX_TEST_NAME = 60


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def forbidden_imports(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)} imports {name}"
        for package, allowed in ALLOWED.items()
        for path in sorted((root / package).rglob("*.py"))
        for name in sorted({module.split(".")[0] for module in imported_modules(path)})
        if name in ALLOWED.keys() - allowed - {package}
    ]


def rooms_out_of_order(root: Path, package: str, order: list[str]) -> list[str]:
    """Imports of a room that stands behind the importing one, or of a command by a room."""
    found = []
    for path in sorted((root / package).rglob("*.py")):
        own = path.relative_to(root / package).with_suffix("").parts[0]
        if own not in order:
            continue
        for module in sorted(imported_modules(path)):
            top, _, rest = module.partition(".")
            room = rest.split(".")[0]
            if top != package or not room or room == own:
                continue
            if room not in order[: order.index(own)]:
                found.append(f"{path.relative_to(root)} imports {module}")
    return found


def sources() -> list[Path]:
    return sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def test_packages_import_only_what_lies_below_them():
    assert not forbidden_imports(ROOT)


def test_the_rule_catches_an_upward_import(tmp_path: Path):
    (tmp_path / "psla_wds").mkdir()
    (tmp_path / "psla_wds" / "loader.py").write_text("import numpy\nfrom train.loop import x\n")
    assert forbidden_imports(tmp_path) == ["psla_wds/loader.py imports train"]


@pytest.mark.parametrize("package", ORDER)
def test_rooms_import_only_what_stands_before_them(package: str):
    assert not rooms_out_of_order(ROOT, package, ORDER[package])


def test_the_rule_catches_a_room_out_of_order(tmp_path: Path):
    (tmp_path / "psla_wds" / "io").mkdir(parents=True)
    (tmp_path / "psla_wds" / "io" / "disk.py").write_text("from psla_wds.labels import ontology\n")
    found = rooms_out_of_order(tmp_path, "psla_wds", ["io", "labels"])
    assert found == ["psla_wds/io/disk.py imports psla_wds.labels"]


@pytest.mark.parametrize("package", ORDER)
def test_every_folder_of_a_package_is_a_room(package: str):
    folders = {f.name for f in (ROOT / package).iterdir() if (f / "__init__.py").exists()}
    assert folders <= set(ORDER[package])


def test_only_the_front_end_imports_dali():
    users = {p.name for p in sources() if any("nvidia.dali" in m for m in imported_modules(p))}
    assert users <= {"dali.py", "bench_features.py", "peers.py"}
    assert "dali.py" in users


def test_nothing_but_batches_on_a_gpu_needs_dali():
    """What docs/install.md says works without an extra: no module imports the pipeline at once."""
    for path in (p for p in sources() if p.parts[len(ROOT.parts)] != "benchmarks"):
        top_level = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom)]
        assert "psla_wds.features.dali" not in {node.module for node in top_level}, path


def modules_loaded_with(module: str) -> dict[str, set[str]]:
    """Our modules that importing one loads, and what each of them imports at its top level."""
    seen: dict[str, set[str]] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = ROOT / f"{name.replace('.', '/')}.py"
        if name in seen or not path.exists():
            continue
        seen[name] = {
            found
            for n in ast.parse(path.read_text()).body
            if isinstance(n, ast.Import | ast.ImportFrom)
            for found in (
                [n.module or "", *(f"{n.module}.{alias.name}" for alias in n.names)]
                if isinstance(n, ast.ImportFrom)
                else [alias.name for alias in n.names]
            )
        }
        waiting += seen[name]
    return seen


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_shards_index_plans_and_scores_need_no_torch(module: str):
    for name, imported in modules_loaded_with(module).items():
        needed = {m.split(".")[0] for m in imported} & {"torch", "torchaudio", "webdataset"}
        assert not needed, name


def uses_of_wall_clocks(text: str) -> list[str]:
    """Calls whose results differ where the clocks of two nodes do."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow")
    ]


def test_nothing_that_trains_or_scores_reads_a_wall_clock():
    trained = [p for p in sources() if p.parts[len(ROOT.parts)] in ("psla_wds", "train", "eval")]
    assert not [use for path in trained for use in uses_of_wall_clocks(path.read_text())]
    assert uses_of_wall_clocks("import time\nbegan = time.time()") == ["line 2: time.time"]


def test_files_functions_and_signatures_stay_short():
    too_long = []
    for path in sources():
        text = path.read_text()
        if len(text.splitlines()) > MAX_FILE_LINES:
            too_long.append(f"{path.relative_to(ROOT)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                arguments = [a for a in (*node.args.args, *node.args.kwonlyargs)]
                if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:
                    too_long.append(f"{where} is too long")
                if len([a for a in arguments if a.arg not in ("self", "cls")]) > MAX_ARGUMENTS:
                    too_long.append(f"{where} takes too many arguments")
    assert not too_long


def docstrings(path: Path) -> list[str]:
    """Texts that stand alone: docstrings, and those below fields and constants."""
    return [
        node.value.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]


def test_docstrings_begin_with_a_noun_or_a_verb():
    found = [text[:60] for path in sources() for text in docstrings(path)]
    assert len(found) > 1000
    assert not [text for text in found if text.startswith(("Of ", "Those ", "Unless "))]


def test_tests_mirror_the_tree():
    tests = [path for path in (ROOT / "tests").rglob("test_*.py")]
    rooms = {p.parent.relative_to(ROOT / "tests") for p in tests if p.parent != ROOT / "tests"}
    of_packages = {room for room in rooms if room.parts[0] in ALLOWED}
    assert rooms - of_packages == {Path("documents"), Path("gpu"), Path("slow")}
    assert not [room for room in of_packages if not (ROOT / room / "__init__.py").exists()]


def test_names_of_tests_are_short():
    functions = [
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(functions) > 500
    assert not [name for name in functions if len(name) > MAX_TEST_NAME]
