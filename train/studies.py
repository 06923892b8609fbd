"""The studies of the PSLA paper (v3, TASLP 2021): what is trained, and what it reached there.

Values only; train/study.py runs them. Here stand the tables whose rows are trained differently,
and the list of all studies; train/studies_scored.py has those about what is made after training.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from train.paper_tables import Cell, DataSet, Reached, Row, Study
from train.studies_scored import (
    AVERAGING,
    COMMITTEES,
    COMPARISON,
    ELSEWHERE,
    ENHANCED,
    ENHANCEMENT,
    MASKED,
    ORIGINAL,
    PLAIN,
    SAMPLED,
    SCRATCH,
)
from train.variants import (
    NO_MASKING,
    NO_MIXUP,
    NO_PRETRAINING,
    NO_SAMPLING,
    Change,
    Variant,
    longer,
    mixup_alpha,
    mixup_rate,
    network,
    subset,
)


def _row(
    name: str, variant: Variant, mean: float | None, deviation: float | None = None, **cell: Any
) -> Row:
    """A row of one number, by the log unless `cell` says otherwise."""
    paper = None if mean is None else Reached(mean, deviation)
    return Row(name, (Cell(variant=variant, paper=paper, **cell),))


PRETRAINING = Study(
    "Table III: ImageNet's weights",
    {
        "balanced": (
            _row("random weights", SCRATCH, 0.1570),
            _row("random weights, twice the epochs", SCRATCH.but(longer(2)), 0.1694),
            _row("ImageNet's weights", PLAIN, 0.2385, unlike=SCRATCH),
        ),
        "full": (
            _row("random weights", SCRATCH, 0.3723),
            _row("ImageNet's weights", PLAIN, 0.3939, unlike=SCRATCH),
        ),
    },
)

# Read off the figure, but for its ends, which are table III's.
SIZES = {
    100_000: (0.225, 0.270),
    200_000: (0.242, 0.300),
    300_000: (0.262, 0.320),
    500_000: (0.300, 0.341),
}


def training_size(sizes: Sequence[int] = tuple(SIZES)) -> Study:
    """Figure 3: both ways to begin, over the number of clips of the full set."""
    rows = []
    for clips in sizes:
        random, imagenet = SIZES.get(clips, (None, None))
        begun = SCRATCH.but(subset(clips))
        rows += [
            _row(f"{clips:,} clips, random weights", begun, random),
            _row(f"{clips:,} clips, ImageNet's", PLAIN.but(subset(clips)), imagenet, unlike=begun),
        ]
    ends = {
        name: tuple(replace(row, name=f"all clips, {row.name}") for row in table)
        for name, table in PRETRAINING.tables.items()
    }
    balanced = ends["balanced"][::2]  # not twice the epochs
    return Study(
        "Figure 3: the size of the training set",
        {"full": (*rows, *ends["full"]), "balanced": balanced},
    )


SAMPLING = Study(
    "Table IV: balanced draws and augmentation, each row with those above",
    {
        "balanced": (
            _row("neither", PLAIN, 0.2385),
            _row("+ masking", MASKED, 0.2818, unlike=PLAIN),
            _row("+ mixup", ORIGINAL, 0.3108, 0.0013, unlike=MASKED),
        ),
        "full": (
            _row("neither", PLAIN, 0.3939),
            _row("+ balanced sampling", SAMPLED, 0.3721, unlike=PLAIN),
            _row("+ masking", MASKED, 0.4265, unlike=SAMPLED),
            _row("+ mixup", ORIGINAL, 0.4397, 0.0007, unlike=MASKED),
        ),
    },
)

MIXUP_RATE = Study(
    "Table V: the rate of mixup",
    {
        "balanced": (
            _row("0", MASKED, 0.2818),
            *(
                _row(f"{rate:g}", ORIGINAL.but(mixup_rate(rate)), reached)
                for rate, reached in ((0.2, 0.3060), (0.5, 0.3108), (0.8, 0.3119), (1.0, 0.2928))
            ),
        )
    },
)

MIXUP_ALPHA = Study(
    "Table VI: alpha of mixup",
    {
        "balanced": (
            _row("no mixup", MASKED, 0.2818),
            *(
                _row(f"{alpha:g}", ORIGINAL.but(mixup_alpha(alpha)), reached)
                for alpha, reached in ((0.1, 0.3004), (1.0, 0.3087), (10.0, 0.3108))
            ),
            _row("1, and all clips mixed", ORIGINAL.but(mixup_alpha(1.0), mixup_rate(1.0)), 0.3079),
        )
    },
)


def _ablation(base: Variant, reached: Sequence[float | None]) -> tuple[Row, ...]:
    """PSLA with the mean scores of all epochs, and less one part each time."""
    parts: tuple[tuple[str, Variant], ...] = (
        ("- pretraining", base.but(NO_PRETRAINING)),
        ("- balanced sampling", base.but(NO_SAMPLING)),
        ("- masking", base.but(NO_MASKING)),
        ("- mixup", base.but(NO_MIXUP)),
        ("- label enhancement", base.enhanced(None)),
    )
    means = "checkpoints"
    whole, *without, single, averaged = reached
    return (
        _row("PSLA", base, whole, measure=means),
        *(
            _row(name, variant, mean, measure=means, unlike=base)
            for (name, variant), mean in zip(parts, without, strict=True)
            if mean is not None
        ),
        _row("- ensemble", base, single),
        _row("- ensemble, + weight averaging", base, averaged, measure="average"),
    )


# None: a part that the paper's recipe of that set lacks.
ABLATION = Study(
    "Table XII: PSLA without one of its parts",
    {
        "balanced": _ablation(
            ENHANCED, (0.3280, 0.2379, None, 0.3154, 0.3181, 0.3229, 0.3162, 0.3192)
        ),
        "full": _ablation(ORIGINAL, (0.4518, 0.4302, 0.3688, 0.4430, 0.4493, None, 0.4397, 0.4435)),
    },
)

FSD50K = Study(
    "Table XIV: the same on FSD50K",
    {
        "fsd50k": _ablation(
            ENHANCED, (0.5671, 0.4524, 0.5626, 0.5617, 0.5164, 0.5583, 0.5535, 0.5571)
        )
    },
)

NETWORKS: tuple[tuple[str, Change], ...] = (
    ("MobileNetV2, linear", network("mobilenet-v2", "linear")),
    ("EfficientNet-B0, one head", network("efficientnet-b0", "single-head-attention")),
    ("EfficientNet-B2, mean pooling", network("efficientnet-b2", "mean-pooling")),
    ("EfficientNet-B2, one head", network("efficientnet-b2", "single-head-attention")),
    ("EfficientNet-B2, four heads", network("efficientnet-b2", "multi-head-attention")),
    ("ResNet-50, one head", network("resnet-50", "single-head-attention")),
)
WITHOUT_AND_WITH = {  # of each network
    "balanced": (
        (0.1612, 0.2650),
        (0.1529, 0.3350),
        (0.1903, 0.3317),
        (0.1478, 0.3406),
        (0.1570, 0.3280),
        (0.1635, 0.3180),
    ),
    "full": (
        (0.3032, 0.4058, 0.3940),
        (0.3789, 0.4493, 0.4391),
        (0.3325, 0.4455, 0.4382),
        (0.3818, 0.4556, 0.4414),
        (0.3723, 0.4518, 0.4435),
        (0.3790, 0.4477, 0.4042),
    ),
}


def _backbones(base: Variant, reached: Sequence[Sequence[float]]) -> tuple[Row, ...]:
    rows = []
    for (name, change), means in zip(NETWORKS, reached, strict=True):
        found = (
            Cell(column="without PSLA", variant=SCRATCH.but(change)),
            Cell(column="PSLA, epochs' mean", variant=base.but(change), measure="checkpoints"),
            Cell(column="PSLA, one model", variant=base.but(change), measure="average"),
        )
        pairs = zip(found, means, strict=False)  # one model: of the full set only
        rows.append(Row(name, tuple(replace(c, paper=Reached(mean)) for c, mean in pairs)))
    return tuple(rows)


BACKBONES = Study(
    "Table XIII: six networks",
    {
        "balanced": _backbones(ENHANCED, WITHOUT_AND_WITH["balanced"]),
        "full": _backbones(ORIGINAL, WITHOUT_AND_WITH["full"]),
    },
)

STUDIES: dict[str, Study] = {
    "pretraining": PRETRAINING,
    "training-size": training_size(),
    "sampling": SAMPLING,
    "mixup-rate": MIXUP_RATE,
    "mixup-alpha": MIXUP_ALPHA,
    "enhancement": ENHANCEMENT,
    "elsewhere": ELSEWHERE,
    "averaging": AVERAGING,
    "committees": COMMITTEES,
    "ablation": ABLATION,
    "backbones": BACKBONES,
    "fsd50k": FSD50K,
    "comparison": COMPARISON,
}


def data_sets(study: Study) -> tuple[DataSet, ...]:
    """What a study can be trained on; the first is the default."""
    return tuple(study.tables)
