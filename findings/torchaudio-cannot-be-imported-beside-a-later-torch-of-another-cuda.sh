#!/usr/bin/env bash
# torchaudio 2.11.0 with torch 2.15.0, both from PyPI, Python 3.12, on a machine without a GPU.
#
# torchaudio 2.11 is the last release, has no torch version among its requirements, and is said to
# work with torch 2.11 and every later one. pip installs it beside torch 2.15 without a word. But
# PyPI's torch 2.15 is built for CUDA 13.2 and torchaudio for CUDA 13.0, and the import compares
# the two and refuses, also for code that is Python alone, such as compliance.kaldi.
#
# Seen:
#   torch 2.15.0+cu132, built for CUDA 13.2
#   RuntimeError: Detected that PyTorch and TorchAudio were compiled with different CUDA versions.
#   with torch.version.cuda hidden during the import: fbank of shape (98, 23)
#
# Why it matters: a front end that takes one function of torchaudio stops at its import when torch
# is updated.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
export PIP_CONSTRAINT=/dev/null
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torchaudio==2.11.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from unittest import mock

import torch

print(f"torch {torch.__version__}, built for CUDA {torch.version.cuda}")
try:
    import torchaudio
except RuntimeError as error:
    said = str(error)
else:
    sys.exit("torchaudio was imported")
print("RuntimeError:", said.partition(".")[0] + ".")
assert "different CUDA versions" in said

for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
    del sys.modules[name]
with mock.patch.object(torch.version, "cuda", None):
    from torchaudio.compliance import kaldi
features = kaldi.fbank(torch.randn(1, 16_000))
print("with torch.version.cuda hidden during the import: fbank of shape", tuple(features.shape))
assert features.shape == (98, 23)
PYTHON
