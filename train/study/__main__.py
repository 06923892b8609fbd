"""Run a study of the PSLA paper: the rows of one of its tables.

A study trains and scores the rows of a table or figure by the commands that you would type, one
after another, and writes one table: the paper's numbers beside yours. Start it again to continue
where it stopped. All of its runs take the options of psla-wds train, such as --epochs 10 or
--augment.mixup-rate 0.3.

    psla-wds study list
    psla-wds study ablation --index SHARDS --eval-index SHARDS --work studies/balanced
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from psla_wds import cli
from psla_wds.errors import PslaError
from psla_wds.printable import typed
from train.recipes import RECIPES
from train.study.paper import SETS, STUDIES, data_sets, table
from train.study.run import Runner, Step, start_process, with_all_before
from train.study.settings import StudyArgs, base_config, begin, check_begun, write
from train.study.steps import Steps
from train.study.tables import Number, Numbers, find_numbers, gather, to_text

NOTE = (
    "Ours: recipe {recipe}, {clips:,} clips; epochs: {epochs}, weights averaged over {averaged}; "
    "seeds: {seeds}; scored on {test_index}. The paper's numbers are from all its clips: with "
    "other clips or another recipe, compare rows within a column, not the columns."
)


def main(start: Callable[[Sequence[str]], int] = start_process) -> None:
    """The command; `start` runs a command of the study and returns its exit status."""
    args, words = cli.parse(StudyArgs, __doc__, prog="study", return_unknown_args=True)
    if args.name == "list":
        print(listing())
        return
    from psla_wds.shards.index_files import open_indexes  # here: it imports numpy

    base = base_config(args, words)
    index, eval_index = open_indexes(base.index), open_indexes(base.eval_index)
    shards = {"index": index.fingerprint, "eval_index": eval_index.fingerprint}
    begun = check_begun(args, base, shards)
    steps = Steps(args, base, len(index))
    cells, numbers = table(args.name, args.data_set, args.sizes), Numbers(steps, args.seeds)
    found = find_numbers(cells, numbers)
    measured = [number for number in found.values() if isinstance(number, Number)]
    wanted = with_all_before(step for number in measured for step in number.steps).values()
    runner = Runner(args.processes, start)
    if args.dry_run:
        _print_plan(runner, [step for step in wanted if not runner.is_done(step)])
        return
    begin(args, base, begun)
    failed = runner.run(wanted)
    conditions = _conditions(args, steps, len(index))
    record = {"title": STUDIES[args.name], "conditions": conditions, "machine": {}}
    record |= gather(cells, numbers, found, runner.is_done)
    record["notes"].append(NOTE.format(**conditions))
    folder, text = args.work / f"{args.name}-{args.data_set}", to_text(record)
    write(folder, {"table.json": json.dumps(record, indent=1, allow_nan=False), "table.md": text})
    print(text)
    if failed:
        raise PslaError(
            f"{len(failed)} steps failed, and the table has gaps: {', '.join(failed)[:400]}",
            where=folder / "table.md",
            fix="correct what their messages above report, and run the study again",
        )
    print(f"wrote {folder} (table.md, table.json); next: cat {typed(folder / 'table.md')}")


def _print_plan(runner: Runner, missing: Iterable[Step]) -> None:
    commands = Counter(step.command for step in missing)
    print("".join(f"{runner.text(step)}\n" for step in missing), end="")
    counts = ", ".join(f"{number} {command}" for command, number in commands.items())
    print(f"would run {commands.total()} commands: {counts or 'all is done'}; wrote nothing")


def _conditions(args: StudyArgs, steps: Steps, num_clips: int) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "study": args.name,
        "set": args.data_set,
        "recipe": args.base or SETS[args.data_set]["recipe"],
        "clips": min(steps.base.subset or num_clips, num_clips),
        "epochs": steps.base.epochs,
        "seeds": args.seeds,
        "averaged": "{} to {}".format(*steps.averaged),
        "test_index": " ".join(steps.test_index),
    }


def listing() -> str:
    """The studies, their sets, and the recipes that they can start from."""
    lines = [f"{'study':<16}{'sets':<18}of the paper"]
    for name, title in STUDIES.items():
        lines.append(f"{name:<16}{', '.join(data_sets(name)):<18}{title}")
    return "\n".join([*lines, f"recipes for --base: {', '.join(RECIPES)}"])


if __name__ == "__main__":
    cli.run(main)
