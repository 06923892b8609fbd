"""Studies of what is made of runs: labels, averages, committees (PSLA tables VIII to XI, XV).

Of committees the paper says how many models they have, not which. Those here have the mean mAP that
it states, to 0.001 (tests/unit/test_study_values.py).
"""

from dataclasses import replace
from itertools import product

from train.paper_tables import Cell, Measure, Member, Reached, Row, Study
from train.variants import (
    MEAN,
    NO_MASKING,
    NO_MIXUP,
    NO_PRETRAINING,
    NO_SAMPLING,
    Enhancement,
    Variant,
    mixup_alpha,
    mixup_rate,
)

ORIGINAL = Variant()
"""Everything but label enhancement: the paper's method on the full set."""
ENHANCED = Variant(labels=MEAN)
MASKED = ORIGINAL.but(NO_MIXUP)
SAMPLED = MASKED.but(NO_MASKING)
PLAIN = SAMPLED.but(NO_SAMPLING)
"""ImageNet's weights, and nothing else of the method."""
SCRATCH = PLAIN.but(NO_PRETRAINING)
"""Nothing of the method: table II."""

TYPE_I, TYPE_II = Enhancement("I"), Enhancement("II")
ENHANCEMENTS = (("type I", TYPE_I), ("type II", TYPE_II), ("both types", MEAN))


def _enhanced(name: str, labels: Enhancement, numbers: tuple[float, ...], spread: float) -> Row:
    """A row of table VIII; its gains are relative to the labels as annotated."""
    found: tuple[tuple[str, Measure, str], ...] = (
        ("classes impacted", "labels", "impacted_classes"),
        ("labels added", "labels", "labels_added_share"),
        ("gain of those", "class gain", "impacted"),
        ("of the others", "class gain", "others"),
        ("of all classes", "class gain", "all"),
    )
    variant = ORIGINAL.enhanced(labels)
    *counted, mean = numbers
    cells = [
        Cell(column=column, variant=variant, measure=measure, field=field, paper=Reached(number))
        for (column, measure, field), number in zip(found, counted, strict=True)
    ]
    cells.append(Cell(variant=variant, paper=Reached(mean, spread)))
    return Row(name, tuple(replace(cell, unlike=ORIGINAL) for cell in cells))


ENHANCEMENT = Study(
    "Table VIII: label enhancement, the mean score as the threshold",
    {
        "balanced": (
            Row("labels as annotated", (Cell(variant=ORIGINAL, paper=Reached(0.3108, 0.0013)),)),
            _enhanced("type I", TYPE_I, (212.0, 0.037, 0.045, 0.019, 0.030, 0.3166), 0.0016),
            _enhanced("type II", TYPE_II, (93.0, 0.039, 0.038, 0.021, 0.024, 0.3156), 0.0007),
            _enhanced("both types", MEAN, (274.0, 0.072, 0.045, 0.013, 0.029, 0.3162), 0.0005),
        ),
        "full": (
            Row("labels as annotated", (Cell(variant=ORIGINAL, paper=Reached(0.4397, 0.0007)),)),
            *(
                Row(
                    name,
                    (
                        Cell(
                            variant=ORIGINAL.enhanced(labels),
                            paper=Reached(mean),
                            unlike=ORIGINAL,
                        ),
                    ),
                )
                for (name, labels), mean in zip(ENHANCEMENTS, (0.44, 0.4387, 0.4386), strict=True)
            ),
        ),
    },
)

THRESHOLDS = ("mean", "25", "10", "5")
EVALUATED_ON = {  # column: the field of its cells
    "ESC-50": "esc50",
    "FSD50K": "fsd50k",
    "as annotated": "annotated",
    **{f"labels {threshold}": f"labels-both-{threshold}" for threshold in THRESHOLDS},
}


def _elsewhere(rows: tuple[tuple[float, ...], ...]) -> tuple[Row, ...]:
    """Rows of table IX: labels added in training, and mAP by what is evaluated on."""
    table = []
    for threshold, (share, *means) in zip((None, *THRESHOLDS), rows, strict=True):
        labels = Enhancement(threshold=threshold) if threshold else None
        unlike = ORIGINAL if labels else None
        variant = ORIGINAL.enhanced(labels)
        found = [
            Cell(column=column, measure="elsewhere", field=field, paper=Reached(mean))
            for (column, field), mean in zip(EVALUATED_ON.items(), means, strict=True)
        ]
        if labels:
            field = "labels_added_share"
            added = Cell(column="labels added", measure="labels", field=field, paper=Reached(share))
            found.insert(0, added)
        found = [replace(cell, variant=variant, unlike=unlike) for cell in found]
        table.append(Row(f"trained on labels {threshold or 'as annotated'}", tuple(found)))
    return tuple(table)


