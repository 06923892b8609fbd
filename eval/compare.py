"""Compare runs, or score files, on the clips that all of them scored.

    python -m eval.compare RUN RUN ... --page COMPARISON.html

A run is a folder with its scores in it, as `make demo` leaves one: scores.npz. Prints the metrics,
what changes from the first to each other, with 95 % intervals over paired resamples of the clips,
the classes that gain and lose most, and the settings that differ. Clips that are not in all of
them, since web data shrinks, are left out, and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from eval.pages.comparison import Comparison, compare, render, to_json, to_text
from eval.pages.page import check_resamples, write_texts
from psla_wds import cli
from psla_wds.config import Within, check_ranges


@dataclass(frozen=True)
class Args:
    runs: Positional[tuple[Path, ...]]
    """Folders of runs with their scores.npz, or score files; the first is what the others are
    compared with."""
    output: Path | None = None
    """JSON file to write the comparison to."""
    page: Path | None = None
    """HTML page to write."""
    bootstrap: Annotated[int, Within(0)] = 1000
    """Resamples of the clips for the intervals; 0 for none."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_resamples(self.bootstrap)


def write(found: Comparison, args: Args) -> Sequence[Path]:
    """Write what was asked for, and return its paths."""
    texts = {}
    if args.output:
        texts[args.output] = to_json(found)
    if args.page:
        texts[args.page] = render(found, [str(path) for path in args.runs])
    write_texts(texts, "comparison")
    return list(texts)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.compare")
    found = compare(args.runs, resamples=args.bootstrap)
    print(to_text(found))
    written = write(found, args)
    if args.page:
        print(f"wrote {' and '.join(map(str, written))}; next: open {args.page}")
    elif written:
        print(f"wrote {args.output}; --page COMPARISON.html writes a page as well")
    else:
        print("next: --page COMPARISON.html writes all of it, and the curves, as a page")


if __name__ == "__main__":
    cli.run(main)
