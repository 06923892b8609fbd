"""torchaudio's Python code, beside any torch."""

from unittest import mock

import torch

# Its last release, 2.11, refuses a torch of another CUDA version, on which this code does not
# depend.
with mock.patch.object(torch.version, "cuda", None):
    import torchaudio
    from torchaudio.compliance import kaldi

__all__ = ["kaldi", "torchaudio"]
