"""How a study goes through its commands: once each, in shares, past what fails; real processes."""

import json
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from label_overlays import named_index

from psla_wds.config import read_json, to_json
from psla_wds.errors import ConfigError
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import Checkpoint, epoch_path, save_checkpoint
from psla_wds.runtime.array_tasks import parse_task
from train.config import TrainConfig
from train.paper_tables import Cell, Reached, Row, Study
from train.recipes import DEMO
from train.run.log import EpochRecord
from train.study_commands import Best, Commands, Lacking, Step
from train.study_costs import clips_of_an_epoch, costs
from train.study_engine import Engine, check_runs, start_process
from train.study_results import Results, best_models
from train.study_settings import StudyArgs, begin, check_begun
from train.study_tables import gather, to_markdown, to_text
from train.variants import MEAN, NO_MIXUP, NO_PRETRAINING, Variant, mixup_rate

CLASSES = ClassList(("/a", "/b"), ("a", "b"))


def copy(work: Path, name: str, source: Path, *after: Step, run: str | None = None) -> Step:
    """A step that copies a JSON file, by a command of the standard library."""
    done = work / f"{name}.json"
    return Step(name, "json.tool", (str(source), str(done)), done, after, run)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.json"
    path.write_text("{}")
    return path


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path, 1, start_process)


def test_what_is_done_is_not_done_again(engine: Engine, source: Path, tmp_path: Path):
    first = copy(tmp_path, "first", source)
    second = copy(tmp_path, "second", first.done, first)
    assert [engine.state(step).text for step in (first, second)] == ["not run", "not run"]
    assert engine.run([first, second]) == 0
    assert engine.state(second).done
    written = second.done.stat().st_mtime_ns
    first.done.unlink()
    assert engine.run([first, second]) == 0
    assert first.done.exists() and second.done.stat().st_mtime_ns == written


def test_a_failed_command_is_told_and_others_go_on(engine: Engine, source: Path, tmp_path: Path):
    bad = copy(tmp_path, "runs/bad", tmp_path / "nowhere.json")
    needy, other = copy(tmp_path, "needy", bad.done, bad), copy(tmp_path, "other", source)
    (tmp_path / "runs").mkdir()
    assert engine.run([bad, needy, other]) == 1
    assert other.done.exists() and not needy.done.exists()
    failure = tmp_path / "failed" / "runs--bad.txt"
    assert engine.state(bad).text.startswith("failed: ") and str(failure) in engine.state(bad).text
    assert "nowhere.json" in engine.state(bad).text and "exit status 2" in failure.read_text()
    assert engine.state(needy).text == "not run"
    (tmp_path / "nowhere.json").write_text("[]")
    assert engine.run([bad, needy, other]) == 0
    assert needy.done.exists() and not failure.exists()


def test_tasks_of_an_array_share_the_runs_and_leave_what_needs_several(
    engine: Engine, source: Path, tmp_path: Path
):
    runs = [copy(tmp_path, f"run{n}", source, run=f"run{n}") for n in range(5)]
    scored = [copy(tmp_path, f"scored{n}", r.done, r, run=r.run) for n, r in enumerate(runs)]
    needs_another = copy(tmp_path, "last", runs[0].done, runs[0], run="run3")
    committee = copy(tmp_path, "committee", scored[4].done, *scored)
    steps = [*runs, *scored, needs_another, committee]
    for number in (1, 0):  # the later one finds half of it done, and takes what it would have taken
        assert engine.run(steps, parse_task(f"{number}/2")) == 0
        made = [step.name for step in runs + scored if step.done.exists()]
        if number:
            assert made == ["run1", "run3", "scored1", "scored3"]
            assert not needs_another.done.exists()
    assert len(made) == 10 and not committee.done.exists()
    assert engine.run(steps) == 0
    assert committee.done.exists() and needs_another.done.exists()


def test_commands_are_told_as_one_would_type_them(tmp_path: Path):
    engine = Engine(tmp_path, 4, start_process)
    step = Step("a", "train.main", ("base.json", "--index=two words"), tmp_path / "a")
    assert engine.text(step) == (
        "python -m torch.distributed.run --standalone --nproc-per-node=4 -m train.main base.json "
        "'--index=two words'"
    )
    assert engine.text(replace(step, module="eval.score")).startswith("python -m eval.score ")


