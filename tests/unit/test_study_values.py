"""The studies against the paper: the tables agree with one another, and rows are what they say."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from psla_wds.evaluation.metrics import d_prime
from psla_wds.models.config import ModelConfig
from train.config import TrainConfig
from train.paper_tables import Cell, Row, Study
from train.recipes import AUDIOSET_BALANCED, AUDIOSET_FULL, DEMO, FSD50K
from train.studies import STUDIES, training_size
from train.studies_scored import BALANCED_ALL, FULL_ALL, ORIGINAL, SCRATCH
from train.study_commands import Commands, Lacking
from train.study_settings import StudyArgs
from train.variants import Variant, flags, mixup_rate

BASES = {"balanced": AUDIOSET_BALANCED, "full": AUDIOSET_FULL, "fsd50k": FSD50K}


def all_cells() -> Iterator[tuple[str, str, Row, Cell]]:
    for name, study in STUDIES.items():
        for data_set, rows in study.tables.items():
            for row in rows:
                for cell in row.cells:
                    yield name, data_set, row, cell


def settings(name: str, data_set: str) -> dict[str, TrainConfig]:
    """What the rows of a study train, by name."""
    rows = STUDIES[name].tables[data_set]
    return {
        row.name: row.cells[0].variant.config(BASES[data_set])
        for row in rows
        if row.cells[0].variant
    }


def test_what_is_measured_alike_on_one_variant_is_one_number_in_all_tables():
    found: dict[object, set[float]] = {}
    for name, data_set, _, cell in all_cells():
        # Figure 3 and table IX state single runs, the others means over seeds.
        if cell.variant and cell.paper and name != "elsewhere":
            base = BASES[data_set]
            key = (data_set, cell.variant.name(base), cell.measure, cell.field)
            found.setdefault(key, set()).add(cell.paper.value)
    assert len(found) > 60
    assert not {key: values for key, values in found.items() if len(values) > 1}


@pytest.mark.parametrize(("members", "data_set"), [(BALANCED_ALL, "balanced"), (FULL_ALL, "full")])
def test_the_models_of_each_committee_have_the_mean_that_the_paper_states(members, data_set: str):
    base = BASES[data_set]
    single = {
        cell.variant.name(base): cell.paper.value
        for name, on, _, cell in all_cells()
        if on == data_set and name != "elsewhere" and cell.variant and cell.paper
        and (cell.measure, cell.field) == ("log", "mAP")
    }  # fmt: skip
    rows = STUDIES["committees"].tables[data_set]
    assert len(members) == {"balanced": 20, "full": 10}[data_set]
    for row in rows:
        average, best, ensemble = row.cells
        assert average.paper.value < best.paper.value < ensemble.paper.value
        if average.members and not average.best:
            reached = [single[member.variant.name(base)] for member in average.members]
            assert mean(reached) == pytest.approx(average.paper.value, abs=0.001), row.name
        assert best.members == ensemble.members == average.members


def test_every_d_prime_of_the_comparison_follows_from_its_area():
    rows = [row for rows in STUDIES["comparison"].tables.values() for row in rows]
    for row in rows:
        by_column = {cell.column: cell.paper.value for cell in row.cells}
        # Both are rounded, and quoted from papers that did not round alike.
        assert d_prime(by_column["mAUC"]) == pytest.approx(by_column["d'"], abs=0.012), row.name


def test_rows_differ_from_one_another_by_what_they_are_named_after():
    rates = settings("mixup-rate", "balanced")
    assert [c.augment.mixup_rate for c in rates.values()] == [0, 0.2, 0.5, 0.8, 1]
    assert all(c.augment.mixup_alpha == 10 for c in rates.values())
    alphas = settings("mixup-alpha", "balanced")
    assert [(c.augment.mixup_alpha, c.augment.mixup_rate) for c in alphas.values()] == [
        (10, 0), (0.1, 0.5), (1, 0.5), (10, 0.5), (1, 1),
    ]  # fmt: skip
    steps = settings("sampling", "full")
    assert [c.sampler.sampling for c in steps.values()] == ["shuffle", *["balanced"] * 3]
    assert [c.augment.freq_mask for c in steps.values()] == [0, 0, 48, 48]
    assert [c.augment.mixup_rate for c in steps.values()] == [0, 0, 0, 0.5]
    begun = settings("pretraining", "balanced")
    assert [c.model.initial_weights for c in begun.values()] == ["none", "none", "imagenet"]
    assert [c.epochs for c in begun.values()] == [60, 120, 60]
    networks = [c.model for c in settings("backbones", "full").values()]
    assert networks[4] == ModelConfig(initial_weights="none")


def test_an_ablation_takes_away_one_part_at_a_time():
    for name, data_set in (("ablation", "full"), ("fsd50k", "fsd50k")):
        whole, *rows = STUDIES[name].tables[data_set]
        base = BASES[data_set]
        for row in rows[:-2]:
            variant = row.cells[0].variant
            changed = variant.labels != whole.cells[0].variant.labels
            assert len(variant.changes) + changed == 1 and row.cells[0].unlike is not None
            assert variant.name(base) != whole.cells[0].variant.name(base), row.name
    assert all("sampling" not in row.name for row in STUDIES["ablation"].tables["balanced"])


def test_subsets_have_the_schedule_of_their_size():
    begun = {
        c.subset: c.optimizer.decay_after_epochs for c in settings("training-size", "full").values()
    }
    assert begun == {
        100_000: (20, 25), 200_000: (15, 20, 25), 300_000: (10, 15, 20, 25),
        500_000: (10, 15, 20, 25), None: (10, 15, 20, 25),
    }  # fmt: skip
    own: Study = training_size([30, 60])
    assert [row.cells[0].paper for row in own.tables["full"]][:4] == [None] * 4


def test_variants_that_do_the_same_have_one_name_and_others_have_their_own():
    assert SCRATCH.name(AUDIOSET_BALANCED) == "no-mixup-no-masking-no-pretraining"
    assert SCRATCH.name(AUDIOSET_FULL) == "no-mixup-no-masking-no-sampling-no-pretraining"
    assert ORIGINAL.but(mixup_rate(0.5)).name(AUDIOSET_FULL) == "recipe"
    for data_set, base in BASES.items():
        named: dict[str, object] = {}
        for _, on, _, cell in all_cells():
            if on == data_set and cell.variant:
                made = (cell.variant.config(base), cell.variant.labels)
                assert named.setdefault(cell.variant.name(base), made) == made
        made = [repr(value) for value in named.values()]
        assert len(set(made)) == len(made)


def test_the_options_of_a_variant_make_it_of_the_base(tmp_path: Path):
    """As train/main.py reads them; one variant with all kinds of values."""
    import json

    from psla_wds.config import to_json
    from train.main import parse

    variant = next(
        cell.variant for *_, row, cell in all_cells() if row.name.startswith("MobileNetV2")
    )
    size = training_size([30]).tables["full"][0].cells[0].variant
    base = replace(DEMO, index=("a:train", "b"), eval_index=("c",))
    config = Variant(size.changes + variant.changes).config(base)
    (tmp_path / "base.json").write_text(json.dumps(to_json(base)))
    assert parse([str(tmp_path / "base.json"), *flags(config, base)]) == config
    assert config.subset == 30 and config.model.backbone == "mobilenet-v2"


def commands(**options: object) -> Commands:
    base = options.pop("base", AUDIOSET_BALANCED)
    args = StudyArgs(name="ablation", work=Path("w"), **options)
    return Commands(args, replace(base, index=("train",), eval_index=("eval",)))


@pytest.mark.parametrize(
    ("base", "options", "first"),
    [
        (AUDIOSET_BALANCED, {}, 41),
        (AUDIOSET_FULL, {"set": "full"}, 16),
        (FSD50K, {"name": "fsd50k"}, 21),
        (DEMO, {}, 5),  # after the second decay
        (replace(DEMO, epochs=3), {}, 2),  # there is no second one
        (replace(DEMO, epochs=5), {}, 4),  # after the second decay is the last
        (replace(DEMO, epochs=1), {}, 1),
        (AUDIOSET_FULL, {"set": "full", "average_from": 11}, 11),
    ],
)
def test_weights_are_averaged_over_the_epochs_of_the_paper(base, options, first: int):
    args = StudyArgs(**{"name": "ablation", "work": Path("w"), **options})
    assert Commands(args, base).averaged == (first, base.epochs)


def test_without_an_ontology_labels_are_those_annotated_and_it_is_told():
    enhanced = STUDIES["ablation"].tables["balanced"][0].cells[0].variant
    lacking, having = commands(), commands(ontology=Path("o.json"))
    assert lacking.config(enhanced, 0).labels is None
    assert lacking.name(enhanced) == lacking.name(ORIGINAL) == "recipe"
    assert "no --ontology" in lacking.notes(enhanced)[0]
    assert having.notes(enhanced) == ()
    assert str(having.config(enhanced, 2).labels) == "w/labels/train-both-mean"
    chain = [step.module for step in having.train(enhanced, 2).with_all_before()]
    assert chain == ["train.main", "eval.predict", "eval.enhance", "train.main"]
    taught = commands(ontology=Path("o.json"), teacher=Path("t.pt"))
    chain = [step.module for step in taught.train(enhanced, 2).with_all_before()]
    assert chain == ["eval.predict", "eval.enhance", "train.main"]


def test_imagenet_weights_that_are_not_there_are_a_gap(tmp_path: Path):
    other = STUDIES["backbones"].tables["balanced"][0].cells[1].variant
    assert commands().config(other, 0).model.initial_weights == "imagenet"
    with pytest.raises(
        Lacking, match=r"no ImageNet weights of mobilenet-v2 .*mobilenet_v2-b0353104"
    ):
        commands(imagenet=str(tmp_path)).config(other, 0)
    (tmp_path / "mobilenet_v2-b0353104.pth").touch()
    found = commands(imagenet=str(tmp_path)).config(other, 0).model.initial_weights
    assert found == str(tmp_path / "mobilenet_v2-b0353104.pth")
    file = replace(AUDIOSET_BALANCED, model=ModelConfig(initial_weights="b2.pth"))
    with pytest.raises(Lacking, match="no weights of mobilenet-v2"):
        commands(base=file).config(other, 0)


def test_committees_of_other_models_have_other_files():
    made = commands(ontology=Path("o.json"), base=AUDIOSET_FULL)
    found: dict[Path, object] = {}
    for _, data_set, _, cell in all_cells():
        if cell.members and data_set == "balanced":
            made_of = (cell.members, cell.best)
            assert found.setdefault(made.committee(cell).done, made_of) == made_of
    assert len(found) == 8
    labels = next(r for r in STUDIES["committees"].tables["balanced"] if r.name == "labels")
    with pytest.raises(Lacking, match="several of its models are the same here: recipe"):
        commands().committee(labels.cells[0])


def test_other_clips_and_labels_are_scored_by_the_commands_for_them():
    variant = ORIGINAL
    with pytest.raises(Lacking, match="there is no --esc50-index"):
        commands().elsewhere(variant, 0, "esc50")
    made = commands(ontology=Path("o.json"), esc50_index=("esc",))
    train, predict, score = made.elsewhere(variant, 0, "esc50").with_all_before()
    assert (train.module, predict.module, score.module) == (
        "train.main", "eval.predict", "eval.score",
    )  # fmt: skip
    folder = "w/runs/recipe/seed-0"
    assert predict.words == (
        folder,
        "--index=esc",
        "--other-classes",
        f"--output={folder}/esc50.npz",
    )
    assert score.words == (
        f"{folder}/esc50.npz", "--index=esc", "--mapping=esc50", f"--output={folder}/esc50",
    )  # fmt: skip
    score = made.elsewhere(variant, 0, "labels-both-25")
    assert score.words == (
        f"{folder}/last.npz", "--index=eval", "--labels=w/labels/eval-both-25",
        f"--output={folder}/last-labels-both-25",
    )  # fmt: skip
    _, overlay = score.after
    assert "--index=eval" in overlay.words and "--threshold=25" in overlay.words
