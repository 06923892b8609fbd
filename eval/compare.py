"""Compare runs, or score files, on the clips that all scored.

    psla-wds compare RUN RUN ... --page COMPARISON.html

A run is a folder with scores.npz, as `make demo` writes it. The output has the metrics, the
changes from the first run to each other run (with 95 % intervals over paired resamples of the
clips), the classes with the largest gains and losses, and the settings that differ. Clips that
some of the runs lack are left out, and counted.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.config import Within, check_ranges
from psla_wds.printable import typed


@dataclass(frozen=True)
class Args(cli.Overwrite):
    runs: Positional[tuple[Path, ...]]
    """Run folders with scores.npz, or score files; the others are compared with the first."""
    output: Annotated[Path | None, cli.New()] = None
    """JSON file to write the comparison to."""
    page: Annotated[Path | None, cli.New()] = None
    """HTML page to write."""
    bootstrap: Annotated[int, Within(20, 10_000)] = 1000
    """Resamples of the clips for the 95 % intervals."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="compare")
    # Imported here, since they take seconds.
    from eval.pages.comparison import compare, render, to_json, to_text
    from eval.pages.page import write_texts

    found = compare(args.runs, resamples=args.bootstrap)
    print(to_text(found))
    texts = {args.output: to_json(found)} if args.output else {}
    texts |= {args.page: render(found, sys.argv[1:])} if args.page else {}
    write_texts(texts, "comparison")
    wrote = f"wrote {' and '.join(map(str, texts))}; " if texts else ""
    page = (
        f"open {typed(args.page)} in a browser"
        if args.page
        else "--page COMPARISON.html writes a page with curves"
    )
    print(f"{wrote}next: {page}")


if __name__ == "__main__":
    cli.run(main)
