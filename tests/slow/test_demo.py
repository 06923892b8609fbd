"""The first command of the README, shortened to one epoch, in a clone."""

import json
import sys
from pathlib import Path

import pytest
from conftest import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_ends_in_a_report(tmp_path: Path):
    run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")])
    done = run(
        ["make", "demo", f"PYTHON={sys.executable}", "EPOCHS=1", "AVERAGED=1 1"],
        cwd=tmp_path / "clone",
    )
    assert "report.html" in done.stdout.splitlines()[-1]
    run_dir = tmp_path / "clone" / "runs" / "demo"
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["clips"] == 300 and 0 < metrics["mAP"] < 1
    assert (run_dir / "report.html").stat().st_size > 20_000
