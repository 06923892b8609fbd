"""Rules that must not rot: who imports whom, and how long things get."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "psla_wds": set(),
    "sharding": {"psla_wds"},
    "eval": {"psla_wds"},
    "train": {"psla_wds", "eval"},
    "benchmarks": {"psla_wds", "sharding", "eval", "train"},
}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ARGUMENTS = 300, 50, 6
WITHOUT_TORCH = [
    "shards",
    "shard_index",
    "index_files",
    "sampler",
    "augment",
    "schedule",
    "reader",
    "read_ahead",
    "epochs",
    "waveform_batches",
]


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


def sources() -> list[Path]:
    return sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def test_packages_import_only_what_lies_below_them():
    assert not forbidden_imports(ROOT)


def test_the_rule_catches_an_upward_import(tmp_path: Path):
    (tmp_path / "psla_wds").mkdir()
    (tmp_path / "psla_wds" / "loader.py").write_text("import numpy\nfrom train.loop import x\n")
    assert forbidden_imports(tmp_path) == ["psla_wds/loader.py imports train"]


def test_only_the_pipeline_imports_dali():
    users = {p.name for p in sources() if any("nvidia.dali" in m for m in imported_modules(p))}
    assert users <= {"pipeline.py", "stage_ways.py", "dali_ways.py"}
    assert "pipeline.py" in users


def test_nothing_but_making_batches_needs_dali():
    """What docs/install.md says works without an extra: no module imports the pipeline at once."""
    for path in (p for p in sources() if p.parts[len(ROOT.parts)] != "benchmarks"):
        top_level = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom)]
        assert "psla_wds.pipeline" not in {node.module for node in top_level}, path


@pytest.mark.parametrize(
    "module", [*(f"psla_wds.{name}" for name in WITHOUT_TORCH), "eval.scores", "eval.ensemble"]
)
def test_shards_index_plans_and_scores_need_no_torch(module: str):
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        seen.add(name)
        path = ROOT / f"{name.replace('.', '/')}.py"
        top_level = {
            n.module if isinstance(n, ast.ImportFrom) else n.names[0].name
            for n in ast.parse(path.read_text()).body
            if isinstance(n, ast.Import | ast.ImportFrom)
        }
        assert not {m.split(".")[0] for m in top_level} & {"torch", "torchaudio", "webdataset"}
        waiting += [m for m in top_level if m.startswith(("psla_wds.", "eval.")) and m not in seen]


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


def test_no_two_files_share_a_name():
    # But for the command that makes what its module of the library reads.
    own = [path for path in sources() if path != ROOT / "sharding" / "labels.py"]
    names = [path.name for path in own if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


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
