"""The studies on the synthetic corpus come to their end, and say what they did."""

import json
from pathlib import Path

import pytest
from conftest import run_command

from benchmarks.table_forms import FORMS

SMALL = ("--clips=120", "--eval-clips=80", "--seeds=2", "--epochs=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "flags", "columns"),
    [
        ("study_enhance", (), {"labels_added_share", "precision", "recall"}),
        ("study_distill", ("--top-k=5",), set()),
    ],
)
def test_a_study_ends_and_a_second_start_does_nothing_again(
    study: str, flags: tuple[str, ...], columns: set[str], tmp_path: Path
):
    output = tmp_path / "study.json"
    words = [f"--work={tmp_path / 'work'}", f"--output={output}", *SMALL, *flags]
    run_command(f"benchmarks.{study}", *words)
    content = json.loads(output.read_text())
    assert len(content["runs"]) == 2
    assert content["mean"].keys() == columns | {"mAP_with", "mAP_without"}
    gains = [run["mAP_with"] - run["mAP_without"] for run in content["runs"]]
    assert content["gain"]["mean"] == pytest.approx(sum(gains) / 2)
    run_command(f"benchmarks.{study}", *words)
    assert json.loads(output.read_text())["runs"] == content["runs"]
    table = FORMS[study](content).splitlines()
    assert len(table) == 7 and len({line.count("|") for line in table[:5]}) == 1
