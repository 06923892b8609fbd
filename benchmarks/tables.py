"""Write the tables of README.md and docs/ from the files in benchmarks/results/.

    python -m benchmarks.tables

    python -m benchmarks.tables --demo runs/demo/metrics.json

A table stands between <!-- table NAME --> and <!-- end -->, where NAME is a results file.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.table_forms import FORMS, speeds
from psla_wds import cli
from psla_wds.errors import PslaError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PLACE = re.compile(r"<!-- table (?P<name>\w+) -->\n.*?<!-- end -->", re.DOTALL)


def documents(root: Path) -> list[Path]:
    """The files that hold tables."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def with_tables(text: str, results: Path) -> str:
    """The text with each table made anew."""

    def table(place: re.Match[str]) -> str:
        name = place["name"]
        path = results / f"{name}.json"
        if not path.exists():
            raise PslaError(
                f"a table needs {name}.json", where=results, fix=f"python -m benchmarks.{name}"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
        return f"<!-- table {name} -->\n{FORMS.get(name, speeds)(content)}\n<!-- end -->"

    return PLACE.sub(table, text)


@dataclass(frozen=True)
class Args:
    demo: Path | None = None
    """metrics.json of `make demo`, to be taken over into the results first."""


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.tables")
    if args.demo:
        (RESULTS / "demo.json").write_bytes(args.demo.read_bytes())
    for path in documents(ROOT):
        path.write_text(with_tables(path.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
    print(f"wrote the tables of {', '.join(path.name for path in documents(ROOT))}")


if __name__ == "__main__":
    cli.run(main)