# The paper does not say whether ESC-50's column is mAP or accuracy; here it is mAP.
ELSEWHERE = Study(
    "Table IX: label enhancement by threshold, on other clips and labels",
    {
        "balanced": _elsewhere(
            (
                (0.0, 0.7320, 0.3443, 0.3123, 0.3485, 0.3632, 0.3540, 0.3417),
                (0.072, 0.7573, 0.3549, 0.3162, 0.3591, 0.3739, 0.3630, 0.3500),
                (0.228, 0.7639, 0.3680, 0.3165, 0.3632, 0.3855, 0.3760, 0.3628),
                (0.445, 0.7551, 0.3639, 0.3078, 0.3527, 0.3840, 0.3811, 0.3699),
                (0.602, 0.7548, 0.3766, 0.3078, 0.3518, 0.3862, 0.3880, 0.3790),
            )
        ),
        "full": _elsewhere(
            (
                (0.0, 0.8587, 0.4977, 0.4397, 0.5053, 0.5143, 0.4930, 0.4723),
                (0.111, 0.8772, 0.5079, 0.4386, 0.5075, 0.5190, 0.4977, 0.4769),
                (0.373, 0.8736, 0.5097, 0.4296, 0.4999, 0.5267, 0.5093, 0.4891),
                (0.777, 0.8608, 0.5078, 0.4094, 0.4752, 0.5178, 0.5121, 0.4969),
                (1.119, 0.8534, 0.4988, 0.3936, 0.4560, 0.5047, 0.5088, 0.4987),
            )
        ),
    },
)


def _averaging(base: Variant, *found: tuple[str, Measure, Reached]) -> tuple[Row, ...]:
    return tuple(
        Row(name, (Cell(variant=base, measure=measure, paper=paper),))
        for name, measure, paper in found
    )


AVERAGING = Study(
    "Table X and figure 8: averages over epochs",
    {
        "balanced": _averaging(
            ENHANCED,
            ("single epochs", "log", Reached(0.3162, 0.0005)),
            ("mean of weights", "average", Reached(0.3192, 0.0015)),
            ("mean of scores", "checkpoints", Reached(0.3280)),
        ),
        "full": _averaging(
            ORIGINAL,
            ("single epochs", "log", Reached(0.4397, 0.0007)),
            ("mean of weights", "average", Reached(0.4435, 0.0008)),
            ("mean of scores", "checkpoints", Reached(0.4518)),
        ),
    },
)


def _committee(
    name: str, members: tuple[Member, ...], reached: tuple[float, ...], best: int | None = None
) -> Row:
    """A row of table XI: mean and best mAP of the models, and the mAP of their mean scores."""
    found = zip((("average", "average"), ("best", "best"), ("ensemble", "mAP")), reached,
                strict=True)  # fmt: skip
    return Row(
        name,
        tuple(
            Cell(column=column, measure="committee", field=field, paper=Reached(number),
                 members=members, best=best)
            for (column, field), number in found
        ),
    )  # fmt: skip


def _members(*variants: Variant, seeds: int = 1) -> tuple[Member, ...]:
    return tuple(Member(variant, seed) for variant, seed in product(variants, range(seeds)))


def _epochs_row(base: Variant, reached: tuple[float, ...]) -> Row:
    """The first row of table XI: the epochs of one run."""
    fields = (("average", "average"), ("best", "best"), ("ensemble", "mAP"))
    return Row(
        "epochs of one run",
        tuple(
            Cell(column=column, variant=base, measure="checkpoints", field=field,
                 paper=Reached(number))
            for (column, field), number in zip(fields, reached, strict=True)
        ),
    )  # fmt: skip


BY_LABELS = tuple(ORIGINAL.enhanced(labels) for labels in (None, TYPE_I, TYPE_II, MEAN))
BY_RATE = (MASKED, *(ORIGINAL.but(mixup_rate(rate)) for rate in (0.2, 0.5, 0.8, 1.0)))
BY_ALPHA = tuple(ORIGINAL.but(mixup_alpha(alpha)) for alpha in (0.1, 1.0, 10.0))
BALANCED_ALL = (
    *_members(SCRATCH, PLAIN, MASKED, BY_RATE[1], *BY_RATE[3:], *BY_ALPHA[:2]),
    *_members(*BY_LABELS, seeds=3),
)
FULL_ALL = (
    *_members(SCRATCH, PLAIN, SAMPLED, MASKED, *BY_LABELS[1:]),
    *_members(ORIGINAL, seeds=3),
)

