"""The forms of the tables: each makes Markdown of the content of a results file."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from train.study_tables import to_markdown


def speeds(content: dict[str, Any]) -> str:
    """A benchmark's results: what was compared, how fast, on what; a table for each level."""
    levels = [
        _speeds_of_level(level, list(results))
        for level, results in groupby(content["results"], lambda r: r.get("level"))
    ]
    return "\n\n".join([*levels, f"{content['title']}. {_conditions(content)}"])


def _speeds_of_level(level: str | None, results: list[dict[str, Any]]) -> str:
    peers = level is not None  # each with the order that it gives
    rows = [
        [
            r["name"],
            *([r["order"]] if peers else []),
            f"{r['clips_per_s']:,.0f}",
            f"{r['speed_up']:.2f}x",
            f"{r['spread']:.0%}",
        ]
        for r in results
    ]
    texts = [level, "order"] if level is not None else [""]
    return markdown(texts, ["clips/s", "speed-up", "spread"], rows)


def markdown(texts: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a header: columns of text, then columns of numbers."""
    rule = "|" + "---|" * len(texts) + "--:|" * len(numbers)
    header, *lines = (_line(cells) for cells in ([*texts, *numbers], *rows))
    return "\n".join([header, rule, *lines])


def _line(cells: Sequence[str]) -> str:
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"


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
    columns = {
        "mAP": f"{content['mAP']:.3f}",
        "mAUC": f"{content['mAUC']:.3f}",
        "d'": f"{content['d_prime']:.2f}",
        "clips": f"{content['clips']:,}",
        "classes": str(content["classes"]),
        "mean prevalence": f"{content['mean_prevalence']:.3f}",
        "mAP / prevalence": f"{times:.1f}",
    }
    return markdown([], list(columns), [list(columns.values())])


def orders(content: dict[str, Any]) -> str:
    """Speed-up over the global order of draws, of each order on each storage."""
    names = list(dict.fromkeys(r["order"] for r in content["results"]))
    rows = [
        [storage, *(f"{r['speed_up']:.2f}x" for r in results)]
        for storage, results in groupby(content["results"], lambda r: r["storage"])
    ]
    repeats = [content["duplicates"].get(name) for name in names]
    cells = ["" if number is None else f"{number:.2f}" for number in repeats]
    rows.append(["repeats of a clip in a batch of 100", *cells])
    errors = [v["error"] for v in content["validation"]]
    return markdown([""], names, rows) + (
        f"\n\nEpoch of {content['conditions']['clips']:,} clips, simulated; of "
        f"{len(errors)} small epochs that were really read, the simulation differs by "
        f"{min(errors):+.0%} to {max(errors):+.0%}. Commit {content['machine']['commit']}."
    )


def projections(content: dict[str, Any]) -> str:
    """What many clips and GPUs ask for, and how well that is known."""
    columns = {
        "clips": "clips:,",
        "GPUs": "gpus",
        "plan, s": "plan_s:.1f",
        "plan, MiB": "plan_mib:,.0f",
        "rank, MiB": "rank_mib:,.0f",
        "index, MiB": "index_mib:,.0f",
        "first batch, s": "first_batch_s:.1f",
        "node, MB/s": "node_mb_per_s:,.0f",
        "node, reads/s": "node_requests_per_s:,.0f",
        "epoch, h": "epoch_hours:,.2f",
    }
    rows = [_formatted(columns, p) for p in content["projections"]]
    errors = ", ".join(
        f"{name} {check['error']:+.0%} at {check['checked_at']:,} clips"
        for name, check in content["checks"].items()
    )
    last = content["starts"][-1]
    return markdown([], list(columns), rows) + (
        f"\n\nAt {content['conditions']['clips_per_s_per_gpu']:,.0f} clips a second and GPU "
        f"(assumed). Time, memory and index follow lines through measured sizes, which are off "
        f"at one that they do not know: {errors}. Measured at {last['clips']:,} clips: first batch "
        f"{last['first_batch_s']:.2f} s after the imports ({last['import_s']:.1f} s), "
        f"{last['first_batch_at_far_step_s']:.2f} s at step 500,000. {_conditions(content)}"
    )


def _formatted(columns: dict[str, str], row: dict[str, Any]) -> list[str]:
    """The cells of a row, by columns that are each a key and, after a colon, its format."""
    parts = [column.partition(":") for column in columns.values()]
    return [format(row[key], form) for key, _, form in parts]


def costs(content: dict[str, Any]) -> str:
    """What networks cost, and the most that a GPU could train: estimates, nothing measured."""
    columns = {
        "parameters": "parameters:,",
        "GFLOP forward": "forward_gflop:.2f",
        "forward + backward": "training_gflop:.1f",
        "MiB kept": "saved_mib:,.0f",
        "MiB moved": "moved_mib:,.0f",
        "fused": "fused_mib:,.0f",
        "clips/s by compute": "compute_bound_clips_per_s:,.0f",
        "by memory": "memory_bound_clips_per_s:,.0f",
        "by memory, fused": "fused_memory_bound_clips_per_s:,.0f",
    }
    rows = [[r["name"], *_formatted(columns, r)] for r in content["results"]]
    limits = content["conditions"]
    return markdown([""], list(columns), rows) + (
        f"\n\n{content['title']}; clips/s are estimates of limits, not measurements: "
        f"{limits['tflop_per_s']:g} TFLOP/s or {limits['gb_per_s']:g} GB/s alone, passes of "
        f"{limits['batch_size']} clips."
    )


def stages(content: dict[str, Any]) -> str:
    """Whole ways to features, then the stages of the graph, with the limit that bytes set."""
    columns = ["us a clip", "kB moved", "us by bytes alone", "spread"]
    rows = [
        [
            s["device"],
            s["name"],
            f"{s['us_per_clip']:,.0f}",
            f"{s['bytes_per_clip'] / 1e3:,.0f}",
            f"{s['limit_us_per_clip']:,.1f}",
            f"{s['spread']:.0%}",
        ]
        for s in content["stages"]
    ]
    return speeds(content) + "\n\n" + markdown(["device", "stage"], columns, rows)


def steps(content: dict[str, Any]) -> str:
    """Rates of the step, its share of the device's peak, and the paper's schedules projected."""
    columns = {
        "clips/s": "clips_per_s:,.1f",
        "of the limit": "speed_up:.0%",
        "data_wait": "data_wait:.1%",
        "spread": "spread:.0%",
    }
    rates = [[r["name"], *_formatted(columns, r)] for r in content["results"]]
    projected = content["projections"]
    ways = list(projected[0]["hours"])
    hours = [
        [p["schedule"], f"{p['clips']:,}", f"{p['cost']:.2f}"]
        + [f"{p['hours'][way]:,.1f}" for way in ways]
        for p in projected
    ]
    numbers = ["clips", "cost of one", *(f"{way}, h" for way in ways)]
    tables = markdown([""], list(columns), rates), markdown(["projection"], numbers, hours)
    return "\n\n".join(tables) + (
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
        reached = limit[name] or 0.0
        share = f" ({reached / peak:.1%} of {peak:,g})" if peak else ""
        parts.append(f"{reached:,.3g} {unit}{share}")
    return f"The limit is {' and '.join(parts)}."


def study(content: dict[str, Any]) -> str:
    """What each seed reached, the means, and the gain with its spread."""
    names = list(content["mean"])
    runs = [*enumerate(content["runs"]), ("mean", content["mean"])]
    rows = [[str(seed), *(f"{run[name]:.4f}" for name in names)] for seed, run in runs]
    gain, machine = content["gain"], content["machine"]
    teachers = content.get("teachers")
    single = ", ".join(f"{value:.4f}" for value in teachers["mAP"]) if teachers else ""
    extra = f" The teachers: {single}, together {teachers['ensemble_mAP']:.4f}." if teachers else ""
    return markdown(["seed"], [name.replace("_", " ") for name in names], rows) + (
        f"\n\n{content['title']}, {content['settings']['clips']:,} clips: gain in mAP "
        f"{gain['mean']:+.4f}, standard deviation {gain['stdev']:.4f}.{extra} {machine['date']}, "
        f"commit {machine['commit']}."
    )


def packing(content: dict[str, Any]) -> str:
    """Ways of packing, then the steps of it."""
    rows = [[name, f"{ms:.2f}"] for name, ms in content["stages_ms"].items()]
    steps_of_a_clip = markdown(["step, in one thread"], ["ms a clip"], rows)
    return f"{speeds(content)}\n\n{steps_of_a_clip}"


def many(content: dict[str, Any]) -> str:
    """Jobs on many clips: their time and memory."""
    numbers = {
        "s": "elapsed_s:,.2f",
        "clips/s": "clips_per_s:,.0f",
        "MiB": "main_mib:,.0f",
        "MiB of a worker": "worker_mib:,.0f",
        "spread": "spread:.0%",
    }
    rows = [[r["name"], *_formatted(numbers, r)] for r in content["results"]]
    return markdown([""], list(numbers), rows) + f"\n\n{content['title']}. {_conditions(content)}"


def tagging(content: dict[str, Any]) -> str:
    """Networks by runtimes, as times real time."""
    columns = {
        "times real time": "times_real_time:,.0f",
        "MiB": "mebibytes:.1f",
        "speed-up": "speed_up:.2f",
        "spread": "spread:.0%",
    }
    rows = [[r["level"], r["name"], *_formatted(columns, r)] for r in content["results"]]
    table = markdown(["network", ""], list(columns), rows)
    return f"{table}\n\n{content['title']}. {_conditions(content)}"


def coverages(content: dict[str, Any]) -> str:
    """How often intervals cover the truth: a column a kind of interval."""
    kinds = list(dict.fromkeys(r["kind"] for r in content["results"]))
    rows = []
    for (design, name), results in groupby(
        content["results"], lambda r: (r["design"], r["measure"])
    ):
        found = {r["kind"]: f"{r['coverage']:.1%}" for r in results}
        rows.append([design, name, *(found.get(kind, "") for kind in kinds)])
    conditions = content["conditions"]
    return markdown(["evaluation sets", "of"], kinds, rows) + (
        f"\n\n{content['title']}: of {conditions['sets']:,} sets a design, with "
        f"{conditions['resamples']:,} resamples; simulated. Commit {content['machine']['commit']}."
    )


FORMS: dict[str, Callable[[dict[str, Any]], str]] = {
    "ablation_esc50": to_markdown,
    "ablation_synthetic": to_markdown,
    "demo": demo_scores,
    "bench_features": stages,
    "interval_coverage": coverages,
    "bench_order": orders,
    "bench_shard": packing,
    "bench_shard_scale_build": many,
    "bench_shard_scale_index": many,
    "bench_step": steps,
    "bench_tag": tagging,
    "gpu_features": stages,
    "gpu_step": steps,
    "model_cost": costs,
    "scale": projections,
    "study_distill": study,
    "study_enhance": study,
}
