"""SSJF's sweeps: its own figures reproduced, and the same workloads served without its defects.

Called by rows.py. One legacy process makes the Poisson, gamma and trace sweeps of one way of
batching, in this order, from one stream of random numbers. The published figures average the
plotted points, which are every second one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.reproductions.recorded_lengths import Classified
from lengthwise_lab.reproductions.ssjf.corrected import JobTimes, figures_of, serve
from lengthwise_lab.reproductions.ssjf.jobs import (
    CONSTANT_S,
    PER_TOKEN_S,
    ClassedLengths,
    LegacyArrivals,
    LegacyDraws,
)
from lengthwise_lab.reproductions.ssjf.legacy import (
    LegacyBatching,
    LegacyCompletion,
    LegacyJob,
    Order,
    figures,
    simulate,
)
from lengthwise_lab.reproductions.ssjf.queues import (
    AgedQueue,
    DueTimeQueue,
    KeyQueue,
    PredictorStats,
    WaitingQueue,
)
from lengthwise_lab.reproductions.table.details import RequestTimes, describe
from lengthwise_lab.simulator.core.state import Floats

#: The points that the original plots; the jobs of a run, and the runs of a point.
LEVELS: Mapping[str, Sequence[float]] = {
    "poisson": (1, 3, 5, 7, 9),
    "gamma": (1, 2, 3, 4, 5),
    "trace": (0.5, 2, 10, 50, 200),
}
JOBS, RUNS = 50, 20

#: The schedulers in words. `ssjf3`, `ssjf5` are its classifiers; legacy runs lack `lengthwise`.
NAMES: Mapping[str, str] = {
    "fcfs": "first come, first served",
    "oracle": "shortest first, true lengths",
    "ssjf3": "SSJF, three classes",
    "ssjf5": "SSJF, five classes",
    "plain3": "shortest predicted first without aging, three classes",
    "plain5": "shortest predicted first without aging, five classes",
    "lengthwise": "Lengthwise's defaults, five classes",
    "lengthwise, k=3 alone": "due time, k = 3 alone, five classes",
    "lengthwise, k=10 alone": "due time, k = 10 alone, five classes",
    "lengthwise, k=30 alone": "due time, k = 30 alone, five classes",
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """Means over all runs of a sweep. `early_per_s` is None where it was not measured.

    `details`: from `details.describe`.
    """

    mean_s: float
    p99_s: float
    whole_per_s: float
    early_per_s: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


#: The results of one kind of arrivals, by scheduler.
SweepPoints = dict[str, Point]


def class_tokens(tokens: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean length of each class, (classes,), tokens: the prediction for our policy."""
    return np.bincount(classes, weights=tokens) / np.bincount(classes)


def legacy(
    answers: Classified, trace_ms: Sequence[int], batches: LegacyBatching
) -> dict[str, SweepPoints]:
    """Run all sweeps of one way of batching in SSJF's own simulator."""
    lengths = ClassedLengths(
        tokens=answers.tokens, classes={"ssjf3": answers.three, "ssjf5": answers.five}
    )
    draws = LegacyDraws(lengths)
    sweeps = {}
    for kind, levels in LEVELS.items():
        runs: dict[str, list[tuple[float, ...]]] = {}
        ran: dict[str, list[RequestTimes]] = {}
        for level in _each(levels):
            jobs = draws.jobs(JOBS, LegacyArrivals(kind=kind, level=level, trace_ms=trace_ms))
            for name, order in (
                ("fcfs", Order.FCFS),
                ("oracle", Order.ORACLE),
                ("ssjf3", Order.PREDICTED),
                ("ssjf5", Order.PREDICTED),
            ):
                sent = jobs.get(name, jobs["ssjf5"])
                done = simulate(sent, order, batches)
                ran.setdefault(name, []).append(_as_they_ran(sent, done))
                got = figures(done)
                runs.setdefault(name, []).append(
                    (got.mean_s, got.p99_s, got.whole_per_s, got.early_per_s)
                )
        sweeps[kind] = {
            name: Point(
                mean_s=mean,
                p99_s=p99,
                whole_per_s=whole,
                early_per_s=early,
                details=describe(ran[name], policy=f"{NAMES[name]}, in SSJF's own simulator"),
            )
            for name, (mean, p99, whole, early) in _means(runs)
        }
    return sweeps


