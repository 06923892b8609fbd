"""The members of a tar that others built, by key: looked at, and never extracted.

A key is what webdataset makes of a name: the folder, and the file name up to its first dot.
"""

import logging
import tarfile
from pathlib import Path

from psla_wds.errors import ShardError
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.printable import typed

LABEL_EXTENSIONS = ("json", "cls", "txt")
PICKLE_EXTENSIONS = ("pkl", "pickle", "pyd", "pth", "pt")
REPACK = "pack the tars again: psla-wds build tars FOLDER --output SHARDS"
UNPACK = {
    "gz": "gunzip",
    "tgz": "gunzip",
    "zst": "unzstd",
    "xz": "unxz",
    "txz": "unxz",
    "bz2": "bunzip2",
    "tbz2": "bunzip2",
    "lz4": "unlz4",
}
"""Program that decompresses a tar, by the end of its name."""
MAGIC = {
    b"\x1f\x8b": "gz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\xfd7zXZ": "xz",
    b"BZh": "bz2",
    b"\x04\x22\x4d\x18": "lz4",
}
"""Ends of names of compressed files by their first bytes."""
MAX_PADDING_BYTES = 2**20
"""Bytes read past the end of an archive: more than any usual record size."""

logger = logging.getLogger("sharding.tars")

Members = dict[str, list[tarfile.TarInfo]]
"""Members of one key by extension; a list, because a tar can hold a name twice."""


def members_by_key(tar: Path, *, where: Location) -> dict[str, Members]:
    """All members of a tar by key, in any order, once the tar is known to be whole.

    Args:
        where: name of the tar for messages; the file that is read may be a copy.
    """
    _check_compression(tar, where)
    clips: dict[str, Members] = {}
    try:
        with tarfile.open(tar, "r:") as archive:  # not compressed: clips are read by byte range
            for member in archive:
                _check_member(member, where)
                key, extension = split_name(member.name)
                if member.isreg() and key:
                    clips.setdefault(key, {}).setdefault(extension, []).append(member)
            _check_end(tar, archive.offset)
    except (tarfile.TarError, ValueError, OverflowError, OSError) as error:
        raise ShardError(
            f"this is not a whole tar: {error}",
            where=where,
            fix="copy it again, or move it out of the folder",
        ) from None
    _check_pickles(where, clips)
    return clips


def require_plain(folder: Location) -> None:
    """Warn of compressed tars in a folder; `ShardError` if there are no others."""
    names = set(at(folder).entries())
    plain = {name: _plain_name(name) for name in sorted(names)}
    found = [name for name, unpacked in plain.items() if unpacked and unpacked not in names]
    if not found:
        return
    if any(name.endswith(".tar") for name in names):
        text = "%s tars are compressed, such as %s: they are not read; unpack them to use them"
        logger.warning(text, f"{len(found):,}", found[0])
        return
    end = found[0].rpartition(".")[2]
    raise ShardError(
        f"{len(found):,} tars are compressed, such as {found[0]}: clips are read by their place in "
        "a plain tar",
        where=folder,
        fix=f"unpack them: {UNPACK[end]} {typed(folder)}/*.{end}",
    )


def _plain_name(name: str) -> str | None:
    """Name of a compressed tar when it is unpacked; None for other files."""
    stem, _, end = name.rpartition(".")
    if end in UNPACK and stem.endswith(".tar"):
        return stem
    return f"{stem}.tar" if end in ("tgz", "txz", "tbz2") else None


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member, as in webdataset; "" for members outside clips: names without
    a dot, hidden files, and webdataset's `__names__`."""
    top = name.partition("/")[0]
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension or (len(top) > 3 and top[:2] == top[-2:] == "__"):
        return "", ""
    return f"{folder}{slash}{stem}", extension.lower()


def kind_of(extension: str) -> str:
    """`wav` of `000_10.000.wav`: names that hold seconds are split at their first dot as well."""
    return extension.rpartition(".")[2]


def is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _check_compression(tar: Path, where: Location) -> None:
    with tar.open("rb") as file:
        begin = file.read(8)
    end = next((end for magic, end in MAGIC.items() if begin.startswith(magic)), "")
    if end:
        name = f"{where.name}.{end}"
        raise ShardError(
            f"this tar is compressed ({end}): clips are read by their place in a plain tar",
            where=where,
            fix=f"unpack it: mv {typed(where.name, name)}; {UNPACK[end]} {typed(name)}",
        )


def _check_member(member: tarfile.TarInfo, where: Location) -> None:
    """Refuse members that cannot be read as a byte range, or are unsafe to unpack."""
    kinds = (
        (member.name.startswith("/"), "has an absolute name"),
        (".." in member.name.split("/"), "has a name with .."),
        (member.issym() or member.islnk(), "is a link"),
        (member.issparse(), "is sparse"),
        (not member.isreg() and not member.isdir(), "is neither a file nor a folder"),
        (not is_text(member.name), "has a name that is not UTF-8"),
        (member.size < 0, "has a negative size"),
    )
    for refused, what in kinds:
        if refused:
            raise ShardError(
                f"member {member.name!a} {what}",
                where=f"{where}, byte {member.offset}",
                fix="build the tar again from plain files with relative names",
            )


def _check_end(tar: Path, end: int) -> None:
    """Detect a damaged end: tarfile takes a cut between members, or a damaged header, as the
    end."""
    with tar.open("rb") as file:
        file.seek(end)
        padding = file.read(MAX_PADDING_BYTES)
    if len(padding) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it is cut short at byte {end:,}: the end mark is missing")
    if padding.strip(b"\0"):
        raise tarfile.ReadError(
            f"a damaged header at byte {end:,}, or a second tar appended to the first"
        )


def _check_pickles(where: Location, clips: dict[str, Members]) -> None:
    found = {kind_of(extension) for members in clips.values() for extension in members}
    if found & set(PICKLE_EXTENSIONS) and not found & set(LABEL_EXTENSIONS):
        raise ShardError(
            "the labels can only be in pickles, which are never loaded: they can run any code",
            where=where,
            fix=f"write them as KEY.{', KEY.'.join(LABEL_EXTENSIONS)}",
        )
