"""Write the tables of README.md and docs/ from the files in benchmarks/results/.

    python -m benchmarks.tables

    python -m benchmarks.tables --demo runs/demo/metrics.json

A table stands between <!-- table NAME --> and <!-- end -->, where NAME is a results file.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
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
    """A benchmark's results: what was compared, how fast, on what; a table for each level."""
    levels = [
        _speeds_of_level(level, list(results))
        for level, results in groupby(content["results"], lambda r: r.get("level"))
    ]
    return "\n\n".join([*levels, f"{content['title']}. {_conditions(content)}"])


def _speeds_of_level(level: str | None, results: list[dict[str, Any]]) -> str:
    if level is not None:
        return _peers_of_level(level, results)
    rows = ["| | clips/s | speed-up | spread |", "|---|--:|--:|--:|"]
    for r in results:
        rows.append(
            f"| {r['name']} | {r['clips_per_s']:,.0f} | {r['speed_up']:.2f}x | {r['spread']:.0%} |"
        )
    return "\n".join(rows)


def _peers_of_level(level: str, results: list[dict[str, Any]]) -> str:
    rows = [f"| {level} | order | clips/s | speed-up | spread |", "|---|---|--:|--:|--:|"]
    for r in results:
        rates = f"{r['clips_per_s']:,.0f} | {r['speed_up']:.2f}x | {r['spread']:.0%}"
        rows.append(f"| {r['name']} | {r['order']} | {rates} |")
    return "\n".join(rows)


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


