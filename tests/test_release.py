"""What is released: a wheel that works from any folder, and versions that fit together."""

import configparser
import re
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import soundfile
import yaml
from conftest import run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tiny_models import tiny_checkpoint

import psla_wds
from psla_wds.models.checkpoint import save_checkpoint

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
    matrix = job["strategy"]["matrix"]
    assert matrix["pins"] == ["constraints.txt"]
    assert matrix["include"] == [{"python": "3.11", "pins": "constraints-oldest.txt"}]
    assert matrix["python"] == named == ["3.11", "3.12", "3.13", "3.14"]
    assert f"python_requires = >={named[0]}\n" in setup
    *_, python, tests = job["steps"]
    assert python["with"]["python-version"] == "${{ matrix.python }}"
    assert tests["run"].startswith("make test ")
    assert workflow[True].keys() == {"push", "pull_request"}  # YAML 1.1 takes `on` for true


def pins(name: str) -> dict[str, list[str]]:
    """Versions by package; several where they depend on Python's."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith("#"):
            package, version = line.partition(" ;")[0].split("==")
            found.setdefault(canonicalize_name(package), []).append(version)
    return found


def requirements(*extras: str) -> list[Requirement]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    for extra in extras:
        lines += setup["options.extras_require"][extra].split("\n")
    return [Requirement(line) for line in lines if line]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_both_sets_of_versions_are_allowed(name: str):
    pinned = pins(name)
    for required in requirements("cuda13", "dev"):
        versions = pinned[canonicalize_name(required.name)]
        assert all(required.specifier.contains(version) for version in versions), required


def test_the_oldest_set_is_what_the_requirements_begin_with():
    pinned = pins("constraints-oldest.txt")
    for required in requirements("cuda13"):
        (lowest,) = [s.version for s in required.specifier if s.operator == ">="]
        (version,) = pinned[canonicalize_name(required.name)]
        assert Version(version).release[: len(Version(lowest).release)] == Version(lowest).release


UNREACHABLE = ("Connection", "Temporary failure", "Max retries", "timed out")


def run_tool(*command: str, cwd: Path = ROOT, check: bool = True) -> CompletedProcess[str]:
    """Run a program of others, whose deprecated calls are not ours to mend."""
    return run(["env", "-u", "PYTHONWARNINGS", *command], cwd=cwd, check=check)


def pip(*words: str) -> str:
    """What pip prints, with our pins for any that the machine has; skips where the package index
    does not answer."""
    done = run_tool(
        "PIP_CONSTRAINT=constraints.txt", sys.executable, "-m", "pip", *words, check=False
    )
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
    run_tool(sys.executable, "-c", build, cwd=tree)
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
    run_tool(sys.executable, "-m", "venv", str(folder))
    (wheel,) = built.glob("*.whl")
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    run_tool(str(python), "-m", "pip", *install, str(wheel))
    (site,) = (folder / "lib").glob("python*/site-packages")
    # A line of a .pth file: its own .pth files, such as an editable install's, are not followed.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_runs_beside_files_of_the_same_names(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In a folder that has a train.py and an eval.py, which must not run."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name in ("train", "eval", "sharding"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is not psla-wds')")

    def command(*words: object) -> str:
        return run([str(installed.parent / "psla-wds"), *map(str, words)], cwd=tmp_path).stdout

    assert command("--version") == f"psla-wds {psla_wds.__version__}\n"
    command("synthesize", "corpus", "--clips", 24, "--clip-s", 1.25)
    lists = ["--segments=corpus/segments.csv", "--class-labels=corpus/class_labels_indices.csv"]
    packed = ["--audio-root=corpus/audio", "--output=s", "--clips-per-shard=12", "--workers=2"]
    assert "next: psla-wds check s" in command("build", "audioset", *lists, *packed)
    small = ["--epochs=1", "--batch-size=8", "--features.num-frames=64"]
    train = ["train", "demo", "--index=s", "--eval-index=s", *small]
    command(*train, "--run-dir=alone")
    torchrun = [str(installed), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run([*torchrun, "-m", "psla_wds", *train, "--run-dir=run"], cwd=tmp_path)
    run(
        [str(installed), "-m", "psla_wds", "predict", "run", "--index=s", "--output=p.npz"],
        cwd=tmp_path,
    )
    assert "report.html" in command("score", "p.npz", "--output=run", "--run=run")
    assert (tmp_path / "run" / "report.html").stat().st_size > 5000
    where = "from psla_wds.evaluation.mapping import read_mapping as r; r('esc50'), r('fsd50k')"
    run([str(installed), "-P", "-c", where], cwd=tmp_path)


WITHOUT = """
import sys
for name in ("torchaudio", "torchvision", "nvidia"):
    sys.modules[name] = None
"""


@pytest.mark.slow
def test_the_wheel_tags_and_trains_without_any_extra(
    installed: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    save_checkpoint(tiny_checkpoint(), tmp_path / "model.pt")
    time_s = np.arange(16_000) / 16_000
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2000 * time_s), 16_000)
    done = run([str(installed), "-m", "eval.tag", "model.pt", "a.wav"], cwd=tmp_path)
    assert "a.wav" in done.stdout
    small = ["--epochs=1", "--batch-size=8", "--features.num-frames=64"]
    words = ["train", "demo", f"--index={shards}:train", "--run-dir=run", *small]
    run([str(installed), "-m", "psla_wds", *words], cwd=tmp_path)
    used = run([str(installed), "-c", "import nvidia"], cwd=tmp_path, check=False)
    assert used.returncode  # as on a machine without it


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_pins_have_wheels_for_python_3_14(tmp_path: Path):
    """All but efficientnet_pytorch, which has an archive of pure Python alone."""
    asked = [str(r) for r in requirements("cuda13", "dev") if r.name != "efficientnet_pytorch"]
    target = ["--ignore-installed", "--target", str(tmp_path), "--python-version", "3.14"]
    pip("install", "--dry-run", "--only-binary=:all:", *target, *asked)