def corrected(
    answers: Classified, trace_ms: Sequence[int], batches: LegacyBatching
) -> dict[str, SweepPoints]:
    """Run the same sweeps with exact Poisson arrivals, gaps in their own order and no defects.

    A trace of level x is replayed `1000 / x` times slower than it was recorded.
    """
    rng = np.random.default_rng(42)
    worth = {
        name: CONSTANT_S + PER_TOKEN_S * class_tokens(answers.tokens, classes)[classes]
        for name, classes in (("ssjf3", answers.three), ("ssjf5", answers.five))
    }
    stats = predictor_stats(answers)
    sweeps = {}
    for kind, levels in LEVELS.items():
        runs: dict[str, list[tuple[float, ...]]] = {}
        ran: dict[str, list[RequestTimes]] = {}
        for level in _each(levels):
            arrivals = _arrivals(rng, kind, level, trace_ms)
            rows = rng.choice(len(answers.tokens), size=JOBS, replace=False)
            tokens = answers.tokens[rows]
            durations = (CONSTANT_S + PER_TOKEN_S * tokens).tolist()
            three, five = worth["ssjf3"][rows].tolist(), worth["ssjf5"][rows].tolist()
            every = queues_of(arrivals, durations, three, five, slots=batches.size, stats=stats)
            for name, queue in every.items():
                times = serve(
                    arrivals,
                    durations,
                    queue,
                    slots=batches.size,
                    static=not batches.dynamic,
                )
                ran.setdefault(name, []).append(as_run(arrivals, durations, tokens, times))
                got = figures_of(arrivals, durations, times.ends_s)
                runs.setdefault(name, []).append((got.mean_s, got.p99_s, got.whole_per_s))
        sweeps[kind] = {
            name: Point(
                mean_s=mean,
                p99_s=p99,
                whole_per_s=whole,
                details=describe(ran[name], policy=NAMES[name]),
            )
            for name, (mean, p99, whole) in _means(runs)
        }
    return sweeps


def queues_of(
    arrivals_s: Sequence[float],
    durations_s: Sequence[float],
    three_s: Sequence[float],
    five_s: Sequence[float],
    *,
    slots: int,
    stats: PredictorStats,
) -> dict[str, WaitingQueue]:
    """Return an empty queue for each order; `three_s` and `five_s` are predicted durations, s."""
    return {
        "fcfs": KeyQueue(arrivals_s),
        "oracle": KeyQueue(durations_s),
        "ssjf3": AgedQueue(arrivals_s, three_s),
        "ssjf5": AgedQueue(arrivals_s, five_s),
        "lengthwise": DueTimeQueue(arrivals_s, five_s, slots=slots, stats=stats),
    }


def predictor_stats(answers: Classified) -> PredictorStats:
    """Return the statistics of the five-class predictor."""
    worth = CONSTANT_S + PER_TOKEN_S * class_tokens(answers.tokens, answers.five)[answers.five]
    return PredictorStats.of(worth.tolist(), answers.tokens.tolist())


def as_run(
    arrivals_s: Sequence[float],
    durations_s: Sequence[float],
    tokens: NDArray[np.int64],
    times: JobTimes,
) -> RequestTimes:
    """Return the times of a run, with jobs in order of arrival."""
    return RequestTimes(
        arrival_s=np.asarray(arrivals_s, float),
        start_s=np.asarray(times.starts_s),
        end_s=np.asarray(times.ends_s),
        alone_s=np.asarray(durations_s),
        tokens=tokens.astype(float),
    )


def _as_they_ran(jobs: Sequence[LegacyJob], done: Sequence[LegacyCompletion]) -> RequestTimes:
    """Return the times of a legacy run; a lost job never ended."""
    start, end = np.full((2, len(jobs)), np.nan)
    for one in done:
        start[one.job.number], end[one.job.number] = one.first_s, one.ended_s
    durations: Floats = np.array([job.duration_s for job in jobs])
    return RequestTimes(
        arrival_s=np.array([float(job.arrival_s) for job in jobs]),
        start_s=start,
        end_s=end,
        alone_s=durations,
        tokens=np.rint((durations - CONSTANT_S) / PER_TOKEN_S),
    )


def _each(levels: Sequence[float]) -> Iterator[float]:
    for level in levels:
        for _ in range(RUNS):
            yield level


def _arrivals(
    rng: np.random.Generator, kind: str, level: float, trace_ms: Sequence[int]
) -> list[float]:
    if kind == "trace":
        first = int(rng.integers(0, len(trace_ms) - JOBS + 1))
        return [(at - trace_ms[first]) / level for at in trace_ms[first : first + JOBS]]
    if kind == "poisson":
        gaps = rng.exponential(1 / level, JOBS)
    else:
        gaps = rng.gamma(level**-2, level**2 / LegacyArrivals(kind=kind, level=level).rate, JOBS)
    sums: list[float] = np.cumsum(gaps).tolist()
    return sums


def _means(runs: Mapping[str, list[tuple[float, ...]]]) -> Iterator[tuple[str, list[float]]]:
    for name, measured in runs.items():
        yield name, np.mean(measured, axis=0).tolist()
