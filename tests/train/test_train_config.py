"""What each setting of a run is, declared at its field, and its range."""

from dataclasses import replace

import pytest

from psla_wds.config import Kind, Within, kinds_of
from train.config import KINDS, TrainConfig, is_method, may_change_on_resume
from train.recipes import DEMO


def test_kind_of_a_setting_stands_at_its_field():
    assert kinds_of(TrainConfig) == KINDS
    assert KINDS["index"] is KINDS["reader"] is Kind.PLACE
    assert KINDS["labels"] is KINDS["distill"] is Kind.DATA
    assert KINDS["run_dir"] is KINDS["dry_run"] is Kind.START
    assert KINDS["max_bad_steps"] is KINDS["accumulate"] is Kind.SPEED
    method = {"seed", "epochs", "batch_size", "precision", "sampler", "augment", "optimizer"}
    assert all(KINDS[name] is Kind.METHOD for name in method)


def test_data_is_method_to_compare_but_may_move_on_resume():
    assert is_method("labels") and is_method("optimizer.learning_rate")
    assert not any(is_method(n) for n in ("reader.threads", "max_bad_steps", "made_with.commit"))
    assert {"labels", "run_dir", "reader", "epochs"} <= may_change_on_resume(DEMO)
    assert "seed" not in may_change_on_resume(DEMO)
    cosine = replace(DEMO, optimizer=replace(DEMO.optimizer, decay="cosine"))
    assert "epochs" not in may_change_on_resume(cosine)  # the length shapes the whole schedule


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "text"),
    [
        (Within(1), (1, 10**9), (0, -1, float("inf"), float("nan")), "at least 1"),
        (Within(0, without=(0,)), (1e-9,), (0, -1), "above 0"),
        (Within(0, 1, without=(1,)), (0, 0.5), (1, 1.5), "at least 0 and below 1"),
        (Within(0, 1, without=(0,)), (0.5, 1), (0, 2), "above 0 and at most 1"),
        (Within(1, 64), (1, 64), (0, 65), "at least 1 and at most 64"),
    ],
    ids=str,
)
def test_range_holds_its_numbers(
    allowed: Within, inside: tuple[float, ...], outside: tuple[float, ...], text: str
):
    assert all(allowed.holds(value) for value in inside)
    assert not any(allowed.holds(value) for value in outside)
    assert str(allowed) == text
