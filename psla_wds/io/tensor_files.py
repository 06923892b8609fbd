"""Files of tensors, numbers and strings: torch's format, written whole, read without unpickling."""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from psla_wds.errors import CheckpointError, PslaError, optional_package
from psla_wds.io.atomic_files import atomic_open
from psla_wds.io.regular import open_regular


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """Write tensors, numbers and strings; the file is whole or absent."""
    try:
        with atomic_open(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        # torch ends its archive after a write that failed, and fails again: that hides the disk's.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise PslaError(
            f"cannot write the file: {reason.strerror}",
            where=path,
            fix="make room or give write access, or choose another place",
        ) from None


def load_tensors(path: Path, *, fix: str) -> dict[str, Any]:
    """The table in a file, on the CPU; `CheckpointError`, with advice `fix`, if there is none.

    Only tensors and plain values are accepted: a file from a stranger cannot run code.
    """
    load: Callable[[Path], Any] = partial(torch.load, map_location="cpu", weights_only=True)
    if path.suffix == ".safetensors":
        load = safetensors(path).load_file
    try:
        open_regular(path).close()
    except OSError as error:
        raise CheckpointError(
            f"the file cannot be read: {error.strerror}", where=path, fix=fix
        ) from None
    try:
        _check_records(path)
        content = load(path)
        _check_memory(content, path.stat().st_size)
    except Exception as error:  # whatever the bytes of a damaged file lead torch's readers to
        raise CheckpointError(
            "the file is damaged, or holds more than tensors (which could run code, so it is not "
            f"loaded): {type(error).__name__}",
            where=path,
            fix=fix,
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError("the file is not a table", where=path, fix=fix)
    return content


def _check_memory(content: Any, size_bytes: int) -> None:
    """Raise unless tensors are plain ones, which together take no more memory than the file has
    bytes: a view may repeat one number any number of times."""
    total = 0
    for tensor in tree_leaves(content):
        if isinstance(tensor, Tensor):
            if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
                raise ValueError("a tensor is not a plain one")
            total += tensor.numel() * tensor.element_size()
    if total > size_bytes:
        raise ValueError("tensors claim more than the file has")


def check_tensors(content: object, path: Path, *, fix: str) -> dict[str, Tensor]:
    """`content`, if it is a table of named tensors and of nothing else."""
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError("the file is not a table of named tensors", where=path, fix=fix)
    return content


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, less BatchNorm's counters, which older files lack and nothing reads."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }


def difference(given: dict[str, Tensor], expected: dict[str, Tensor]) -> str | None:
    """How the names, shapes and kinds of number of a file differ from those of the model; None if
    they do not."""
    found, wanted = _forms(given), _forms(expected)
    names = wanted | found
    differing = [name for name in names if wanted.get(name) != found.get(name)]
    if not differing:
        return None
    name = differing[0]
    return (
        f"{len(differing)} of {len(names)} tensors differ, first {name} "
        f"(file: {found.get(name, 'none')}, model: {wanted.get(name, 'none')})"
    )


def _forms(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Shapes as text, and kinds of number other than floats."""
    kinds = {n: "" if t.is_floating_point() else f"{t.dtype} " for n, t in tensors.items()}
    return {name: f"{kinds[name]}{shape}" for name, shape in shapes(tensors).items()}


def safetensors(path: Path) -> ModuleType:
    """The package safetensors for torch, which only files of that format need."""
    users = "files of this format"
    optional_package("safetensors", users, where=path, install="safetensors")
    import safetensors.torch

    return safetensors.torch


def _check_records(path: Path) -> None:
    """Raise if bytes changed since they were written: torch itself does not look at the CRC-32 of
    the records in its zip files. (Its older format has none, and no file of ours is in it.)"""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        # torch stores them as they are: what unpacks to more than the file has is no file of torch.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile("compressed records")
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"the CRC-32 of {damaged} differs")
