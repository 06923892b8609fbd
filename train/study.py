"""Run a table or figure of the PSLA paper: what it compares is trained, scored and tabled.

    python -m train.study list
    python -m train.study ablation --index SHARDS --eval-index SHARDS --work studies/balanced

All other options of train/main.py are taken too, and hold for every run: --epochs 10,
--augment.mixup-rate 0.3, ... Runs are the commands that one would type, one after another; a study
that was stopped goes on where it was, and what is done is not done again.
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from psla_wds import cli
from psla_wds.config import to_json
from psla_wds.errors import PslaError
from psla_wds.io.atomic_files import atomic_open, disk_errors
from psla_wds.runtime.array_tasks import parse_task
from psla_wds.shards.index_files import open_indexes
from train.paper_tables import Row
from train.recipes import RECIPES
from train.studies import STUDIES
from train.study_commands import Commands, Lacking, Step
from train.study_costs import costs
from train.study_costs import to_text as costs_to_text
from train.study_engine import Engine, check_runs, start_process
from train.study_results import Results
from train.study_settings import PAPER_SETS, StudyArgs, base_config, begin, check_begun
from train.study_tables import gather, to_markdown, to_text

logger = logging.getLogger("study")

PROG = "python -m train.study"


def main(start: Callable[[Sequence[str]], tuple[int, str]] = start_process) -> None:
    """The command; `start` runs a command of the study."""
    args, words = tyro.cli(
        StudyArgs, args=sys.argv[1:], prog=PROG, description=__doc__, return_unknown_args=True
    )
    if args.name == "list":
        print(listing())
        return
    rows, base = args.study.tables[args.data_set], base_config(args, words)
    task = parse_task(args.task) if args.task else None
    check_begun(args, base)
    commands = Commands(args, base)
    results = Results(commands, args.seeds)
    engine = Engine(args.work, commands.processes, start)
    steps = all_steps(rows, results)
    eval_index = open_indexes(base.eval_index)
    check_runs(steps, commands.index, eval_index)
    _tell_plan(args, commands, engine, steps, len(eval_index))
    if args.dry_run:
        print("\n".join(engine.text(step) for step in steps if not engine.state(step).done))
        print(f"wrote nothing to {args.work}; next: the same command without --dry-run")
        return
    begin(args, base)
    failed = engine.run(steps, task)
    record = gather(args.study, rows, results, engine.state) | _about(args, commands)
    _finish(args, record, failed)


def _finish(args: StudyArgs, record: dict[str, Any], failed: int) -> None:
    """Write the table and show it; an error if commands failed."""
    folder = write(record, args.work / f"{args.name}-{args.data_set}")
    print(to_text(record))
    if failed:
        raise PslaError(
            f"{failed} commands failed, and the table {folder / 'table.md'} has gaps",
            where=args.work / "failed",
            fix="mend what stands there, and run the study again: what is done is kept",
        )
    has_gaps = any(cell["gaps"] for row in record["rows"] for cell in row["cells"].values())
    what_next = f"cat {folder / 'table.md'}"
    if args.task and has_gaps:
        what_next = "the same command without --task, once all tasks are done"
    print(f"wrote {folder} (table.txt, table.md, table.json); next: {what_next}")


def all_steps(rows: Sequence[Row], results: Results) -> list[Step]:
    """The commands of a table, each once, in an order that does."""
    found: dict[str, Step] = {}
    for row in rows:
        for cell in row.cells:
            for seed in results.seeds(cell):
                try:
                    found |= {step.name: step for step in results.steps(cell, seed)}
                except Lacking:
                    continue  # the table says so
    return list(found.values())


def _tell_plan(
    args: StudyArgs, commands: Commands, engine: Engine, steps: list[Step], num_evaluated: int
) -> None:
    found = costs(steps, engine, commands, args)
    others = sum(1 for step in steps if not step.config and not engine.state(step).done)
    print(costs_to_text(found, commands, num_evaluated, others), file=sys.stderr)


def _about(args: StudyArgs, commands: Commands) -> dict[str, Any]:
    """What the numbers are of, for the record and below the table."""
    base = commands.base
    recipe = PAPER_SETS[args.data_set].recipe
    clips = min(base.subset or len(commands.index), len(commands.index))
    note = f"Ours: recipe {args.base or recipe}, {clips:,} clips; epochs: {base.epochs}, seeds: "
    note += f"{args.seeds}; scored on {' '.join(commands.test_index)}."
    if args.base not in (None, recipe):
        note += (
            " The paper's numbers are of other clips and another recipe: compare rows of one "
            "column, and not the columns."
        )
    return {
        "study": args.name,
        "set": args.data_set,
        "base": args.base or recipe,
        "index": list(base.index),
        "test_index": list(commands.test_index),
        "clips": clips,
        "epochs": base.epochs,
        "num_seeds": args.seeds,
        "notes": [note],
        "config": to_json(base),
    }


def write(record: dict[str, Any], folder: Path) -> Path:
    """The table as a record, as text and in Markdown."""
    texts = {
        "table.json": json.dumps(record, indent=1, ensure_ascii=False) + "\n",
        "table.txt": to_text(record),
        "table.md": to_markdown(record) + "\n",
    }
    with disk_errors(folder, "write the table"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with atomic_open(folder / name, "w", shared=True) as file:
                file.write(text)
    return folder


def listing() -> str:
    """What there is to study."""
    lines = [f"{'study':<16}{'sets':<18}of the paper"]
    lines += [
        f"{name:<16}{', '.join(study.tables):<18}{study.title}" for name, study in STUDIES.items()
    ]
    return "\n".join([*lines, f"recipes for --base: {', '.join(RECIPES)}"])


if __name__ == "__main__":
    cli.run(main)
