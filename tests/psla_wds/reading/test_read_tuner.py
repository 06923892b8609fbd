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

    def __init__(self, *, step_s: float, latency_s: float, clips_per_s: float = 1e6) -> None:
        self._step_s, self._latency_s, self._clips_per_s = step_s, latency_s, clips_per_s
        self.now_s = 0.0

    def tuner(self, threads: int | None = None, depth: int | None = None) -> ReadTuner:
        return ReadTuner(threads=threads, depth=depth, clock=lambda: self.now_s)

    def go(self, tuner: ReadTuner, batches: int = 2000) -> float:
        """Run, and return the share of waiting at the end of it."""
        for _ in range(batches):  # at most `depth` batches of reads are under way
            at_once = min(tuner.threads, tuner.depth * BATCH)
            read_s = max(BATCH / self._clips_per_s, BATCH * self._latency_s / at_once)
            waited_s = max(read_s - self._step_s, 0.0)
            self.now_s += self._step_s + waited_s
            tuner.note(num_clips=BATCH, waited_s=waited_s)
        return waited_s / (self._step_s + waited_s)


@pytest.mark.parametrize(
    ("store", "wait", "threads"),
    [
        ({"step_s": 0.1, "latency_s": 0.001}, 0, 4),  # never waits, and stays as it began
        ({"step_s": 0.1, "latency_s": 0.1}, 0, 32),  # latency is hidden by as many as it takes
        ({"step_s": 0.1, "latency_s": 0.01, "clips_per_s": 160}, 0.5, 8),  # at its bandwidth
        ({"step_s": 0.001, "latency_s": 10.0}, 1.0, MOST_THREADS),
    ],
    ids=["fast", "latency", "bandwidth", "bound"],
)
def test_threads_double_while_that_helps(store: dict[str, float], wait: float, threads: int):
    run = Run(**store)
    tuner = run.tuner()
    assert run.go(tuner) == pytest.approx(wait, abs=1e-3)
    assert tuner.threads == threads
    assert tuner.depth == {4: 4, MOST_THREADS: MOST_DEPTH}.get(threads, threads)


def test_what_is_set_stays():
    run = Run(step_s=0.01, latency_s=1.0)
    both, threads, depth = run.tuner(3, 5), run.tuner(threads=3), run.tuner(depth=5)
    for tuner in (both, threads, depth):
        run.go(tuner)
    assert (both.threads, both.depth) == (3, 5)
    assert threads.threads == 3 and threads.depth > 4
    assert depth.depth == 5 and depth.threads > 4


@pytest.mark.parametrize(("processes", "cores"), [(None, 16), ("8", 2), ("32", 1)])
def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch, processes, cores: int):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16))
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert cores_per_process() == cores


@pytest.mark.parametrize(
    ("waits", "threads", "words"),
    [
        ((0.01, 0.009), None, r"bounded by the step: 1\.0%"),
        ((0.5, 0.4), None, r"by storage: 50\.0% .* 4 threads up to 5 batches.* --stage DIR"),
        ((0.5, 0.4), 3, r"by storage: 50\.0% .* 3 threads .*without --reader\.threads"),
        ((0.5, 0.1), None, r"by decoding: 50\.0% .* in 7 threads.*--reader\.decode-threads"),
    ],
)
def test_the_verdict_names_what_bounds_a_run(
    waits: tuple[float, float], threads: int | None, words: str
):
    tuner = ReadTuner(threads=threads, depth=5)
    line = verdict(*waits, tuner=tuner, decode_threads=7)
    assert re.search(words, line), line
    bare = verdict(*waits)  # as the report has it
    assert bare.split(":")[0] == line.split(":")[0] and "batches ahead" not in bare
