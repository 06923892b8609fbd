"""What is released: a wheel that works from any folder, and versions that fit together."""

import os
import re
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import run

import psla_wds

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"psla_wds", "sharding", "train", "eval"}


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == psla_wds.__version__
    assert f"\n## {psla_wds.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert "version = attr: psla_wds.__version__\n" in (ROOT / "setup.cfg").read_text()


def test_the_citation_has_what_the_format_asks_for():
    """Citation File Format 1.2.0."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["type"] == "software" and citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert paper["doi"] == "10.1109/TASLP.2021.3120633" and "2102.01243" in paper["url"]


def test_what_is_pushed_is_tested_on_every_named_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    (job,) = workflow["jobs"].values()
    setup = (ROOT / "setup.cfg").read_text()
    named = re.findall(r"Python :: (3\.\d+)", setup)
    assert job["strategy"]["matrix"]["python"] == named == ["3.11", "3.12", "3.13"]
    assert f"python_requires = >={named[0]}\n" in setup
    *_, python, tests = job["steps"]
    assert python["with"]["python-version"] == "${{ matrix.python }}"
    assert tests["run"].startswith("make test ")
    assert workflow[True].keys() == {"push", "pull_request"}  # YAML 1.1 takes `on` for true


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_both_sets_of_versions_differ_in_cuda_alone():
    ours, older = pins("constraints.txt"), pins("constraints-cuda12.txt")
    differing = {n for n in ours.keys() | older.keys() if ours.get(n) != older.get(n)}
    assert all(re.match(r"torch|triton|nvidia-|nvtx|cuda-", name) for name in differing), differing
    assert not [name for name in older if re.search(r"cu13|cuda13", name)]
    assert older["nvidia-dali-cuda120"] == ours["nvidia-dali-cuda130"]


UNREACHABLE = ("Connection", "Temporary failure", "Max retries", "timed out")


def pip(*words: str) -> str:
    """What pip prints; skips where the package index does not answer."""
    done = run([sys.executable, "-m", "pip", *words], cwd=ROOT, check=False)
    if done.returncode and any(text in done.stderr for text in UNREACHABLE):
        pytest.skip(f"the package index does not answer: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive of what git has, and this tree's changes."""
    tree, output = (tmp_path_factory.mktemp(name) for name in ("tree", "dist"))
    listed = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    tools = tmp_path_factory.mktemp("tools")
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    pip("install", "--quiet", "--target", str(tools), *required)
    build = (
        f"import sys; sys.path.insert(0, {str(tools)!r}); from setuptools import build_meta; "
        f"build_meta.build_sdist({str(output)!r}); build_meta.build_wheel({str(output)!r})"
    )
    run([sys.executable, "-c", build], cwd=tree)
    return output


@pytest.mark.slow
def test_the_wheel_holds_the_packages_with_their_data(built: Path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
    folders = {name.split("/")[0] for name in names}
    assert folders - PACKAGES == {f"psla_wds-{psla_wds.__version__}.dist-info"}
    data = {name for name in names if not name.endswith(".py") and ".dist-info/" not in name}
    assert {
        "psla_wds/py.typed",
        "eval/pages/report.html",
        "psla_wds/evaluation/mappings/esc50.csv",
    } <= data
    sources = {str(p.relative_to(ROOT)) for name in PACKAGES for p in (ROOT / name).rglob("*.py")}
    assert sources == {name for name in names if name.endswith(".py")}
    tracked_data = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert data == tracked_data
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata
    assert "Provides-Extra: cuda12" in metadata and "Provides-Extra: cuda13" in metadata


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel, which sees the packages of this one."""
    folder = tmp_path_factory.mktemp("fresh") / "env"
    run([sys.executable, "-m", "venv", str(folder)])
    (wheel,) = built.glob("*.whl")
    python = folder / "bin" / "python"
    run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)])
    (site,) = (folder / "lib").glob("python*/site-packages")
    # A line of a .pth file: its own .pth files, such as an editable install's, are not followed.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


@pytest.mark.slow
def test_commands_of_the_wheel_run_from_any_folder(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PATH", f"{installed.parent}{os.pathsep}{os.environ['PATH']}")

    def command(*words: object) -> str:
        return run([str(installed), *map(str, words)], cwd=tmp_path).stdout

    where = command("-c", "import psla_wds, train, eval; print(psla_wds.__file__, eval.__file__)")
    assert all(path.startswith(str(installed.parents[1])) for path in where.split())
    made = ["-m", "sharding.synthesize", "corpus", "--clips", 24, "--clip-s", 1.25]
    command(*made)
    lists = ["--segments=corpus/segments.csv", "--class-labels=corpus/class_labels_indices.csv"]
    command("-m", "sharding.build", "audioset", *lists, "--audio-root=corpus/audio", "--output=s")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "-m", "train.main", "demo"]
    small = ["--epochs=1", "--batch-size=8", "--features.num-frames=64"]
    command(*torchrun, "--index=s", "--eval-index=s", "--run-dir=run", *small)
    command("-m", "eval.predict", "run", "--index=s", "--output=p.npz")
    assert "report.html" in command("-m", "eval.score", "p.npz", "--output=run", "--run=run")
    assert (tmp_path / "run" / "report.html").stat().st_size > 5000
    for name in ("esc50", "fsd50k"):
        command(
            "-c", f"from psla_wds.evaluation.mapping import read_mapping; read_mapping({name!r})"
        )


@pytest.mark.slow
def test_the_versions_for_cuda_12_fit_together(built: Path):
    (wheel,) = built.glob("*.whl")
    asked = ["-c", "constraints-cuda12.txt", f"{wheel}[cuda12,dev]"]
    chosen = pip("install", "--dry-run", "--ignore-installed", *asked).splitlines()[-1]
    assert "nvidia-dali-cuda120-" in chosen and "-cu12-" in chosen
    assert "cuda130" not in chosen and "-cu13-" not in chosen
