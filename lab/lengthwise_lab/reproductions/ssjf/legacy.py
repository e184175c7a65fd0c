"""SSJF's own queue simulator, float for float, with its defects; corrected.py has none of them.

It separates the published figures from the defects that cause them. The defects are in
docs/research/reproductions.md. Called by sweeps.py; the tests compare it with completions that the
original program printed.

Source: semantics of the simulator published with Qiu et al., "Efficient interactive LLM serving
with proxy model-based sequence length prediction", arXiv 2404.08509 (2024).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

#: When the longest waiter has waited more than so many seconds, or so many times its own duration,
#: the whole queue is served in the order of waiting.
_STARVED_S, _STARVED_FACTOR = 100, 10


class Order(StrEnum):
    """The order of service."""

    FCFS = "fcfs"
    ORACLE = "oracle"  #: Shortest true duration first.
    PREDICTED = "predicted"  #: Shortest predicted duration first.


@dataclass(frozen=True, kw_only=True)
class LegacyBatching:
    """The batching of jobs.

    `size`: jobs at once, >= 1. `wait_s`: how long FCFS, and only FCFS, waits for a batch to fill.
    `dynamic`: finished jobs leave and the batch is formed again; else all end with the longest.
    """

    size: int = 1
    wait_s: float = 10
    dynamic: bool = False


@dataclass(slots=True)
class LegacyJob:
    """One job of the original. Times in seconds; `arrival_s` is an int where the original's is."""

    number: int
    arrival_s: float
    duration_s: float
    predicted_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LegacyCompletion:
    """One job that ran. `started_s`, `first_s`: when it entered its last and its first batch."""

    job: LegacyJob
    started_s: float
    ended_s: float
    first_s: float


@dataclass(slots=True)
class _Live:
    """A job and its changing values. `waited_s` is the original's own, wrong count."""

    job: LegacyJob
    left_s: float
    waited_s: float = 0
    started_s: float = 0
    first_s: float | None = None


class _Clock:
    """Time in slices of a second, with the rest of the last slice, as in the original.

    The slices cancel out except for the rounding of their sums, which decides ties.
    """

    def __init__(self) -> None:
        self.now: float = 0
        self._slice: float = 1

    def run(self, duration: float) -> None:
        """Pass the duration of a batch, s."""
        while duration > 0:
            duration -= self._slice
            if duration < 0:
                self.now += duration + self._slice
                self._slice = abs(duration)
            else:
                self.now += self._slice
                self._slice = 1

    def wait_until(self, instant: float, *, whole_slices: bool) -> None:
        """Idle until an instant, s.

        Args:
            instant: The end of the wait; an instant in the past is no wait.
            whole_slices: Whether a cut slice is followed by whole ones (shortest first), or by
                slices of the same length (FCFS, which therefore first replaces a slice of 0 s).
        """
        if not whole_slices and round(self._slice, 2) == 0:
            self._slice = 1
        while self.now < instant:
            if self.now + self._slice < instant:
                self.now += self._slice
                if whole_slices:
                    self._slice = 1
            else:
                self._slice = 1 - (instant - self.now)
                self.now = instant


def simulate(
    jobs: Sequence[LegacyJob], order: Order, batches: LegacyBatching
) -> list[LegacyCompletion]:
    """Run the jobs; the result lacks those that the original never runs.

    Args:
        jobs: In any order; >= 1.
        order: The order of service.
        batches: How they are batched.

    Returns:
        The completions, in the order in which they happened.
    """
    lives = [_Live(job, job.duration_s) for job in sorted(jobs, key=lambda job: job.arrival_s)]
    if order is Order.FCFS:
        return _first_come(lives, batches)
    return _shortest_first(lives, order, batches)


