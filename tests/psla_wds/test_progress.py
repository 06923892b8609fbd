"""Progress: drawn on a terminal, lines elsewhere; and the share of waiting for data."""

import gc
import io
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from psla_wds import cli, progress
from psla_wds.errors import ConfigError
from psla_wds.progress import DataTimer, Interval, progress_bar


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(desc="epoch 1", total=40) as bar:
        for number in range(40):
            bar.set_postfix(loss=number, refresh=False)
            bar.update(1)
            time.sleep(0.005)
    return stream.getvalue()


def test_off_a_terminal_two_bars_write_no_codes(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(desc="outer", total=2) as outer, progress_bar(desc="inner", total=2) as inner:
        inner.update(2)
        outer.update(2)
    assert "inner" in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert all(line.strip() for line in stream.getvalue().splitlines())


def test_off_a_terminal_a_bar_is_a_line_each_interval(monkeypatch: pytest.MonkeyPatch):
    assert progress.LOG_INTERVAL_S == 60
    assert len(drawn(io.StringIO(), monkeypatch).splitlines()) == 2
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.05)
    begun = time.monotonic()
    lines = drawn(io.StringIO(), monkeypatch).split("\n")
    intervals = (time.monotonic() - begun) / 0.05  # four, where nothing else runs
    assert lines.pop() == ""
    assert 3 <= len(lines) <= intervals + 3  # with the first and the last
    assert all(line.startswith("epoch 1:") and "\r" not in line for line in lines)
    assert "0.00/40.0" in lines[0] and "40.0/40.0" in lines[-1] and "loss=39" in lines[-1]


def test_on_a_terminal_a_bar_is_drawn_over_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "TERMINAL_INTERVAL_S", 0.0)
    text = drawn(Screen(), monkeypatch)
    assert text.count("\r") >= 40 and text.count("\n") == 1


def test_no_bar_is_drawn_below_an_error(monkeypatch: pytest.MonkeyPatch):
    """The error's traceback has the frame with the bar."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)

    def main() -> None:
        steps = iter(progress_bar(range(3), desc="epoch 1"))
        for _ in steps:
            raise ConfigError("all is lost", where="here")

    with suppress(SystemExit):
        cli.run(main)
    gc.collect()  # what the traceback held
    assert screen.getvalue().endswith("error: all is lost\n  where: here\n")
    assert "epoch 1" in screen.getvalue()


def test_data_wait_is_the_share_of_time_in_next():
    def slow_batches() -> Iterator[int]:
        for number in range(5):
            time.sleep(0.03)
            yield number

    timer = DataTimer(slow_batches())
    interval = Interval(timer)
    for _ in timer:
        time.sleep(0.01)
    assert 0.6 < interval.data_wait < 0.9 and interval.waited_s < interval.elapsed_s
