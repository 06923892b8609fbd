"""The tables of paper.toml: rows train what they are named after, and the numbers agree."""

import shlex
from pathlib import Path
from statistics import mean

import pytest
import tyro

from eval.enhance import Args as EnhanceArgs
from psla_wds.evaluation.metrics import d_prime
from train.config import TrainConfig
from train.recipes import RECIPES
from train.study.paper import LABELS, SETS, STUDIES, Cell, data_sets, table
from train.study.settings import StudyArgs
from train.study.steps import Model, Steps

BASES = {name: RECIPES[paper["recipe"]][1] for name, paper in SETS.items()}
STUDY = {"balanced": "ablation", "full": "ablation", "fsd50k": "fsd50k", "esc50": "ablation"}
STEPS = {
    name: Steps(StudyArgs(name=STUDY[name], set=name, ontology=Path("o.json")), base, 2_000_000)
    for name, base in BASES.items()
}


def cells_of(data_set: str) -> list[tuple[str, Cell]]:
    return [(n, c) for n in STUDIES if data_set in data_sets(n) for c in table(n, data_set)]


def models_of(data_set: str) -> dict[str, Model]:
    """All models of a set by their words."""
    cells = [cell for _, cell in cells_of(data_set)]
    words = {c.model for c in cells} | {model for c in cells for model, _ in c.members}
    return {model: STEPS[data_set].model(model) for model in words if model is not None}


def config_of(model: Model, data_set: str) -> TrainConfig:
    return tyro.cli(TrainConfig, default=BASES[data_set], args=model.flags)


def configs(study: str, data_set: str) -> list[TrainConfig]:
    models = dict.fromkeys(cell.model for cell in table(study, data_set))
    return [config_of(STEPS[data_set].model(model), data_set) for model in models]


@pytest.mark.parametrize("data_set", SETS)
def test_every_row_parses_and_each_model_has_a_name(data_set: str):
    models = set(models_of(data_set).values())
    made = {m.name: (repr(config_of(m, data_set)), m.labels) for m in models}
    assert len(set(made.values())) == len(made) == len(models)
    assert all(model.notes == () for model in models)


@pytest.mark.parametrize("word", LABELS)
def test_the_flags_of_labels_parse(word: str):
    flags = [*shlex.split(LABELS[word]), "--index=s", "--ontology=o", "--output=none"]
    args = tyro.cli(EnhanceArgs, args=["scores", *flags])
    assert word == f"labels-{args.type}-{args.threshold}".removesuffix(".0")


def test_rows_differ_by_what_they_are_named_after():
    rates = configs("mixup-rate", "balanced")
    assert [c.augment.mixup_rate for c in rates] == [0, 0.2, 0.5, 0.8, 1]
    alphas = configs("mixup-alpha", "balanced")
    assert [c.augment.mixup_alpha for c in alphas] == [10, 0.1, 1, 10, 1]
    steps = [(c.sampler.sampling, c.augment.freq_mask) for c in configs("sampling", "full")]
    assert steps == [("shuffle", 0), ("balanced", 0), ("balanced", 48), ("balanced", 48)]
    begun = [(c.model.initial_weights, c.epochs) for c in configs("pretraining", "balanced")]
    assert begun == [("none", 60), ("none", 120), ("imagenet", 60)]
    sizes = {c.subset: c.optimizer.decay_after_epochs[0] for c in configs("training-size", "full")}
    assert sizes == {100_000: 20, 200_000: 15, 300_000: 10, 500_000: 10, None: 10}
    own = table("training-size", "full", [30, 60])
    assert own[1].model == "plain subset-30"
    assert [cell.paper for cell in own] == [None] * 4 + [0.3723, 0.3939]


def test_one_measurement_has_one_number_in_all_tables():
    found: dict[object, set[float]] = {}
    for data_set, steps in STEPS.items():
        for study, cell in cells_of(data_set):
            if study != "elsewhere" and cell.model is not None:  # it states single runs, not means
                key = data_set, steps.model(cell.model).name, cell.source, cell.field
                found.setdefault(key, set()).add(cell.paper)
    assert len(found) > 60
    assert not {key: values for key, values in found.items() if len(values) > 1}


@pytest.mark.parametrize(("data_set", "size"), [("balanced", 20), ("full", 10)])
def test_committees_have_the_mean_that_the_paper_states(data_set: str, size: int):
    models, cells = models_of(data_set), [c for _, c in cells_of(data_set)]
    alone = [c for c in cells if c.model is not None and (c.source, c.field) == ("log", "mAP")]
    single = {models[cell.model].name: cell.paper for cell in alone}
    averages = [c for c in cells if c.members and c.field == "average" and not c.best]
    assert len(averages[-1].members) == size
    for cell in averages:
        members = [single[models[model].name] for model, _ in cell.members]
        assert mean(members) == pytest.approx(cell.paper, abs=0.001), cell.row


@pytest.mark.parametrize("data_set", ["balanced", "full"])
def test_every_d_prime_follows_from_its_area(data_set: str):
    cells = {(cell.row, cell.column): cell.paper for cell in table("comparison", data_set)}
    for row in {row for row, _ in cells}:  # both are rounded, by papers that did not round alike
        assert d_prime(cells[row, "mAUC"]) == pytest.approx(cells[row, "d'"], abs=0.012), row