def _first_come(lives: list[_Live], batches: LegacyBatching) -> list[LegacyCompletion]:
    queue, clock = deque(lives), _Clock()
    done: list[LegacyCompletion] = []
    while queue:
        clock.now = max(clock.now, queue[0].job.arrival_s)
        batch: list[_Live] = []
        while (
            queue
            and len(batch) < batches.size
            and queue[0].job.arrival_s <= clock.now + batches.wait_s
        ):
            batch.append(queue.popleft())
        full = len(batch) == batches.size
        begins = batch[-1].job.arrival_s if full else clock.now + batches.wait_s
        clock.wait_until(begins, whole_slices=False)
        # Each is put back at the very front, so they end up reversed.
        queue.extendleft(_run(batch, clock, batches, done))
    return done


def _shortest_first(
    lives: list[_Live], order: Order, batches: LegacyBatching
) -> list[LegacyCompletion]:
    queue: list[_Live] = []
    done: list[LegacyCompletion] = []
    clock, arrived, last_end = _Clock(), 0, 0.0

    def admit() -> None:
        nonlocal arrived
        while arrived < len(lives) and lives[arrived].job.arrival_s <= clock.now:
            queue.append(lives[arrived])
            arrived += 1

    # The last job is lost if it arrives at an empty queue: this is the original's condition.
    while arrived < len(lives) - 1 or queue:
        if not queue:
            clock.wait_until(lives[arrived].job.arrival_s, whole_slices=True)
            admit()
        longest = max(queue, key=lambda live: live.waited_s)
        if longest.waited_s > _STARVED_S or longest.waited_s > longest.left_s * _STARVED_FACTOR:
            queue.sort(key=lambda live: live.waited_s, reverse=True)
        elif order is Order.ORACLE:
            queue.sort(key=lambda live: live.left_s)
        else:
            queue.sort(key=lambda live: live.job.predicted_s)
        batch = queue[: batches.size]
        del queue[: batches.size]
        unfinished = _run(batch, clock, batches, done)
        admit()
        queue.extend(unfinished)
        passed_s, last_end = clock.now - last_end, clock.now
        for live in queue:
            live.waited_s += passed_s
    return done


def _run(
    batch: list[_Live], clock: _Clock, batches: LegacyBatching, done: list[LegacyCompletion]
) -> list[_Live]:
    """Run a batch until it is formed again; return its unfinished jobs, in order."""
    for live in batch:
        live.started_s = clock.now
        if live.first_s is None:
            live.first_s = clock.now
    left = [live.left_s for live in batch]
    passed_s = min(left) if batches.dynamic else max(left)
    clock.run(passed_s)
    unfinished = []
    for live in batch:
        if live.left_s <= passed_s:
            first_s = live.started_s if live.first_s is None else live.first_s
            done.append(LegacyCompletion(live.job, live.started_s, clock.now, first_s))
        else:
            live.left_s = max(live.left_s - passed_s, 0)
            unfinished.append(live)
    return unfinished


@dataclass(frozen=True, kw_only=True)
class LegacyFigures:
    """The figures that the original reports of one run, and the throughput of the whole run.

    `mean_s`, `p99_s`: from arrival to completion, s. `wait_s`: mean, until the job last entered a
    batch, s. `early_per_s`: jobs finished at the 25th percentile of the completions, by its time,
    1/s. `whole_per_s`: all jobs that ran, by the time of the last completion, 1/s. `served`: jobs.
    """

    mean_s: float
    p99_s: float
    wait_s: float
    early_per_s: float
    whole_per_s: float
    served: int


def figures(completions: Sequence[LegacyCompletion]) -> LegacyFigures:
    """Return the figures of a run of >= 1 completions."""
    count = len(completions)
    ends = sorted(done.ended_s for done in completions)
    took = [done.ended_s - done.job.arrival_s for done in completions]
    early = int(np.percentile(range(count), 25))
    return LegacyFigures(
        mean_s=sum(took) / count,
        p99_s=float(np.percentile(took, 99)),
        wait_s=sum(done.started_s - done.job.arrival_s for done in completions) / count,
        early_per_s=early / ends[early],
        whole_per_s=count / ends[-1],
        served=count,
    )
