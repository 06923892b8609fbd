"""Changes to files: blind ones of bytes, and those that know JSON, .npy headers, or zips."""

import copy
import io
import json
import zipfile
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

AWKWARD_TEXTS = ["", ".", "..", "../canary", "/etc/passwd", "a\0b", "\ud800", "x" * 10_000, "é"]
AWKWARD_NUMBERS = [
    -1, 0, 1, 2**16, 2**31, 2**32 - 1, 2**36, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40,
    0.5, 1e300, float("inf"), float("nan"),
]  # fmt: skip
AWKWARD_VALUES = [
    None, True, [], {}, [[]], [None], {"": None}, [2**70], *AWKWARD_TEXTS, *AWKWARD_NUMBERS,
]  # fmt: skip
DEEP = 20_000
"""Levels of nesting, which a recursive reader has no stack for."""


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Bits flipped, bytes inserted, cut out, swapped, overwritten, or the end cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        start, stop = sorted(draw(st.integers(0, len(changed))) for _ in range(2))
        match draw(st.sampled_from(["flip", "insert", "cut", "swap", "fill", "end"])):
            case "flip" if start < len(changed):
                changed[start] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                changed[start:start] = draw(st.binary(min_size=1, max_size=40))
            case "cut":
                del changed[start : min(stop, start + 600)]
            case "swap":
                middle = (start + stop) // 2
                changed[start:stop] = changed[middle:stop] + changed[start:middle]
            case "fill":
                stop = min(stop, start + 600)
                changed[start:stop] = draw(st.sampled_from([b"\0", b"\xff"])) * (stop - start)
            case "end":
                del changed[stop:]
    return bytes(changed)


@st.composite
def changed_json(draw: st.DrawFn, text: bytes) -> bytes:
    """JSON with values of other types and sizes, and JSON that is none."""
    form = draw(st.sampled_from(["value"] * 5 + ["bytes", "nested", "twice", "digits"]))
    if form == "bytes":
        return draw(changed_bytes(text))
    if form == "nested":
        bracket = draw(st.sampled_from([b"[", b'{"a":']))
        return bracket * DEEP
    if form == "digits":
        return text.replace(b"1", b"1" * draw(st.sampled_from([400, 5000])), 1)
    content = json.loads(text)
    if form == "twice" and content:
        key = draw(st.sampled_from(sorted(content)))
        again = json.dumps({key: draw(st.sampled_from(AWKWARD_VALUES))}).encode()
        return text.rstrip()[:-1] + b", " + again[1:]
    for _ in range(draw(st.integers(1, 2))):
        content = draw(changed_value(content))
    return json.dumps(content).encode()


@st.composite
def changed_value(draw: st.DrawFn, value: Any) -> Any:
    """One value somewhere in a JSON value replaced, left out, or there twice."""
    value = copy.copy(value)
    if not isinstance(value, list | dict) or not value:
        return draw(st.sampled_from(AWKWARD_VALUES))
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    place = draw(st.sampled_from(places))
    match draw(st.sampled_from(["go in", "go in", "go in", "replace", "drop", "repeat"])):
        case "drop":
            del value[place]
        case "repeat" if isinstance(value, list):
            value.insert(0, value[place])
        case "repeat":
            value[f"{place}s"] = value[place]
        case "replace":
            value[place] = draw(st.sampled_from(AWKWARD_VALUES))
        case _:
            value[place] = draw(changed_value(value[place]))
    return value


@st.composite
def changed_npy(draw: st.DrawFn, column: np.ndarray) -> bytes:
    """A .npy file with another header, with extreme values, or with changed bytes."""
    column = column.copy()
    header: dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(column.dtype),
        "fortran_order": False,
        "shape": column.shape,
    }
    form = draw(st.sampled_from(["values", "values", "order", "descr", "shape", "key", "bytes"]))
    if form == "values" and len(column):
        limits = np.iinfo(column.dtype)
        for _ in range(draw(st.integers(1, 2))):
            value = draw(
                st.sampled_from([limits.min, limits.max, limits.max // 2, 0, 1, 2])
                | st.integers(-3, 3).map(lambda by: int(column[0]) + by)
            )
            place = draw(st.integers(0, len(column) - 1))
            column[place] = np.clip(value, limits.min, limits.max)
    elif form == "order":
        column = column[::-1].copy()
    elif form == "descr":
        header["descr"] = draw(st.sampled_from(AWKWARD_DTYPES))
    elif form == "shape":
        header["shape"] = draw(st.sampled_from(awkward_shapes(len(column))))
    elif form == "key":
        key = draw(st.sampled_from(sorted(header)))
        header[key] = draw(st.sampled_from(AWKWARD_VALUES))
    content = npy_bytes(repr(header), column.tobytes())
    return draw(changed_bytes(content)) if form == "bytes" else content


AWKWARD_DTYPES = [
    "|O", ">i8", "<i4", "<u8", "<f8", "|b1", "|V8", "<M8[s]", "<U2000000000", "|S0", "nonsense",
    [("a", "<i8")], [("a", "|O")], ("<i8", (2**30,)),
]  # fmt: skip


def awkward_shapes(length: int) -> list[tuple[Any, ...]]:
    sizes = [0, length - 1, length + 1, -1, 2**33, 2**60, 2**63, 2**70, 1.5, None, True]
    return [(size,) for size in sizes] + [(), (length, 1), (1, length), (2**32, 2**32), (0, 2**62)]


def npy_bytes(header: str, data: bytes) -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + data


@st.composite
def rezipped(draw: st.DrawFn, archive: bytes) -> bytes:
    """A zip whose members were changed, with check sums that fit, or left out, or there twice."""
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    name = draw(st.sampled_from(sorted(members)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw(st.sampled_from([0, zipfile.ZIP_DEFLATED]))) as target:
        for other, content in members.items():
            if other != name:
                target.writestr(other, content)
        form = draw(st.sampled_from(["bytes", "bytes", "drop", "outside", "bomb"]))
        if form == "bytes":
            target.writestr(name, draw(changed_bytes(members[name])))
        elif form == "outside":
            target.writestr(f"../{name}", members[name])
        elif form == "bomb":
            target.writestr(name, members[name] + bytes(2**22))
    return buffer.getvalue()


@st.composite
def changed_content(draw: st.DrawFn, content: dict[str, Any]) -> bytes:
    """A file of torch's with a value somewhere of another type or size."""
    buffer = io.BytesIO()
    torch.save(draw(changed_value(content)), buffer)
    return buffer.getvalue()