def test_a_signal_to_stop_reaches_the_command_and_then_ends_the_study(tmp_path: Path):
    ready = tmp_path / "ready"
    program = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(143)))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(60)"
    )

    def stop() -> None:
        while not ready.exists():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    threading.Thread(target=stop).start()
    before, began = signal.getsignal(signal.SIGTERM), time.perf_counter()
    with pytest.raises(SystemExit) as stopped:
        start_process([sys.executable, "-c", program])
    assert stopped.value.code == 128 + signal.SIGTERM and time.perf_counter() - began < 30
    assert signal.getsignal(signal.SIGTERM) == before


def write_run(
    config: TrainConfig, maps: list[float | None], classes: ClassList = CLASSES, tail: str = ""
) -> Path:
    """A run folder as training leaves it, with a checkpoint without weights."""
    folder = config.run_dir
    folder.mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    lines = []
    for epoch, value in enumerate(maps, 1):
        numbers = dict.fromkeys(EpochRecord.__dataclass_fields__, 0.5) | {"epoch": epoch, "step": 1}
        record = asdict(EpochRecord(**numbers | {"mAP": value or 0.0, "evaluated": True}))
        del record["evaluated"]
        if value is None:
            for name in ("eval_loss", "mAP", "mAUC", "d_prime"):
                del record[name]
        lines.append(json.dumps({"event": "epoch", **record}) + "\n")
        checkpoint = Checkpoint({}, config.model, config.features, classes, epoch)
        save_checkpoint(checkpoint, epoch_path(folder, epoch))
    (folder / "log.jsonl").write_text("".join(lines) + tail)
    return folder


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Commands, Results, Engine]:
    """A study of two seeds in an empty folder, on ten clips."""
    base = replace(DEMO, index=("train",), eval_index=("eval",), epochs=6, batch_size=4)
    commands = Commands(StudyArgs(name="sampling", work=tmp_path, seeds=2, processes=1), base)
    index = named_index({f"clip{n}": [n % 2] for n in range(10)}, CLASSES.mids)
    monkeypatch.setitem(commands.__dict__, "index", index)
    return commands, Results(commands, 2), Engine(tmp_path, 1, start_process)


TABLE = Study(
    "A table",
    {
        "full": (
            Row("masked", (Cell(variant=Variant().but(NO_MIXUP), paper=Reached(0.3)),)),
            Row("mixed", (Cell(variant=Variant(), paper=Reached(0.4, 0.01)),)),
            Row("quoted", (Cell(paper=Reached(0.2)),)),
        )
    },
)


def table_of(study: tuple[Commands, Results, Engine]) -> dict:
    _, results, engine = study
    return gather(TABLE, TABLE.tables["full"], results, engine.state)


def test_a_table_has_the_mean_of_the_last_five_epochs_over_seeds_and_names_its_gaps(study):
    commands, _, _ = study
    masked = Variant().but(NO_MIXUP)
    write_run(commands.config(masked, 0), [0.9, *[0.1] * 5])
    write_run(commands.config(masked, 1), [0.9, 0.1, 0.1, 0.2, 0.3, 0.3])
    write_run(
        commands.config(Variant(), 0), [0.5] * 6, tail='{"event": "epo'
    )  # cut: the rest counts
    write_run(commands.config(Variant(), 1), [0.5] * 4)
    record = table_of(study)
    first, second, quoted = (row["cells"]["mAP"] for row in record["rows"])
    assert first["ours"] == pytest.approx(0.15) and first["deviation"] == pytest.approx(
        0.0707, 1e-3
    )
    assert first["seeds"] == pytest.approx({"0": 0.1, "1": 0.2}) and first["gaps"] == {}
    assert second["ours"] == 0.5 and second["deviation"] is None
    assert second["gaps"] == {"1": "runs/recipe/seed-1: 4 of 6 epochs"}
    assert quoted["ours"] is None and quoted["gaps"] == {}
    text, markdown = to_text(record), to_markdown(record)
    assert "0.4000 ± 0.0100" in text and "0.1500 ± 0.0707" in text
    assert "0.5000 of 1 seeds (2) (1)" in markdown and "(2) runs/recipe/seed-1: 4 of 6" in markdown
    assert "(1) random initial weights" in markdown  # the demo's, where the paper's are ImageNet's
    rows = markdown.splitlines()[:5]
    assert len({line.count("|") for line in rows}) == 1
    json.dumps(record, allow_nan=False)


