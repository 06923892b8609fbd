"""Make the index of a folder of shards anew, from their sidecars.

    python -m sharding.index SHARDS

sharding.build does this at its end; it is of use when an index was lost or shards were moved.
"""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.index_files import merge_sidecars


@dataclass(frozen=True)
class Args:
    shards: Positional[Path]
    """Folder of the shards."""


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m sharding.index")
    index = merge_sidecars(args.shards)
    print(
        f"wrote the index of {len(index):,} clips in {len(index.shards):,} shards to "
        f"{args.shards}; next: python -m sharding.check {args.shards}"
    )


if __name__ == "__main__":
    cli.run(main)
