"""Compare runs, or score files, on the clips that all of them scored.

    python -m eval.compare RUN RUN ... --page COMPARISON.html

A run is a folder with its scores in it, as `make demo` leaves one: scores.npz. Prints the metrics,
what changes from the first to each other, with 95 % intervals over paired resamples of the clips,
the settings that differ, and the classes that gain and lose most. Clips that are not in all of
them, since web data shrinks, are left out, and counted.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from eval.comparison import MEANS, Change, Comparison, Model, compare
from eval.comparison_page import render
from eval.page import decimal, signed_decimal, without_nan
from psla_wds import cli
from psla_wds.errors import ConfigError
from psla_wds.io.atomic_files import atomic_open, disk_errors

NUM_EXTREMES = 5


@dataclass(frozen=True)
class Args:
    runs: Positional[tuple[Path, ...]]
    """Folders of runs with their scores.npz, or score files; the first is what the others are
    compared with."""
    output: Path | None = None
    """JSON file to write the comparison to."""
    page: Path | None = None
    """HTML page to write."""
    bootstrap: int = 1000
    """Resamples of the clips for the intervals; 0 for none."""

    def __post_init__(self) -> None:
        if 0 < self.bootstrap < 20 or self.bootstrap < 0:
            raise ConfigError(
                "so few resamples say nothing",
                where="--bootstrap",
                fix="set it to 1000, or to 0 for no intervals",
            )


def to_json(found: Comparison) -> dict[str, Any]:
    """What is not defined is null."""
    return {
        "common_clips": found.common_clips,
        "resamples": found.resamples,
        "models": [_model_json(model) for model in found.models],
        "class_AP_correlation": [without_nan(asdict(c.correlation)) for c in found.changes],
        "changes": [_change_json(change) for change in found.changes],
        "settings": found.settings,
        "classes": [_class_json(found, k) for k in range(len(found.mids))],
    }


def _model_json(model: Model) -> dict[str, Any]:
    means = {f"{name}_common": getattr(model.metrics, name) for name in MEANS}
    record = {"clips": model.clips, "mAP": model.mAP_of_all, **means}
    described = {"name": model.candidate.name, "scores": str(model.candidate.scores)}
    described |= {"weights": str(model.scored)} if model.scored else {}
    intervals = model.intervals and {
        name: without_nan(asdict(getattr(model.intervals, name))) for name in MEANS
    }
    return described | without_nan(record) | ({"intervals_95": intervals} if intervals else {})


def _change_json(change: Change) -> dict[str, Any]:
    return {
        name: without_nan(
            {"change": value} | (asdict(change.bounds[name]) if change.bounds else {})
        )
        for name, value in change.means.items()
    }


def _class_json(found: Comparison, k: int) -> dict[str, Any]:
    positives = int(found.models[0].metrics.num_positives[k])
    return {
        "mid": found.mids[k],
        "name": found.names[k],
        "positives": positives,
        "AP": _numbers(model.metrics.average_precision[k] for model in found.models),
        "change_low": _numbers(change.class_bounds[0, k] for change in found.changes),
        "change_high": _numbers(change.class_bounds[1, k] for change in found.changes),
    }


def _numbers(values: Any) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def to_text(found: Comparison) -> str:
    titles = ("of the common: mAP", "mAUC", "d'")
    lines = [f"{'':<32}{'clips':>9}{'mAP':>9}   {titles[0]:>18}{titles[1]:>9}{titles[2]:>9}"]
    for model in found.models:
        means = [decimal(getattr(model.metrics, name), 4) for name in MEANS]
        lines.append(
            f"{_short(model.candidate.name):<32}{model.clips:>9,}"
            f"{decimal(model.mAP_of_all, 4):>9}   {means[0]:>18}{means[1]:>9}{means[2]:>9}"
        )
    lines.append(f"{found.common_clips:,} clips are common to all")
    first = found.models[0].candidate.name
    for model, change in zip(found.models[1:], found.changes, strict=True):
        lines += ["", f"from {first} to {model.candidate.name}:"]
        lines += [f"  {name:<8}{_change_text(change, name)}" for name in MEANS]
        correlation = change.correlation
        lines.append(
            f"  class AP of both: correlation {decimal(correlation.pearson, 4)}, of ranks "
            f"{decimal(correlation.spearman, 4)}, {correlation.classes} classes"
        )
        lines += _extremes_text(found, change)
    return "\n".join([*lines, *_settings_text(found)])


def _change_text(change: Change, name: str) -> str:
    text = f"{signed_decimal(change.means[name], 4):>9}"
    if name not in change.bounds:
        return text
    ends = change.bounds[name]
    clear = "" if change.is_clear(name) else ", which may be chance"
    return f"{text}   95 %: {signed_decimal(ends.low, 4)} to {signed_decimal(ends.high, 4)}{clear}"


def _extremes_text(found: Comparison, change: Change) -> list[str]:
    """The classes that gain and lose most."""
    order = np.argsort(-change.class_AP, kind="stable")
    order = order[np.isfinite(change.class_AP[order])]
    gains = [k for k in order[:NUM_EXTREMES] if change.class_AP[k] > 0]
    losses = [k for k in order[::-1][:NUM_EXTREMES] if change.class_AP[k] < 0]
    return [
        f"  {what} {signed_decimal(change.class_AP[k], 4):>9}  {found.names[k]}"
        for what, chosen in (("gain", gains), ("loss", losses))
        for k in chosen
    ]


def _settings_text(found: Comparison) -> list[str]:
    if len(found.runs) < 2:
        return []
    lines = ["", f"settings that differ ({', '.join(name for name, _ in found.runs)}):"]
    lines += [f"  {name:<32}{' | '.join(values)}" for name, values in found.settings.items()]
    for name, run in found.runs:
        if run.cut:
            lines.append(f"{name}: the log ends in the middle of a line, which is left out")
        if not run.is_done:
            lines.append(f"{name} is not done: epoch {run.progress()}")
        if not run.evaluated:
            lines.append(f"{name} was not evaluated while it trained")
    return lines


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"…{name[-29:]}"


def write(found: Comparison, args: Args) -> Sequence[Path]:
    """Write what was asked for, and give its paths."""
    texts = {}
    if args.output:
        texts[args.output] = json.dumps(to_json(found), indent=1, allow_nan=False) + "\n"
    if args.page:
        texts[args.page] = render(found, [str(path) for path in args.runs])
    for path, text in texts.items():
        writing = disk_errors(path, "write the comparison", then="run the command again")
        with writing, atomic_open(path, "w") as file:
            file.write(text)
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
