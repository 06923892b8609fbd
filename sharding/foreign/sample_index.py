"""Indexes of tars for the webdataset reader of NVIDIA DALI, as its tool wds2idx writes them.

The first line holds the version and the number of samples. Then comes a line a sample: extension,
offset, size and name of each of its members.
"""

import tarfile
from collections.abc import Sequence
from itertools import groupby

from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.progress import progress_bar
from sharding.foreign.tar_members import split_name

VERSION = "v1.2"


def write_dali_indexes(tars: Sequence[Location]) -> None:
    """Write `NAME.idx` beside each `NAME.tar`."""
    for tar in progress_bar(tars, desc="DALI indexes", unit="shard"):
        with at(tar.with_name(f"{tar.stem}.idx")).write("w") as file:
            file.write(dali_index(tar))


def dali_index(tar: Location) -> str:
    with at(tar).local_copy() as local, tarfile.open(local) as archive:
        members = [(*split_name(m.name), m) for m in archive if m.isreg()]
    lines = [
        " ".join(f"{extension} {m.offset_data} {m.size} {m.name}" for _, extension, m in sample)
        for key, sample in groupby(members, key=lambda member: member[0])
        if key
    ]
    return "\n".join([f"{VERSION} {len(lines)}", *lines, ""])