# The last epoch of each model. Top 5: the five with the highest mAP on the very clips that the
# committee is then scored on, as the paper's must have been, which has no others.
COMMITTEES = Study(
    "Table XI: committees",
    {
        "balanced": (
            _epochs_row(ENHANCED, (0.2369, 0.3169, 0.3280)),
            _committee("3 seeds", _members(ENHANCED, seeds=3), (0.3162, 0.3167, 0.3446)),
            _committee("pretraining", _members(SCRATCH, PLAIN), (0.1978, 0.2385, 0.2410)),
            _committee("mixup rates", _members(*BY_RATE), (0.3009, 0.3123, 0.3476)),
            _committee("mixup alphas", _members(*BY_ALPHA), (0.3071, 0.3123, 0.3418)),
            _committee("augmentation", _members(PLAIN, MASKED, ORIGINAL), (0.2775, 0.3123, 0.3281)),
            _committee("labels", _members(*BY_LABELS), (0.3146, 0.3169, 0.3503)),
            _committee("best 5", BALANCED_ALL, (0.3168, 0.3180, 0.3527), best=5),
            _committee("all 20", BALANCED_ALL, (0.2987, 0.3180, 0.3620)),
        ),
        "full": (
            _epochs_row(ORIGINAL, (0.4236, 0.4406, 0.4518)),
            _committee("3 seeds", _members(ORIGINAL, seeds=3), (0.4397, 0.4405, 0.4641)),
            _committee("pretraining", _members(SCRATCH, PLAIN), (0.3831, 0.3939, 0.4006)),
            _committee(
                "augmentation",
                _members(PLAIN, SAMPLED, MASKED, ORIGINAL),
                (0.4080, 0.4396, 0.4578),
            ),
            _committee("labels", _members(*BY_LABELS), (0.4397, 0.4400, 0.4653)),
            _committee("best 5", FULL_ALL, (0.4396, 0.4405, 0.4690), best=5),
            _committee("all 10", FULL_ALL, (0.4201, 0.4405, 0.4744)),
        ),
    },
)


def _metrics(name: str, cell: Cell, *reached: Reached | None) -> Row:
    columns = (("mAP", "mAP"), ("mAUC", "mAUC"), ("d'", "d_prime"))
    return Row(
        name,
        tuple(
            replace(cell, column=column, field=field, paper=number)
            for (column, field), number in zip(columns, reached, strict=True)
            if number
        ),
    )


def _quoted(name: str, *reached: float | None) -> Row:
    """Of others, as the paper quotes them."""
    return _metrics(name, Cell(), *(Reached(value) if value else None for value in reached))


COMPARISON = Study(
    "Table XV: against what was published before",
    {
        "balanced": (
            _quoted("Wu, small, 2.6M parameters", None, 0.916, 1.950),
            _quoted("Kumar", 0.213, 0.927, 2.056),
            _quoted("Wu, best, 56M", None, 0.927, 2.056),
            _quoted("Kong 2019", 0.274, 0.949, 2.316),
            _quoted("PANNs, 81M", 0.278, 0.905, 1.853),
            _metrics("without PSLA", Cell(variant=SCRATCH),
                     Reached(0.1570), Reached(0.9108), Reached(1.903)),
            _metrics("PSLA, one model", Cell(variant=ENHANCED, measure="average"),
                     Reached(0.3192, 0.0015), Reached(0.9534, 0.0005), Reached(2.374, 0.007)),
            _metrics("PSLA, best 5", Cell(measure="committee", members=BALANCED_ALL, best=5),
                     Reached(0.3527), Reached(0.9602), Reached(2.479)),
            _metrics("PSLA, all 20", Cell(measure="committee", members=BALANCED_ALL),
                     Reached(0.3620), Reached(0.9638), Reached(2.541)),
        ),
        "full": (
            _quoted("AudioSet's authors", 0.314, 0.959, 2.452),
            _quoted("Kong 2018", 0.327, 0.965, 2.558),
            _quoted("Yu", 0.360, 0.970, 2.660),
            _quoted("TALNet", 0.362, 0.965, 2.554),
            _quoted("Kong 2019", 0.369, 0.969, 2.639),
            _quoted("DeepRes, 26M parameters", 0.392, 0.971, 2.682),
            _quoted("PANNs", 0.439, 0.973, 2.725),
            _metrics("without PSLA", Cell(variant=SCRATCH),
                     Reached(0.3723), Reached(0.9706), Reached(2.672)),
            _metrics("PSLA, one model", Cell(variant=ORIGINAL, measure="average"),
                     Reached(0.4435, 0.0008), Reached(0.9753, 0.0003), Reached(2.778, 0.007)),
            _metrics("PSLA, best 5", Cell(measure="committee", members=FULL_ALL, best=5),
                     Reached(0.4690), Reached(0.9789), Reached(2.872)),
            _metrics("PSLA, all 10", Cell(measure="committee", members=FULL_ALL),
                     Reached(0.4744), Reached(0.9810), Reached(2.936)),
        ),
    },
)  # fmt: skip
