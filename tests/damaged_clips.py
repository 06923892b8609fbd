"""Clips of an index that are damaged on disk, in ways that reading or only decoding finds."""

import zlib
from dataclasses import replace

from psla_wds.shards.index import ShardIndex


def flip_bits(index: ShardIndex, row: int) -> ShardIndex:
    """Change the clip's bytes: its CRC-32 differs."""
    with index.shards[index.shard[row]].open("r+b") as tar:
        tar.seek(index.offset[row] + index.size[row] // 2)
        tar.write(b"not what was here")
    return index


def undecodable(index: ShardIndex, row: int) -> ShardIndex:
    """Make the clip's bytes no audio, and its CRC-32 say that this is as it should be."""
    with index.shards[index.shard[row]].open("r+b") as tar:
        tar.seek(index.offset[row])
        tar.write(b"not a header at all")
    content = index.shards[index.shard[row]].read_bytes()
    crc32 = index.crc32.copy()
    crc32[row] = zlib.crc32(content[index.offset[row] : index.offset[row] + index.size[row]])
    return replace(index, crc32=crc32)
