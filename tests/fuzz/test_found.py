"""What fuzzing found, each as a case of its own."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import npy_bytes
from properties import limited_memory
from test_fuzz_tensors import CHECKPOINT, SCORES

from psla_wds.config import read_json
from psla_wds.errors import CheckpointError, ConfigError, ManifestError, ScoreError, ShardError
from psla_wds.evaluation.scores import LAYOUT, Scores
from psla_wds.labels.manifest import Clip, checked
from psla_wds.models.checkpoint import load_checkpoint, save_checkpoint
from psla_wds.shards.tar import (
    read_sidecar,
)
from train.config import TrainConfig

NESTED = b"[" * 20_000


def test_json_nested_deeper_than_the_stack_is_refused(tmp_path: Path):
    (tmp_path / "a.sidecar.json").write_bytes(NESTED)
    with pytest.raises(ShardError, match="the sidecar is damaged"):
        read_sidecar(tmp_path / "a.tar")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        read_json(TrainConfig, tmp_path / "a.sidecar.json")


def test_one_changed_bit_of_the_weights_is_noticed(tmp_path: Path):
    path = tmp_path / "c.pt"
    save_checkpoint(CHECKPOINT, path)
    content = bytearray(path.read_bytes())
    content[content.index(CHECKPOINT.weights["a"].numpy().tobytes()) + 4000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_scores_that_claim_gigabytes_take_no_memory(tmp_path: Path):
    path = tmp_path / "p.npz"
    SCORES.save(path)
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2147483648, 2)}"
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in (members | {"scores.npy": npy_bytes(header, bytes(24))}).items():
            target.writestr(name, content)
    with pytest.raises(ScoreError), limited_memory():
        Scores.load(path)


def test_an_npy_header_that_is_no_python_is_refused(tmp_path: Path):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': )6,)}"
    arrays = {name: np.zeros(1) for name in ("targets", "clip_ids", "mids", "names")}
    np.savez(tmp_path / "p.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "p.npz", "a") as archive:
        archive.writestr("scores.npy", npy_bytes(header, b""))
    with pytest.raises(ScoreError, match="cannot be used"):
        Scores.load(tmp_path / "p.npz")


@pytest.mark.parametrize("name", ["clip_id", "split"])
def test_text_that_utf_8_cannot_hold_is_refused_in_a_manifest(name: str):
    texts = {"clip_id": "a", "split": "", name: "\ud800"}
    clip = Clip(path=Path("a"), labels=(0,), source="x", **texts)
    with pytest.raises(ManifestError, match="UTF-8"):
        list(checked([clip]))


@pytest.mark.parametrize(
    ("name", "value"), [("epoch", float("inf")), ("format_version", torch.ones(2))]
)
def test_what_is_no_number_is_refused_in_a_checkpoint(tmp_path: Path, name: str, value: object):
    path = tmp_path / "c.pt"
    save_checkpoint(CHECKPOINT, path)
    torch.save(torch.load(path, weights_only=True) | {name: value}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of psla-wds"):
        load_checkpoint(path)


@pytest.mark.parametrize("character", [0x110000, 0xD800], ids=["above Unicode", "half a pair"])
@pytest.mark.parametrize("name", ["clip_ids", "names"])
def test_text_that_utf_8_cannot_hold_is_refused_in_scores(
    tmp_path: Path, name: str, character: int
):
    arrays = {n: np.asarray(getattr(SCORES, n), dtype) for n, (dtype, _) in LAYOUT.items()}
    arrays[name] = arrays[name].copy()
    arrays[name].view(np.uint32)[0] = character
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(ScoreError, match="UTF-8"):
        Scores.load(tmp_path / "p.npz")