def orders(content: dict[str, Any]) -> str:
    """Speed-up over the global order of draws, of each order on each storage."""
    names = list(dict.fromkeys(r["order"] for r in content["results"]))
    rows = [f"| | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for storage, results in groupby(content["results"], lambda r: r["storage"]):
        cells = [f"{r['speed_up']:.2f}x" for r in results]
        rows.append(f"| {storage} | {' | '.join(cells)} |")
    repeats = [content["duplicates"].get(name) for name in names]
    cells = ["" if number is None else f"{number:.2f}" for number in repeats]
    rows.append(f"| repeats of a clip in a batch of 100 | {' | '.join(cells)} |")
    errors = [v["error"] for v in content["validation"]]
    return "\n".join(rows) + (
        f"\n\nEpoch of {content['conditions']['clips']:,} clips, simulated; of "
        f"{len(errors)} small epochs that were really read, the simulation differs by "
        f"{min(errors):+.0%} to {max(errors):+.0%}. Commit {content['machine']['commit']}."
    )


def projections(content: dict[str, Any]) -> str:
    """What many clips and GPUs ask for, and how well that is known."""
    rows = [
        "| clips | GPUs | plan, s | plan, MiB | rank, MiB | index, MiB | first batch, s "
        "| node, MB/s | node, reads/s | epoch, h |",
        f"|{'--:|' * 10}",
    ]
    for p in content["projections"]:
        rows.append(
            f"| {p['clips']:,} | {p['gpus']} | {p['plan_s']:.1f} | {p['plan_mib']:,.0f} "
            f"| {p['rank_mib']:,.0f} | {p['index_mib']:,.0f} | {p['first_batch_s']:.1f} "
            f"| {p['node_mb_per_s']:,.0f} | {p['node_requests_per_s']:,.0f} "
            f"| {p['epoch_hours']:,.2f} |"
        )
    errors = ", ".join(
        f"{name} {check['error']:+.0%} at {check['checked_at']:,} clips"
        for name, check in content["checks"].items()
    )
    last = content["starts"][-1]
    return "\n".join(rows) + (
        f"\n\nAt {content['conditions']['clips_per_s_per_gpu']:,.0f} clips a second and GPU "
        f"(assumed). Time, memory and index follow lines through measured sizes, which are off "
        f"at one that they do not know: {errors}. Measured at {last['clips']:,} clips: first batch "
        f"{last['first_batch_s']:.2f} s after the imports ({last['import_s']:.1f} s), "
        f"{last['first_batch_at_far_step_s']:.2f} s at step 500,000. {_conditions(content)}"
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


def stages(content: dict[str, Any]) -> str:
    """Whole ways to features, then the stages of the graph, with the limit that bytes set."""
    rows = [
        "| device | stage | us a clip | kB moved | us by bytes alone | spread |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for s in content["stages"]:
        rows.append(
            f"| {s['device']} | {s['name']} | {s['us_per_clip']:,.0f} | "
            f"{s['bytes_per_clip'] / 1e3:,.0f} | {s['limit_us_per_clip']:,.1f} | "
            f"{s['spread']:.0%} |"
        )
    return speeds(content) + "\n\n" + "\n".join(rows)


def steps(content: dict[str, Any]) -> str:
    """Rates of the step, its share of the device's peak, and the paper's schedules projected."""
    rows = ["| | clips/s | of the limit | data_wait | spread |", "|---|--:|--:|--:|--:|"]
    for r in content["results"]:
        rows.append(
            f"| {r['name']} | {r['clips_per_s']:,.1f} | {r['speed_up']:.0%} | "
            f"{r['data_wait']:.1%} | {r['spread']:.0%} |"
        )
    projected = content["projections"]
    ways = list(projected[0]["hours"])
    rows += [
        "",
        f"| projection | clips | cost of one | {' | '.join(f'{way}, h' for way in ways)} |",
        f"|---|--:|--:|{'--:|' * len(ways)}",
    ]
    for p in projected:
        hours = " | ".join(f"{p['hours'][way]:,.1f}" for way in ways)
        rows.append(f"| {p['schedule']} | {p['clips']:,} | {p['cost']:.2f} | {hours} |")
    return "\n".join(rows) + (
        f"\n\n{content['title']}, {content['conditions']['precision']}. "
        f"{_limit(content['limit'])} Hours are projections, nothing that was run: clips of the "
        "schedule, times the operations of one over those of a clip measured, over the rate. "
        f"{_conditions(content)}"
    )


def _limit(limit: dict[str, float | None]) -> str:
    """What the limit makes of the device, with its share of a peak that is known."""
    parts = []
    for name, unit in (("tflop_per_s", "TFLOP/s"), ("gb_per_s", "GB/s, elementwise work fused")):
        peak = limit[f"{name}_peak"]
        share = f" ({limit[name] / peak:.1%} of {peak:,g})" if peak else ""
        parts.append(f"{limit[name]:,.3g} {unit}{share}")
    return f"The limit is {' and '.join(parts)}."


def study(content: dict[str, Any]) -> str:
    """What each seed reached, the means, and the gain with its spread."""
    names = list(content["mean"])
    rows = [f"| seed | {' | '.join(n.replace('_', ' ') for n in names)} |"]
    rows.append(f"|---|{'--:|' * len(names)}")
    for seed, run in [*enumerate(content["runs"]), ("mean", content["mean"])]:
        rows.append(f"| {seed} | {' | '.join(f'{run[name]:.4f}' for name in names)} |")
    gain, machine = content["gain"], content["machine"]
    teachers = content.get("teachers")
    single = ", ".join(f"{value:.4f}" for value in teachers["mAP"]) if teachers else ""
    extra = f" The teachers: {single}, together {teachers['ensemble_mAP']:.4f}." if teachers else ""
    return "\n".join(rows) + (
        f"\n\n{content['title']}, {content['settings']['clips']:,} clips: gain in mAP "
        f"{gain['mean']:+.4f}, standard deviation {gain['stdev']:.4f}.{extra} {machine['date']}, "
        f"commit {machine['commit']}."
    )


RENDER: dict[str, Callable[[dict[str, Any]], str]] = {
    "demo": demo_scores,
    "bench_features": stages,
    "bench_order": orders,
    "bench_step": steps,
    "gpu_features": stages,
    "gpu_step": steps,
    "model_cost": costs,
    "scale": projections,
    "study_distill": study,
    "study_enhance": study,
}


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
