"""Changed checkpoints and model folders: refused, or what they were."""

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fuzz.mutations import changed_bytes, changed_content, changed_json, rezipped
from fuzz.properties import Trap, accepted, fuzz, tiers

from psla_wds.config import SEAL
from psla_wds.errors import CheckpointError
from psla_wds.features.config import FeatureConfig
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from psla_wds.models.config import ModelConfig
from psla_wds.models.model_folder import Provenance, read_model, write_model

MEMBER = Checkpoint(
    weights={"a": torch.arange(400.0).reshape(4, 100), "b": torch.ones(2, dtype=torch.int64)},
    model=ModelConfig(initial_weights="none"),
    features=FeatureConfig(),
    classes=ClassList(("/t/0", "/t/1"), ("low", "high")),
    epoch=3,
)


def unsealed(path: Path) -> bytes:
    """JSON of an exported model without check sums, which a forger leaves out."""
    values = json.loads(path.read_bytes())
    return json.dumps({name: value for name, value in values.items() if name not in SEAL}).encode()


def same_tensors(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(t, others[n]) for n, t in some.items())


@tiers(20, 3000)
def test_a_changed_config_is_refused_or_names_a_model(tmp_path: Path, num_cases: int):
    write_model(tmp_path, [MEMBER], [Provenance({"seed": 0}, "f")], metrics={"mAP": 0.5})
    text = unsealed(tmp_path / "config.json")

    def changed(text: bytes) -> None:
        (tmp_path / "config.json").write_bytes(text)
        members = accepted(lambda: read_model(tmp_path))
        if members:
            assert all(same_tensors(member.weights, MEMBER.weights) for member in members)
            accepted(members[0].build)

    fuzz(num_cases, changed_json(text), changed)


@tiers(20, 3000)
def test_changed_weights_are_refused(tmp_path: Path, num_cases: int):
    write_model(tmp_path, [MEMBER], [Provenance()], metrics=None)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()

    def changed(content: bytes) -> None:
        path.write_bytes(content)
        members = accepted(lambda: read_model(tmp_path))
        assert members is None or content == whole

    fuzz(num_cases, changed_bytes(whole), changed)


@tiers(20, 3000)
def test_forged_weights_are_refused_or_harmless(tmp_path: Path, num_cases: int):
    """Size and hash in config.json are those of the changed file."""
    write_model(tmp_path, [MEMBER], [Provenance()], metrics=None)
    path, config_path = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, config = path.read_bytes(), json.loads(unsealed(config_path))
    header_size = int.from_bytes(whole[:8], "little")

    def forged(content: bytes) -> None:
        path.write_bytes(content)
        member = config["members"][0] | {
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        config_path.write_text(json.dumps(config | {"members": [member]}))
        members = accepted(lambda: read_model(tmp_path))
        if members:
            accepted(members[0].build)

    headers = changed_json(whole[8 : 8 + header_size].rstrip())
    fuzz(num_cases // 2, changed_bytes(whole), forged)
    fuzz(num_cases // 2, headers.map(lambda h: _with_header(h, whole[8 + header_size :])), forged)


def _with_header(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@tiers(40, 4000)
def test_a_changed_checkpoint_is_refused_or_what_it_was(tmp_path: Path, num_cases: int):
    path = tmp_path / "c.pt"
    save_checkpoint(MEMBER, path)
    archive = path.read_bytes()
    content = torch.load(path, weights_only=True)

    def changed(archive: bytes) -> None:
        path.write_bytes(archive)
        checkpoint = accepted(lambda: load_checkpoint(path))
        if checkpoint:
            accepted(checkpoint.build)

    def damaged(archive: bytes) -> None:
        path.write_bytes(archive)
        checkpoint = accepted(lambda: load_checkpoint(path))
        if checkpoint:
            assert replace(checkpoint, weights={}) == replace(MEMBER, weights={})
            assert same_tensors(checkpoint.weights, MEMBER.weights)

    fuzz(num_cases // 4, changed_bytes(archive), damaged)
    fuzz(num_cases // 4, rezipped(archive), changed)
    fuzz(num_cases // 2, changed_content(content), changed)


def test_code_in_the_place_of_weights_does_not_run(tmp_path: Path):
    canary, folder = tmp_path / "canary", tmp_path / "model"
    folder.mkdir()
    write_model(folder, [MEMBER], [Provenance()], metrics=None)
    torch.save({"a": Trap(canary)}, folder / "model.safetensors")
    config = json.loads(unsealed(folder / "config.json"))
    content = (folder / "model.safetensors").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    config["members"][0] |= {"size_bytes": len(content), "sha256": sha256}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="damaged"):
        read_model(folder)
    torch.save({"format_version": 1, "weights": Trap(canary)}, tmp_path / "zip.pt")
    torch.save({"learner": [Trap(canary)]}, tmp_path / "state.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"weights": Trap(canary)}))
    for name in ("zip.pt", "state.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="could run code"):
            load_checkpoint(tmp_path / name)
    assert not canary.exists()
