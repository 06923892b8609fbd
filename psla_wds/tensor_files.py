"""Files of tensors, numbers and strings: torch's format, written whole, read without unpickling."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from psla_wds.errors import CheckpointError, PslaError
from psla_wds.files import atomic_open


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """Write tensors, numbers and strings; the file is whole or absent."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_open(path) as file:
            torch.save(content, file)
    except OSError as error:
        raise PslaError(
            f"cannot write the file: {error.strerror}",
            where=path,
            fix="make room or give write access, or choose another place",
        ) from None


def load_tensors(path: Path, *, fix: str) -> dict[str, Any]:
    """The table in a file, on the CPU; `CheckpointError`, with advice `fix`, if there is none.

    Only tensors and plain values are accepted: a file from a stranger cannot run code.
    """
    try:
        _check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        what = f"the file cannot be read: {error.strerror or error}"
        raise CheckpointError(what, where=path, fix=fix) from None
    except Exception as error:  # whatever the bytes of a damaged file lead torch's readers to
        raise CheckpointError(
            "the file is damaged, or holds more than tensors (which could run code, so it is not "
            f"loaded): {type(error).__name__}",
            where=path,
            fix=fix,
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError("the file is not a table of named tensors", where=path, fix=fix)
    return content


def _check_sums(path: Path) -> None:
    """Raise for a changed byte, which torch's reader does not notice. Files of its older format,
    which are no archives, have no check sums."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the check sum of {damaged} differs")
