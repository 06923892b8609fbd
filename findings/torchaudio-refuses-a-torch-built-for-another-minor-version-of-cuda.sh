#!/usr/bin/env bash
# torchaudio 2.11.0 beside torch 2.15.0, both from PyPI, without a GPU.
#
# torchaudio 2.11 asks for no version of torch, and its binary uses torch's stable ABI, so pip
# installs it beside each later torch. PyPI's build of it is for CUDA 13.0 and PyPI's torch 2.15.0
# for CUDA 13.2, and the import compares the two: it is a RuntimeError, also on a machine without a
# GPU, and also for torchaudio.compliance.kaldi, which is Python code that uses no CUDA. Where torch
# says that it was built without CUDA, the same files are imported and compute features.
#
# Seen:
#   torch 2.15.0+cu132, CUDA 13.2: RuntimeError: Detected that PyTorch and TorchAudio were compiled
#   with different CUDA versions. [...]
#   torch.version.cuda hidden: fbank of (98, 23)
#
# Why it matters: a program that needs torchaudio for its features stops at its first import after
# an upgrade of torch that pip finds no fault with.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torchaudio==2.11.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch

assert torch.version.cuda and not torch.version.cuda.startswith("13.0"), torch.version.cuda
try:
    import torchaudio
except RuntimeError as error:
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}: RuntimeError: {error}")
    assert "different CUDA versions" in str(error)
else:
    raise SystemExit("torchaudio was imported: the behaviour changed")
PYTHON
"$folder/venv/bin/python" - <<'PYTHON'
import torch

torch.version.cuda = None
from torchaudio.compliance import kaldi

features = kaldi.fbank(torch.sin(torch.arange(16_000) / 10)[None])
print(f"torch.version.cuda hidden: fbank of {tuple(features.shape)}")
assert features.shape == (98, 23) and features.isfinite().all()
PYTHON
