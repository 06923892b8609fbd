"""Exported folders: facts on the card, nothing private, uploads, refusals."""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from markdown import Markdown
from services.hub_server import TOKEN, HubServer, hub_server
from tiny_models import tiny_checkpoint

from eval.export import Args, export, main, push
from psla_wds.errors import CheckpointError, ConfigError, PslaError, ScoreError
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import save_checkpoint
from psla_wds.models.epochs import epoch_path
from psla_wds.models.model_folder import Provenance, read_model_config
from psla_wds.tagging.tagger import Tagger

HEADLINES = {"mAP": 0.4321, "mAUC": 0.9, "d_prime": None, "clips": 1234}
RECIPE = {
    "index": ["/home/someone/shards"],
    "run_dir": "/home/someone/runs/a",
    "batch_size": 24,
    "seed": 7,
    "model": {"initial_weights": "/home/someone/weights.pth"},
    "made_with": {"commit": "0123", "index_fingerprint": "f1e2"},
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "a"
    save_checkpoint(replace(tiny_checkpoint(), epoch=3), epoch_path(run, 3))
    save_checkpoint(tiny_checkpoint(1), run / "average.pt")
    (run / "config.json").write_text(json.dumps(RECIPE))
    (run / "metrics.json").write_text(json.dumps(HEADLINES | {"per_class": [{"AP": 0.1}]}))
    return run


@pytest.fixture(scope="module")
def exported(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "street-sounds"
    args = Args(
        models=(run_folder,),
        output=output,
        metrics=run_folder / "metrics.json",
        evaluated_on="Street sounds, 2026",
        license="cc-by-4.0",
    )
    assert export(args) == ["README.md", "config.json", "model.safetensors"]
    return output


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def test_card_has_the_facts(exported: Path):
    card = huggingface_hub.ModelCard.load(exported / "README.md")
    data = card.data
    assert (data.license, data.library_name) == ("cc-by-4.0", "psla-wds")
    assert data.pipeline_tag == "audio-classification"
    assert {"audio-classification", "efficientnet-b0"} <= set(data.tags)
    assert data.model_name == "street-sounds"
    results = {result.metric_type: result for result in data.eval_results}
    assert results.keys() == {"mAP", "mAUC"} and results["mAP"].metric_value == 0.4321
    assert results["mAP"].dataset_name == "Street sounds, 2026"
    assert results["mAP"].dataset_type == "street-sounds-2026"
    for fact in (
        "# street-sounds\n\nAn audio tagger: efficientnet-b0 with a single-head-attention head.",
        "| waveform | mono, 16,000 Hz, in [-1, 1] |\n| window | 1.29 s;",
        "| frame scores | (batch, frames, 3), a frame every 0.32 s |",
        "3 epochs; batches of 24; seed 7; shards with the fingerprint f1e2; begun with the weights "
        "weights.pth, whose licence holds here as well; all settings",
        "On 1,234 clips of Street sounds, 2026:\n\n| mAP | mAUC |\n|--:|--:|\n| 0.4321 | 0.9000 |",
        "\nlow; middle, or so; noise.\n",
    ):
        assert fact in card.text
    assert "onnx" not in card.text


def test_card_claims_nothing_that_was_not_given(tmp_path: Path):
    save_checkpoint(replace(tiny_checkpoint(), epoch=0), tmp_path / "alone.pt")
    export(Args(models=(tmp_path / "alone.pt",), output=tmp_path / "m"))
    card = huggingface_hub.ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.license is None and card.data.eval_results is None
    assert "None were given" in card.text and "`model.safetensors`: not known." in card.text
    assert read_model_config(tmp_path / "m").members[0].provenance == Provenance()


def test_nothing_on_the_card_is_html_or_a_link(tmp_path: Path):
    names = ("<script>alert(1)</script>", "![x](http://a)", "[y](javascript:b)")
    made = tiny_checkpoint()
    classes = ClassList(made.classes.mids, names)
    save_checkpoint(replace(made, classes=classes), tmp_path / "alone.pt")
    export(Args(models=(tmp_path / "alone.pt",), output=tmp_path / "m", title="a <b>"))
    card = huggingface_hub.ModelCard.load(tmp_path / "m" / "README.md")
    page = Markdown().convert(card.text)
    assert not {"<script", "<img", "<b"} & set(re.findall(r"<\w+", page))
    assert page.count("<a ") == 1  # the paper's
    for name in (*names, "a <b>"):
        assert html.escape(name) in page


def test_folder_has_settings_and_no_places(exported: Path):
    config = read_model_config(exported)
    provenance = config.members[0].provenance
    assert provenance.index_fingerprint == "f1e2" and config.metrics == HEADLINES
    assert (provenance.recipe["batch_size"], provenance.recipe["seed"]) == (24, 7)
    assert provenance.recipe["model"]["initial_weights"] == "weights.pth"
    assert not {"index", "eval_index", "run_dir", "reader", "labels"} & provenance.recipe.keys()
    for path in exported.iterdir():
        assert b"someone" not in path.read_bytes(), path.name


def test_exports_and_checkpoints_join_as_an_ensemble(
    run_folder: Path, exported: Path, tmp_path: Path
):
    models = (exported, run_folder / "average.pt", epoch_path(run_folder, 3))
    export(Args(models=models, output=tmp_path / "all"))
    members = read_model_config(tmp_path / "all").members
    assert [m.file for m in members] == [f"member-{n}.safetensors" for n in (1, 2, 3)]
    assert [m.provenance.index_fingerprint for m in members] == ["f1e2"] * 3
    assert "An ensemble of 3 audio taggers" in (tmp_path / "all" / "README.md").read_text()
    assert len(Tagger.load(tmp_path / "all", device="cpu").classes) == 3


def test_nothing_half_written_stays(run_folder: Path, exported: Path, tmp_path: Path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(PslaError, match="No space left"):
        export(Args(models=(run_folder,), output=tmp_path / "m"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", '{"mAP": "high", "clips": 3}', '{"clips": 3}'])
def test_other_metrics_are_refused(run_folder: Path, content: str, tmp_path: Path):
    metrics = tmp_path / "metrics.json"
    metrics.write_text(content)
    with pytest.raises(ScoreError, match="cannot read metrics"):
        export(Args((run_folder,), tmp_path / "m", metrics=metrics, evaluated_on="x"))


@pytest.mark.parametrize(
    "settings",
    [{"evaluated_on": "x"}, {"private": True}, {"onnx_embeddings": "mean"}]
    + [{"push": name} for name in ("name", "a/b/c", "owner/na me", "/name", "owner/")],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict):
    with pytest.raises(ConfigError):
        Args(models=(Path("run"),), output=Path("m"), **settings)


def test_models_with_other_features_are_refused(run_folder: Path, tmp_path: Path):
    other = tiny_checkpoint()
    other = replace(other, features=replace(other.features, num_frames=64))
    save_checkpoint(other, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="other features"):
        export(Args(models=(run_folder, tmp_path / "other.pt"), output=tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_command_uploads_what_it_wrote(
    hub: HubServer, run_folder: Path, tmp_path: Path, monkeypatch, capsys
):
    words = [str(run_folder), f"--output={tmp_path}/m", "--push=owner/tags", "--private"]
    monkeypatch.setattr("sys.argv", ["eval.export", *words])
    main()
    assert f"uploaded {tmp_path}/m to {hub.url}/owner/tags\n" in capsys.readouterr().out
    assert hub.visibility == ["private"]
    (files,) = hub.commits
    for path in (tmp_path / "m").iterdir():
        assert files[path.name] == path.read_bytes()


def test_push_keeps_an_existing_repository(hub: HubServer, exported: Path):
    for _ in range(2):
        push(exported, "owner/tags", private=False)
    assert hub.visibility == [None]  # the account's own default
    assert len(hub.commits) == 2


def test_failed_upload_is_one_error(hub: HubServer, exported: Path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "bad")
    with pytest.raises(PslaError, match=r"upload failed: .*401"):
        push(exported, "owner/tags", private=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(PslaError, match=r"upload failed: (.|\n)*hf upload .* --private"):
        push(exported, "owner/tags", private=True)
    assert not hub.commits
