"""Exports as ONNX: the scores of the model, for any batch and length."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from conftest import run_command
from tiny_models import CLASSES, RATE_HZ, sweep, tiny_checkpoint

from eval.exporting.portable import TOLERANCE, check_scores, write_onnx
from psla_wds.audio.decode import load_clip
from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import Checkpoint, save_checkpoint
from psla_wds.tagging.tagger import Tagger
from psla_wds.tagging.waveform_model import WaveformModel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def members() -> list[Checkpoint]:
    return [tiny_checkpoint(), tiny_checkpoint(1, head="multi-head-attention")]


LIMITS = [0.25, None, 0.5]


@pytest.fixture(scope="module")
def exported(members: list[Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portable")
    for number, member in enumerate(members):
        save_checkpoint(member, folder / f"{number}.pt")
    limits = [{"mid": m, "threshold": t} for m, t in zip(CLASSES.mids, LIMITS, strict=True)]
    (folder / "limits.json").write_text(json.dumps({"per_class": limits}))
    words = [folder / "0.pt", folder / "1.pt", f"--output={folder / 'model'}", "--onnx"]
    words += [f"--thresholds={folder}/limits.json"]
    done = run_command("eval.export", *words, "--onnx-embeddings=attention")
    assert done.stderr == "" and len(done.stdout.splitlines()) == 2  # not what libraries log
    return folder / "model"


def test_onnx_runtime_gives_the_outputs_of_the_model(exported: Path, members):
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    model = WaveformModel(members)
    for batch, length in ((1, 1), (1, 399), (2, 16_000), (5, 20_720), (1, 50_000)):
        waveforms = np.stack([sweep(4.0, seed=seed)[:length] for seed in range(batch)])
        with torch.no_grad():
            expected = model(torch.from_numpy(waveforms), pooling="attention")
        assert expected[2].shape == (batch, 2560)
        for found, wanted in zip(session.run(None, {"waveform": waveforms}), expected, strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), atol=TOLERANCE, rtol=0)


def test_a_tagger_by_onnx_runtime_gives_the_same_tags(exported: Path):
    expected, tagger = (Tagger.load(exported, batch_size=3, device="cpu") for _ in range(2))
    tagger.use_onnx_runtime(exported)
    waveforms = [sweep(4.0, seed=n)[:size] for n, size in enumerate((1, 60_000, 399, 25_000))]
    pairs = zip(tagger.many(waveforms, RATE_HZ), expected.many(waveforms, RATE_HZ), strict=True)
    for found, wanted in pairs:
        for name in ("window_scores", "frame_scores"):
            one, other = getattr(found, name), getattr(wanted, name)
            np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=0)
    found, wanted = (t.embed(waveforms[1], RATE_HZ).embedding for t in (tagger, expected))
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE * float(np.abs(wanted).max()))
    with pytest.raises(ConfigError, match="no embeddings by mean"):
        tagger.embed(waveforms[1], RATE_HZ, "mean")


def test_the_command_tags_by_onnx_runtime(exported: Path, tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", sweep(4.0), RATE_HZ)
    words = [exported, tmp_path / "a.wav", "--format=csv", "--top-k=3"]
    rows = [
        list(csv.reader(run_command("eval.tag", *words, *more).stdout.splitlines()))
        for more in ([], ["--runtime=onnx"])
    ]
    assert len(rows[0]) > 1 and [row[:3] for row in rows[0]] == [row[:3] for row in rows[1]]
    (weights,) = exported.parent.glob("0.pt")
    done = run_command("eval.tag", weights, *words[1:], "--runtime=onnx", check=False)
    assert done.returncode == 2 and "no model.onnx" in done.stderr
    done = run_command("eval.tag", *words, "--runtime=onnx", "--precision=bfloat16", check=False)
    assert done.returncode == 2 and "float32" in done.stderr


def test_what_onnx_runtime_cannot_use_is_an_error(exported: Path, members, tmp_path: Path):
    tagger = Tagger(members, device="cpu")
    with pytest.raises(ConfigError, match=r"no model\.onnx"):
        tagger.use_onnx_runtime(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="cannot use the model"):
        tagger.use_onnx_runtime(tmp_path)
    few = ClassList(CLASSES.mids[::-1], CLASSES.names)
    other = Tagger([replace(member, classes=few) for member in members], device="cpu")
    with pytest.raises(CheckpointError, match="not those of the weights"):
        other.use_onnx_runtime(exported)


def test_onnx_is_one_valid_file_that_names_its_classes(exported: Path):
    onnx.checker.check_model(exported / "model.onnx", full_check=True)
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["names"]) == list(CLASSES.names)
    assert json.loads(metadata["mids"]) == list(CLASSES.mids)
    assert (metadata["sample_rate_hz"], metadata["frame_s"]) == ("16000", "0.32")
    assert {path.name for path in exported.glob("*.onnx*")} == {"model.onnx"}
    assert metadata["pooling"] == "attention"
    assert json.loads(metadata["thresholds"]) == LIMITS
    card = (exported / "README.md").read_text()
    assert "scores, frame_scores, embeddings = session.run(" in card and "(batch, 2560)" in card
    assert len(Tagger.load(exported, device="cpu")(sweep(0.5), RATE_HZ).scores) == 3


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("mobilenet-v2", "linear"),
        ("resnet-50", "single-head-attention"),
        ("timm/convnext_atto", "mean-pooling"),
    ],
)
def test_other_networks_export(backbone: str, head: str, tmp_path: Path):
    model = WaveformModel([tiny_checkpoint(backbone=backbone, head=head)])
    write_onnx(model, CLASSES, tmp_path / "model.onnx")  # it compares the scores
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["scores", "frame_scores"]


def test_file_with_other_scores_is_refused(exported: Path, members):
    path = exported / "model.onnx"
    check_scores(WaveformModel(members), onnxruntime.InferenceSession(path), path)
    with pytest.raises(CheckpointError, match=r"model\.onnx differ by"):
        check_scores(WaveformModel(members[:1]), onnxruntime.InferenceSession(path), path)
    with pytest.raises(CheckpointError, match=r"embeddings of model\.onnx differ by"):
        check_scores(WaveformModel(members), onnxruntime.InferenceSession(path), path, "mean")


def test_real_clips_score_as_with_the_tagger(real_clips: Path, members, tmp_path: Path):
    """Windows have the paper's length."""
    member = replace(members[0], features=replace(members[0].features, num_frames=1056))
    write_onnx(WaveformModel([member]), CLASSES, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    tagger = Tagger([member], device="cpu")
    with (real_clips / "manifest.csv").open(newline="") as file:
        paths = [real_clips / row["path"] for row in csv.DictReader(file)][::120]
    all_scores = []
    for path in paths:
        waveform = load_clip(path, sample_rate_hz=RATE_HZ)[: member.features.max_clip_samples]
        all_scores.append(tagger(waveform, RATE_HZ).scores)
        (scores,) = session.run(["scores"], {"waveform": waveform[None]})
        np.testing.assert_allclose(scores[0], all_scores[-1], atol=TOLERANCE, rtol=0)
    assert len(paths) > 12 and np.std(all_scores, axis=0).min() > 0.01
