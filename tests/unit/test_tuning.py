"""Reading is widened until the run no longer waits, or storage gives no more."""

import re

import pytest

from psla_wds.reading.read_tuner import (
    MOST_DEPTH,
    MOST_THREADS,
    ReadTuner,
    cores_per_process,
    verdict,
)

BATCH = 32


class Run:
    """A training run in steady state, on a store with latency and a bandwidth; time is made up."""

    def __init__(self, *, step_s: float, latency_s: float, clips_per_s: float) -> None:
        self._step_s, self._latency_s, self._clips_per_s = step_s, latency_s, clips_per_s
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    def waited_s(self, tuner: ReadTuner) -> float:
        """For a batch: at most `depth` batches of reads are under way, by `threads` threads."""
        at_once = min(tuner.threads, tuner.depth * BATCH)
        read_s = max(BATCH / self._clips_per_s, BATCH * self._latency_s / at_once)
        return max(read_s - self._step_s, 0.0)

    def go(self, tuner: ReadTuner, batches: int = 2000) -> float:
        """Run, and return the share of waiting at the end of it."""
        for _ in range(batches):
            waited_s = self.waited_s(tuner)
            self.now_s += self._step_s + waited_s
            tuner.note(num_clips=BATCH, waited_s=waited_s)
        return waited_s / (self._step_s + waited_s)


def tuner_of(run: Run, threads: int | None = None, depth: int | None = None) -> ReadTuner:
    return ReadTuner(threads=threads, depth=depth, clock=run.clock)


def test_a_run_that_never_waits_stays_as_it_began():
    run = Run(step_s=0.1, latency_s=0.001, clips_per_s=1e6)
    tuner = tuner_of(run)
    assert run.go(tuner) == 0
    assert (tuner.threads, tuner.depth) == (4, 4)


def test_latency_is_hidden_by_as_many_threads_as_it_takes():
    run = Run(step_s=0.1, latency_s=0.1, clips_per_s=1e6)  # 32 threads keep up
    tuner = tuner_of(run)
    assert run.go(tuner) == 0
    assert tuner.threads == 32


def test_a_store_at_its_bandwidth_is_not_pressed_further():
    run = Run(step_s=0.1, latency_s=0.01, clips_per_s=160)  # two threads' worth
    tuner = tuner_of(run)
    assert run.go(tuner) == pytest.approx(0.5)
    assert tuner.threads == 8


def test_threads_and_depth_have_a_bound():
    run = Run(step_s=0.001, latency_s=10.0, clips_per_s=1e6)
    tuner = tuner_of(run)
    run.go(tuner)
    assert (tuner.threads, tuner.depth) == (MOST_THREADS, MOST_DEPTH)


def test_what_is_set_stays():
    run = Run(step_s=0.01, latency_s=1.0, clips_per_s=1e6)
    both, threads, depth = tuner_of(run, 3, 5), tuner_of(run, threads=3), tuner_of(run, depth=5)
    for tuner in (both, threads, depth):
        run.go(tuner)
    assert (both.threads, both.depth) == (3, 5)
    assert threads.threads == 3 and threads.depth > 4
    assert depth.depth == 5 and depth.threads > 4


def test_the_first_batches_which_fill_the_pipeline_do_not_count():
    run = Run(step_s=0.1, latency_s=0.001, clips_per_s=1e6)
    tuner = tuner_of(run)
    for _ in range(tuner.depth):
        run.now_s += 5.0
        tuner.note(num_clips=BATCH, waited_s=5.0)
    run.go(tuner)
    assert tuner.threads == 4


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16))
    assert cores_per_process() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert cores_per_process() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert cores_per_process() == 1


@pytest.mark.parametrize(
    ("waited_s", "storage_wait_s", "threads", "words"),
    [
        (1.0, 0.9, None, "bounded by the step: 1.0%"),
        (50.0, 40.0, None, "bounded by storage: 50% .* 4 threads up to 5 batches.* --stage DIR"),
        (50.0, 40.0, 3, "bounded by storage: 50% .* 3 threads .*without --reader.threads"),
        (50.0, 10.0, None, "bounded by decoding: 50% .* in 7 threads.*--reader.decode-threads"),
    ],
)
def test_the_verdict_names_what_bounds_a_run(
    waited_s: float, storage_wait_s: float, threads: int | None, words: str
):
    line = verdict(
        waited_s=waited_s,
        storage_wait_s=storage_wait_s,
        elapsed_s=100.0,
        tuner=ReadTuner(threads=threads, depth=5),
        decode_threads=7,
    )
    assert re.search(words, line), line
