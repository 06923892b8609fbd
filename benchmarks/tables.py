"""Write the tables of README.md and docs/ from the files in benchmarks/results/.

    python -m benchmarks.tables

    python -m benchmarks.tables --demo runs/demo/metrics.json

A table stands between <!-- table NAME --> and <!-- end -->, where NAME is a results file.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        return f"<!-- table {name} -->\n{RENDER.get(name, speeds)(content)}\n<!-- end -->"

    return PLACE.sub(table, text)


def speeds(content: dict[str, Any]) -> str:
    """A benchmark's results: what was compared, how fast, on what."""
    rows = ["| | clips/s | speed-up | spread |", "|---|--:|--:|--:|"]
    for r in content["results"]:
        rows.append(
            f"| {r['name']} | {r['clips_per_s']:,.0f} | {r['speed_up']:.2f}x | {r['spread']:.0%} |"
        )
    return "\n".join([*rows, "", f"{content['title']}. {_conditions(content)}"])


def _conditions(content: dict[str, Any]) -> str:
    machine, conditions = content["machine"], content["conditions"]
    where = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
    return (
        f"Median of {conditions['repeats']}, {conditions['page_cache']} page cache, {where}, "
        f"{machine['date']}, commit {machine['commit']}."
    )


def demo_scores(content: dict[str, Any]) -> str:
    """What `make demo` reached, from the metrics.json that it wrote."""
    times = content["mAP"] / content["mean_prevalence"]
    return (
        "| mAP | mAUC | d' | clips | classes | mean prevalence | mAP / prevalence |\n"
        "|--:|--:|--:|--:|--:|--:|--:|\n"
        f"| {content['mAP']:.3f} | {content['mAUC']:.3f} | {content['d_prime']:.2f} | "
        f"{content['clips']:,} | {content['classes']} | {content['mean_prevalence']:.3f} | "
        f"{times:.1f} |"
    )


def costs(content: dict[str, Any]) -> str:
    """What networks cost, and the most that a GPU could train: estimates, nothing measured."""
    rows = [
        "| | parameters | GFLOP forward | forward + backward | MiB kept | MiB moved | fused |"
        " clips/s by compute | by memory | fused |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in content["results"]:
        rows.append(
            f"| {r['name']} | {r['parameters']:,} | {r['forward_gflop']:.2f} | "
            f"{r['training_gflop']:.1f} | {r['saved_mib']:,.0f} | {r['moved_mib']:,.0f} | "
            f"{r['fused_mib']:,.0f} | {r['compute_bound_clips_per_s']:,.0f} | "
            f"{r['memory_bound_clips_per_s']:,.0f} | {r['fused_memory_bound_clips_per_s']:,.0f} |"
        )
    limits = content["conditions"]
    return "\n".join(rows) + (
        f"\n\n{content['title']}; clips/s are estimates of limits, not measurements: "
        f"{limits['tflop_per_s']:g} TFLOP/s or {limits['gb_per_s']:g} GB/s alone, passes of "
        f"{limits['batch_size']} clips."
    )


RENDER: dict[str, Callable[[dict[str, Any]], str]] = {"demo": demo_scores, "model_cost": costs}


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
