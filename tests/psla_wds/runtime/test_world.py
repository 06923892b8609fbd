"""What processes say to one another: two of them, for real."""

import errno
import os
import time

import numpy as np
import pytest
from worlds import in_world, outcomes_in_world

from psla_wds.errors import ConfigError, PslaError
from psla_wds.runtime.distributed import TIMEOUT_VARIABLE, join_world


def exchange() -> None:
    with join_world() as world:
        assert world.size == 2
        assert world.mean([float(world.rank), 3.0]) == [0.5, 3.0]
        assert world.any(world.rank == 1) and not world.any(False)
        parts = world.gather(np.full((world.rank + 1, 2), world.rank, np.float32))
        if world.is_main:
            assert parts is not None
            assert [part.tolist() for part in parts] == [[[0, 0]], [[1, 1], [1, 1]]]
        assert world.together(lambda: world.rank) == world.rank
        world.agree("same", "plans")


def test_two_ranks_exchange_numbers_arrays_and_texts():
    in_world(2, exchange)


def fail_on_the_second() -> None:
    with join_world() as world:

        def work() -> None:
            if world.rank == 1:
                raise ConfigError("no disk", where="/data", fix="mount it")

        world.together(work)


def fail_on_the_disk_of_the_second() -> None:
    with join_world() as world:

        def work() -> None:
            if world.rank == 1:
                raise OSError(errno.EIO, "Input/output error", "/data/x")

        world.together(work)


def disagree() -> None:
    with join_world() as world:
        world.agree(f"plan {world.rank}", "plans of epoch 1")


@pytest.mark.parametrize(
    ("work", "messages"),
    [
        (fail_on_the_second, ["on rank 1: no disk\n  where: /data\n  fix:   mount it"]),
        (fail_on_the_disk_of_the_second, ["on rank 1: the system reports: Input/output error"]),
        (disagree, ["different plans of epoch 1", "rank 0: plan 0, rank 1: plan 1"]),
    ],
)
def test_a_mistake_of_one_rank_ends_both_with_one_message(work, messages: list[str]):
    (kind, text), other = outcomes_in_world(2, work)
    assert kind == "error" and other == ("exit", 2)
    assert all(message in text for message in messages)


def be_killed() -> None:
    with join_world() as world:
        if world.rank == 1:
            os.kill(os.getpid(), 9)
        world.gather(np.zeros(3))


def hang() -> None:
    os.environ[TIMEOUT_VARIABLE] = "5"
    with join_world() as world:
        if world.rank == 1:
            time.sleep(20)
        world.mean([1.0])


@pytest.mark.parametrize("work", [be_killed, hang])
def test_a_rank_that_is_lost_ends_the_other_with_a_message(work):
    begun = time.monotonic()
    (kind, text), _ = outcomes_in_world(2, work)
    assert kind == "error" and text.startswith("rank 0 has lost another of the 2 processes")
    assert TIMEOUT_VARIABLE in text and time.monotonic() - begun < 60


def meet_a_bug() -> str:
    try:
        with join_world() as world:
            world.mean([1.0])  # until then, the other rank may still be connecting to this one
            raise RuntimeError("a bug")
    except RuntimeError as error:
        return str(error)


def test_a_bug_is_not_taken_for_a_lost_rank():
    assert in_world(2, meet_a_bug) == ["a bug", "a bug"]


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"RANK": "x"}, "RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "MASTER_ADDR"),
    ],
)
def test_variables_that_torchrun_did_not_set_are_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str
):
    for one in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(one, raising=False)
    for one, value in environment.items():
        monkeypatch.setenv(one, value)
    with pytest.raises(ConfigError, match=rf"where: {name}(.|\n)*torchrun"), join_world():
        pass


@pytest.mark.parametrize("given", ["soon", "0", "nan", "inf"])
def test_a_timeout_that_is_not_a_time_is_refused(monkeypatch: pytest.MonkeyPatch, given: str):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(TIMEOUT_VARIABLE, given)
    with pytest.raises(ConfigError, match="not a number of seconds to wait"), join_world():
        pass


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(PslaError, match="process 1 of this machine has no GPU: there are 1"),
        join_world(),
    ):
        pass