def test_runs_that_failed_were_cut_or_never_evaluated_are_gaps_and_no_numbers(
    study, tmp_path: Path
):
    commands, _, engine = study
    masked = Variant().but(NO_MIXUP)
    broken = write_run(commands.config(masked, 0), [0.1] * 6)
    (broken / "log.jsonl").write_text('{"event": "epo\n' + (broken / "log.jsonl").read_text())
    write_run(commands.config(masked, 1), [0.1] * 5 + [None])
    step = commands.train(Variant(), 0)
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "runs--recipe--seed-0.txt").write_text(
        "python\nerror: no room\n  fix: x"
    )
    gaps = [row["cells"]["mAP"]["gaps"] for row in table_of(study)["rows"]]
    assert not engine.state(step).done
    killed = write_run(commands.config(Variant(), 1), [0.1] * 5)  # between checkpoint and record
    shutil.copy(epoch_path(killed, 5), epoch_path(killed, 6))
    assert engine.state(commands.train(Variant(), 1)).text == "5 of 6 epochs"
    assert "this is no log record" in gaps[0]["0"] and "log.jsonl, line 1" in gaps[0]["0"]
    assert "1 epochs were not evaluated" in gaps[0]["1"]
    assert "failed: no room" in gaps[1]["0"] and gaps[1]["1"] == "runs/recipe/seed-1: not run"


def test_a_run_with_other_settings_classes_or_clips_is_refused(study):
    commands, _, _ = study
    index, masked = commands.index, Variant().but(NO_MIXUP)
    steps = [commands.train(masked, 0), commands.train(masked, 1)]
    path = write_run(commands.config(masked, 0), [0.1] * 6) / "config.json"
    check_runs(steps, index, index)
    turned = replace(index, classes=ClassList(("/b", "/a"), ("b", "a")))
    with pytest.raises(ConfigError, match="its classes are not those of the shards"):
        check_runs(steps, turned, index)
    content, known = json.loads(path.read_text()), {"eval_index_fingerprint": index.fingerprint}
    for made_with, message in (
        (known | {"index_fingerprint": "x"}, "the shards of index were others$"),
        (known | {"eval_index_fingerprint": "x"}, "the shards of eval_index were others$"),
    ):
        path.write_text(json.dumps(content | {"made_with": made_with}))
        with pytest.raises(ConfigError, match=message.replace("$", "\n")):
            check_runs(steps, index, index)
    path.write_text(json.dumps(content | {"made_with": known}))
    check_runs(steps, index, index)
    write_run(replace(commands.config(masked, 1), epochs=7, eval_index=("x",)), [0.1])
    with pytest.raises(ConfigError, match=r"eval_index was \['x'\].*epochs was 7, and would be 6"):
        check_runs(steps, index, index)


def test_the_cost_counts_the_epochs_left_at_the_speed_of_runs_that_are_there(study):
    commands, _, engine = study
    steps = [commands.train(Variant(), seed) for seed in (0, 1)]
    args = StudyArgs(name="sampling", work=commands.folder(Variant(), 0).parents[2])
    assert [cost.hours for cost in costs(steps, engine, commands, args)] == [None, None]
    write_run(commands.config(Variant(), 0), [0.1] * 4)  # at half a clip a second
    first, second = costs(steps, engine, commands, replace(args, clips_per_s=9.0))
    assert (first.epochs_left, first.clips, second.clips) == (2, 2 * 8, 6 * 8)
    assert first.hours == pytest.approx(16 / 0.5 / 3600) and first.state == "4 of 6 epochs"
    assert clips_of_an_epoch(replace(commands.base, subset=7), 10) == 4


