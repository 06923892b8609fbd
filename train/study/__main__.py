"""Run a table or figure of the PSLA paper: train and score what it compares, and make its table.

    python -m train.study list
    python -m train.study ablation --index SHARDS --eval-index SHARDS --work studies/balanced

Options of train/main.py hold for every run: --epochs 10, --augment.mixup-rate 0.3, ... A study runs
the commands that one would type, one after another. Start it again to continue where it stopped.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import tyro

from psla_wds import cli
from psla_wds.errors import PslaError
from psla_wds.shards.index_files import open_indexes
from train.recipes import RECIPES
from train.study.numbers import Number, Numbers
from train.study.paper import SETS, STUDIES, data_sets, table
from train.study.run import Runner, Step, start_process, with_all_before
from train.study.settings import PROG, StudyArgs, base_config, begin, check_begun, write
from train.study.steps import Steps
from train.study.tables import find_numbers, gather, to_text


def main(start: Callable[[Sequence[str]], int] = start_process) -> None:
    """The command; `start` runs a command of the study and returns its exit status."""
    args, words = tyro.cli(
        StudyArgs, args=sys.argv[1:], prog=PROG, description=__doc__, return_unknown_args=True
    )
    if args.name == "list":
        print(listing())
        return
    base = base_config(args, words)
    index, eval_index = open_indexes(base.index), open_indexes(base.eval_index)
    shards = {"index": index.fingerprint, "eval_index": eval_index.fingerprint}
    begun = check_begun(args, base, shards)
    steps = Steps(args, base, len(index))
    cells, numbers = table(args.name, args.data_set, args.sizes), Numbers(steps, args.seeds)
    found = find_numbers(cells, numbers)
    wanted = with_all_before(
        step for number in found.values() if isinstance(number, Number) for step in number.steps
    ).values()
    runner = Runner(args.processes or max(torch.cuda.device_count(), 1), start)
    if args.dry_run:
        _print_plan(runner, [step for step in wanted if not runner.is_done(step)])
        return
    begin(args, base, begun)
    failed = runner.run(wanted)
    conditions = _conditions(args, steps, min(base.subset or len(index), len(index)))
    about = {"title": STUDIES[args.name], "conditions": conditions, "machine": {}}
    record = about | gather(cells, numbers, found, runner.is_done)
    record["notes"].append(_note(conditions))
    folder, text = args.work / f"{args.name}-{args.data_set}", to_text(record)
    write(folder, {"table.json": json.dumps(record, indent=1, allow_nan=False), "table.md": text})
    print(text)
    if failed:
        raise PslaError(
            f"{len(failed)} steps failed, and the table has gaps: {', '.join(failed)[:400]}",
            where=folder / "table.md",
            fix="correct what their messages above report, and run the study again",
        )
    print(f"wrote {folder} (table.md, table.json); next: cat {folder / 'table.md'}")


def _print_plan(runner: Runner, missing: Sequence[Step]) -> None:
    for step in missing:
        print(runner.text(step))
    counts = ", ".join(f"{n} {name}" for name, n in Counter(s.module for s in missing).items())
    print(f"would run {len(missing)} commands: {counts or 'everything is done'}; wrote nothing")


def _conditions(args: StudyArgs, steps: Steps, num_clips: int) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "study": args.name,
        "set": args.data_set,
        "recipe": args.base or SETS[args.data_set]["recipe"],
        "clips": num_clips,
        "epochs": steps.base.epochs,
        "seeds": args.seeds,
        "averaged": "{} to {}".format(*steps.averaged),
        "test_index": " ".join(steps.test_index),
    }


def _note(conditions: dict[str, Any]) -> str:
    return (
        "Ours: recipe {recipe}, {clips:,} clips; epochs: {epochs}, weights averaged over {averaged}"
        "; seeds: {seeds}; scored on {test_index}. The paper's numbers are of all its clips: with "
        "other clips or another recipe, compare rows within a column, not the columns."
    ).format(**conditions)


def listing() -> str:
    """The studies, their sets, and the recipes that they can start from."""
    lines = [f"{'study':<16}{'sets':<18}of the paper"]
    lines += [
        f"{name:<16}{', '.join(data_sets(name)):<18}{title}" for name, title in STUDIES.items()
    ]
    return "\n".join([*lines, f"recipes for --base: {', '.join(RECIPES)}"])


if __name__ == "__main__":
    cli.run(main)
