"""Settings of runs side by side."""

from pathlib import Path

import pytest
from run_folders import epoch_line, write_run

from eval.figures import check_seeds
from eval.run_settings import differing_settings
from psla_wds.errors import ConfigError
from train.run.log import Run, read_run


def run_of(folder: Path, **config: object) -> Run:
    return read_run(write_run(folder, [epoch_line(1)], **config))


@pytest.mark.parametrize(
    "other",
    [{"max_bad_steps": 3}, {"accumulate": 2}, {"reader": {"threads": 2}}, {"wandb": "p"}],
    ids=lambda other: next(iter(other)),
)
def test_seeds_may_differ_in_what_is_not_method(tmp_path: Path, other: dict[str, object]):
    check_seeds([run_of(tmp_path / "0", seed=0), run_of(tmp_path / "1", seed=1, **other)])


def test_seeds_may_not_differ_in_method(tmp_path: Path):
    runs = [run_of(tmp_path / str(n), seed=n, epochs=n + 1) for n in range(2)]
    with pytest.raises(ConfigError, match="epochs"):
        check_seeds(runs)
    assert differing_settings(runs)["epochs"] == ["1", "2"]
