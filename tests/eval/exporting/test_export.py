"""Exports: cards that the Hub understands, nothing private, uploads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import hub_server
from huggingface_hub import ModelCard
from tiny_models import tiny_checkpoint

from eval.export import Args, export, main
from eval.exporting import hub
from psla_wds.errors import CheckpointError, ConfigError, PslaError, ScoreError
from psla_wds.models.checkpoint import epoch_path, save_checkpoint
from psla_wds.models.model_folder import read_model_config
from psla_wds.tagging.tagger import Tagger

METRICS = {"mAP": 0.4321, "mAUC": 0.9, "d_prime": None, "clips": 1234, "per_class": [{"AP": 0.1}]}
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
    (run / "metrics.json").write_text(json.dumps(METRICS))
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


def test_files_in_a_runs_folder_are_of_that_run(run_folder: Path, tmp_path: Path):
    alone = tmp_path / "alone.pt"
    save_checkpoint(tiny_checkpoint(), alone)
    for number, (model, fingerprint) in enumerate(
        ((run_folder / "average.pt", "f1e2"), (epoch_path(run_folder, 3), "f1e2"), (alone, None))
    ):
        export(Args(models=(model,), output=tmp_path / str(number)))
        (member,) = read_model_config(tmp_path / str(number)).members
        assert member.provenance.index_fingerprint == fingerprint


def test_the_card_is_one_that_the_hub_understands(exported: Path):
    card = ModelCard.load(exported / "README.md")
    data = card.data
    assert (data.license, data.library_name) == ("cc-by-4.0", "psla-wds")
    assert data.pipeline_tag == "audio-classification"
    assert {"audio-classification", "efficientnet-b0"} <= set(data.tags)
    assert data.model_name == "street-sounds"
    results = {result.metric_type: result for result in data.eval_results}
    assert results.keys() == {"mAP", "mAUC"} and results["mAP"].metric_value == 0.4321
    assert results["mAP"].dataset_name == "Street sounds, 2026"
    assert results["mAP"].dataset_type == "street-sounds-2026"
    for told in ("1,234 clips of Street sounds", "Tagger.load", "## Intended use", "middle, or so"):
        assert told in card.text
    assert "3 epochs; batches of 24; seed 7; shards with the fingerprint f1e2" in card.text


def test_the_folder_knows_its_run_and_tells_no_places(exported: Path):
    member = read_model_config(exported).members[0]
    assert member.provenance.index_fingerprint == "f1e2"
    recipe = member.provenance.recipe
    assert (recipe["batch_size"], recipe["seed"]) == (24, 7)
    assert recipe["model"]["initial_weights"] == "weights.pth"
    assert not {"index", "eval_index", "run_dir", "reader", "labels"} & recipe.keys()
    assert read_model_config(exported).metrics == {
        "mAP": 0.4321,
        "mAUC": 0.9,
        "d_prime": None,
        "clips": 1234,
    }
    for path in exported.iterdir():
        assert b"someone" not in path.read_bytes(), path.name


@pytest.mark.slow
def test_a_card_without_scores_and_license_claims_none(run_folder: Path, tmp_path: Path):
    export(Args(models=(run_folder / "average.pt",), output=tmp_path / "m"))
    card = ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.license is None and card.data.eval_results is None
    assert "None were given" in card.text and "shards with the fingerprint f1e2" in card.text


@pytest.mark.slow
def test_exports_are_exported_again_and_joined(run_folder: Path, exported: Path, tmp_path: Path):
    export(Args(models=(exported, run_folder / "average.pt"), output=tmp_path / "both"))
    config = read_model_config(tmp_path / "both")
    assert [member.file for member in config.members] == [
        "member-1.safetensors",
        "member-2.safetensors",
    ]
    assert [m.provenance.index_fingerprint for m in config.members] == ["f1e2", "f1e2"]
    assert "An ensemble of 2 audio taggers" in (tmp_path / "both" / "README.md").read_text()
    assert len(Tagger.load(tmp_path / "both", device="cpu").classes) == 3


@pytest.mark.slow
def test_nothing_half_written_stays(run_folder: Path, exported: Path, tmp_path: Path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eval.export.card_text", fail)
    with pytest.raises(PslaError, match="No space left"):
        export(Args(models=(run_folder,), output=tmp_path / "m"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="something here already"):
        export(Args(models=(run_folder,), output=exported))


@pytest.mark.parametrize("content", ["", "[]", '{"mAP": "high", "clips": 3}', '{"clips": 3}'])
def test_metrics_that_are_none_are_refused(run_folder: Path, content: str, tmp_path: Path):
    (tmp_path / "metrics.json").write_text(content)
    metrics = tmp_path / "metrics.json"
    with pytest.raises(ScoreError, match="no metrics"):
        export(Args((run_folder,), tmp_path / "m", metrics=metrics, evaluated_on="x"))


@pytest.mark.parametrize(
    "settings",
    [
        {"evaluated_on": "x"},
        {"private": True},
        {"push": "name"},
        {"push": "a/b/c"},
        {"push": "owner/na me"},
        {"push": "/name"},
        {"push": "owner/"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings: dict):
    with pytest.raises(ConfigError):
        Args(models=(Path("run"),), output=Path("m"), **settings)


@pytest.mark.slow
def test_models_that_do_not_fit_together_are_refused(run_folder: Path, tmp_path: Path):
    other = tiny_checkpoint()
    save_checkpoint(
        replace(other, features=replace(other.features, num_frames=64)), tmp_path / "other.pt"
    )
    with pytest.raises(CheckpointError, match="other features"):
        export(Args(models=(run_folder, tmp_path / "other.pt"), output=tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_a_folder_is_uploaded_file_by_file(exported: Path):
    with hub_server("good") as server:
        url = hub.push(exported, "owner/tags", private=True, endpoint=server.url, token="good")
    assert url == f"{server.url}/owner/tags" and server.visibility == "private"
    assert server.files.keys() >= {"README.md", "config.json", "model.safetensors"}
    for path in exported.iterdir():
        assert server.files[path.name] == path.read_bytes()


def test_a_repository_that_is_there_is_uploaded_to_again(exported: Path):
    with hub_server("good") as server:
        for _ in range(2):
            hub.push(exported, "owner/tags", private=False, endpoint=server.url, token="good")
    assert server.visibility is None  # the account's own choice
    assert sum("/commit/" in path for path in server.asked) == 2


@pytest.mark.parametrize("private", [True, False])
def test_the_command_uploads_what_it_wrote(private: bool, tmp_path: Path, monkeypatch, capsys):
    pushed = []

    def push(folder: Path, repository: str, *, private: bool) -> str:
        pushed.append((folder, repository, private))
        return "https://hub/owner/tags"

    monkeypatch.setattr("eval.export.export", lambda _: ["README.md"])
    monkeypatch.setattr("eval.exporting.hub.push", push)
    words = ["run", f"--output={tmp_path}/m", "--push=owner/tags", *["--private"][: int(private)]]
    monkeypatch.setattr("sys.argv", ["eval.export", *words])
    main()
    assert pushed == [(tmp_path / "m", "owner/tags", private)]
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"uploaded {tmp_path}/m to https://hub/owner/tags"
    monkeypatch.setattr("sys.argv", ["eval.export", *words[:2]])
    main()
    assert len(pushed) == 1


def test_a_hub_that_refuses_or_is_gone_is_one_error(exported: Path):
    with hub_server("good") as server, pytest.raises(PslaError, match=r"upload failed: .*401"):
        hub.push(exported, "owner/tags", private=False, endpoint=server.url, token="bad")
    with pytest.raises(PslaError, match=r"upload failed: (.|\n)*hf upload .* --private"):
        hub.push(exported, "owner/tags", private=True, endpoint=server.url, token="good")
    assert server.files == {}
