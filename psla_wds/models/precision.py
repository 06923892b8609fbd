"""Half precision of a network's trunk, by autocast; the head is float32 everywhere."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from psla_wds.errors import ConfigError

Precision = Literal["float32", "bfloat16", "float16"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise `ConfigError` if the device cannot compute in this precision."""
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("float16 needs a GPU", where="precision", fix="set --precision bfloat16")


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The context in which a network computes in this precision on the device."""
    dtype = _DTYPES.get(precision)
    return torch.autocast(device.type, dtype) if dtype else nullcontext()