def test_the_best_models_of_a_committee_are_chosen_by_their_scores(tmp_path: Path):
    models = []
    for name, value in (("a", 0.2), ("b", 0.9), ("c", 0.5)):
        predicted = Step(name, "eval.predict", (), tmp_path / f"{name}.npz")
        metrics = tmp_path / f"{name}.json"
        metrics.write_text(json.dumps({"mAP": value}))
        models.append(Step(f"{name}/score", "eval.score", (), metrics, (predicted,)))
    assert best_models(Best(2, tuple(models))) == [str(tmp_path / f"{n}.npz") for n in "bc"]


@pytest.mark.parametrize(
    ("variant", "why"),
    [
        (Variant().but(NO_PRETRAINING), "random initial weights"),
        (Variant(labels=MEAN), "labels as annotated"),
        (Variant().but(mixup_rate(0.25)), "the recipe does not have this part"),
    ],
)
def test_a_row_whose_part_is_missing_here_is_a_gap(study, variant: Variant, why: str):
    _, results, _ = study
    for cell in (
        Cell(variant=variant, unlike=Variant()),
        Cell(variant=Variant(), unlike=variant),
    ):
        with pytest.raises(Lacking, match=f"nothing differs from the row compared with: {why}"):
            results.steps(cell, 0)


def test_a_folder_keeps_to_the_settings_that_its_numbers_depend_on(tmp_path: Path):
    args = StudyArgs(name="sampling", work=tmp_path / "work")
    base = replace(DEMO, index=("train",), eval_index=("eval",))
    begin(args, base)
    begin(args, base)
    begin(replace(args, ontology=Path("o.json"), seeds=3), replace(base, log_every_steps=1))
    begin(args, base)  # the ontology need not be given each time
    for other, config, message in (
        (args, replace(base, seed=1), "seed was 0, now 1"),
        (replace(args, average_from=2), base, "average_from was None, now 2"),
        (replace(args, ontology=Path("p.json")), base, "ontology was o.json, now p.json"),
        (replace(args, set="full"), base, "set was balanced, now full"),
    ):
        with pytest.raises(ConfigError, match=message):
            begin(other, config)
    assert read_json(TrainConfig, tmp_path / "work" / "base.json") == base
    (tmp_path / "work" / "study.json").write_text("[")
    with pytest.raises(ConfigError, match="this cannot be read"):
        check_begun(args, base)


def test_columns_stand_in_the_order_of_the_fullest_row(study):
    _, results, engine = study
    rows = (
        Row("short", (Cell(column="mAP", paper=Reached(0.3)),)),
        Row("full", tuple(Cell(column=c, paper=Reached(0.1)) for c in ("labels added", "mAP"))),
    )
    record = gather(Study("t", {}), rows, results, engine.state)
    assert record["columns"] == ["labels added", "mAP"]
    assert to_markdown(record).startswith(
        "| | labels added, paper | labels added, ours | mAP, paper"
    )


def test_rows_are_compared_with_the_first_by_pairs_of_runs_of_one_seed():
    def cell(values: dict[str, float]) -> dict:
        filled = {"paper": None, "paper_deviation": None, "gaps": {}, "notes": []}
        mean = sum(values.values()) / len(values)
        return filled | {"ours": mean, "deviation": None, "seeds": values}

    def record(other: dict[str, float], column: str = "mAP") -> dict:
        rows = [("first", cell({"0": 0.4, "1": 0.2, "2": 0.3})), ("other", cell(other))]
        rows = [{"name": name, "cells": {column: c}} for name, c in rows]
        return {"title": "t", "columns": [column], "rows": rows}

    found = to_text(record({"2": 0.32, "1": 0.24}))  # of three pairs one is missing
    assert "0.2800 (+0.0300 ± 0.0141)" in found and "between runs of one seed" in found
    for one_pair in (record({"0": 0.5}), record({"0": 0.5, "1": 0.5}, "labels added")):
        assert "between runs of one seed" not in to_text(one_pair) and "±" not in to_text(one_pair)
