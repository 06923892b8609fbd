"""The benchmark of tagging compares runtimes that agree, and makes a table."""

from pathlib import Path

import pytest

from benchmarks import bench_tag
from benchmarks.table_forms import tagging


@pytest.mark.slow
def test_every_runtime_is_measured_and_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    network = {"efficientnet-b0, 1 head": bench_tag.NETWORKS["efficientnet-b0, 1 head"]}
    monkeypatch.setattr(bench_tag, "NETWORKS", network)
    args = bench_tag.Args(windows=2, batch_size=2, classes=5, threads=1, repeats=1)
    content = bench_tag.measure(args)
    names = [result["name"] for result in content["results"]]
    assert len(names) == 7 and "ONNX Runtime, batches of 2" in names
    for result in content["results"]:
        assert result["times_real_time"] == pytest.approx(10.575 * result["clips_per_s"])
        assert 10 < result["mebibytes"] < 40
    assert "| efficientnet-b0, 1 head | eval.tag, a FLAC file at 44.1 kHz |" in tagging(content)
