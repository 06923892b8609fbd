"""Exports for other runtimes: the scores of the model, for any batch and length."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_models import CLASSES, RATE_HZ, sweep, tiny_checkpoint

from eval.export import Args, export
from eval.exporting.portable import TOLERANCE, write_onnx, write_pt2
from psla_wds.audio.decode import load_clip
from psla_wds.errors import CheckpointError
from psla_wds.models.checkpoint import Checkpoint, save_checkpoint
from psla_wds.tagging.tagger import Tagger
from psla_wds.tagging.waveform_model import WaveformModel

pytestmark = pytest.mark.slow

SHAPES = [(1, 1), (1, 399), (2, 16_000), (5, 20_720), (1, 50_000)]


@pytest.fixture(scope="module")
def members() -> list[Checkpoint]:
    return [tiny_checkpoint(), tiny_checkpoint(1, head="multi-head-attention")]


@pytest.fixture(scope="module")
def exported(members: list[Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portable")
    for number, member in enumerate(members):
        save_checkpoint(member, folder / f"{number}.pt")
    models = (folder / "0.pt", folder / "1.pt")
    export(Args(models=models, output=folder / "model", onnx=True, pt2=True))
    return folder / "model"


@pytest.fixture(scope="module")
def session(exported: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(exported / "model.onnx")


@pytest.fixture(scope="module")
def program(exported: Path) -> torch.nn.Module:
    return torch.export.load(exported / "model.pt2").module()


@pytest.fixture(scope="module")
def model(members: list[Checkpoint]) -> WaveformModel:
    return WaveformModel(members)


def waveforms(shape: tuple[int, int]) -> np.ndarray:
    return np.stack([sweep(4.0, seed=seed)[: shape[1]] for seed in range(shape[0])])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_onnx_runtime_gives_the_scores_of_the_model(session, model, shape: tuple[int, int]):
    given = waveforms(shape)
    scores, frame_scores = session.run(["scores", "frame_scores"], {"waveform": given})
    expected, expected_frames = model(torch.from_numpy(given))
    np.testing.assert_allclose(scores, expected.detach().numpy(), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(
        frame_scores, expected_frames.detach().numpy(), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_program_of_torch_gives_the_scores_of_the_model(program, model, shape: tuple[int, int]):
    given = torch.from_numpy(waveforms(shape))
    for one, other in zip(program(given), model(given), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_onnx_is_one_checked_file_that_names_its_classes(exported: Path, session):
    onnx.checker.check_model(exported / "model.onnx", full_check=True)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["names"]) == list(CLASSES.names)
    assert json.loads(told["mids"]) == list(CLASSES.mids)
    assert (told["sample_rate_hz"], told["frame_s"]) == ("16000", "0.32")
    card = (exported / "README.md").read_text()
    assert "onnxruntime.InferenceSession" in card and "model.pt2" in card
    assert len(Tagger.load(exported, device="cpu")(sweep(0.5), RATE_HZ).scores) == 3


@pytest.mark.parametrize("head", ["mean-pooling", "linear"])
def test_other_heads_export(head: str, tmp_path: Path):
    model = WaveformModel([tiny_checkpoint(head=head)])
    write_onnx(model, CLASSES, tmp_path / "model.onnx")  # it compares the scores


@pytest.mark.parametrize("backbone", ["mobilenet-v2", "resnet-50", "timm/convnext_atto"])
def test_other_backbones_export(backbone: str, tmp_path: Path):
    model = WaveformModel([tiny_checkpoint(backbone=backbone)])
    write_onnx(model, CLASSES, tmp_path / "model.onnx")
    write_pt2(model, tmp_path / "model.pt2")


def test_a_file_with_other_scores_is_not_left(members, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("eval.exporting.portable.TOLERANCE", -1.0)
    save_checkpoint(members[0], tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"model\.onnx differ by"):
        export(Args(models=(tmp_path / "c.pt",), output=tmp_path / "model", onnx=True))
    assert not (tmp_path / "model").exists()


def test_real_clips_score_alike_in_every_runtime(real_clips: Path, members, tmp_path: Path):
    """At the paper's size of a window, with what the paper's recipe takes."""
    member = replace(members[0], features=replace(members[0].features, num_frames=1056))
    model = WaveformModel([member])
    write_onnx(model, CLASSES, tmp_path / "model.onnx")
    write_pt2(model, tmp_path / "model.pt2")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    program = torch.export.load(tmp_path / "model.pt2").module()
    tagger = Tagger([member], device="cpu")
    with (real_clips / "manifest.csv").open(newline="") as file:
        paths = [real_clips / row["path"] for row in csv.DictReader(file)][::60]
    all_scores = []
    for path in paths:
        waveform = load_clip(path, sample_rate_hz=RATE_HZ)[: member.features.max_clip_samples]
        expected = tagger(waveform, RATE_HZ).scores
        all_scores.append(expected)
        (scores,) = session.run(["scores"], {"waveform": waveform[None]})
        with torch.no_grad():
            by_torch, _ = program(torch.from_numpy(waveform[None]))
        np.testing.assert_allclose(scores[0], expected, atol=1e-4, rtol=0)
        np.testing.assert_allclose(by_torch[0], expected, atol=1e-4, rtol=0)
    assert len(paths) > 25 and np.std(all_scores, axis=0).min() > 0.01
