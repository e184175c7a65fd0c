"""SSJF's sweeps: its own figures reproduced, and the same workloads served without its defects.

Called by ssjf_rows.py. One legacy process makes the Poisson, gamma and trace sweeps of one way of
batching, in this order, on one stream of random numbers; the published figures average the points
that it plots, which are every second one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.reproductions.recorded_lengths import Classified
from lengthwise_lab.reproductions.ssjf.corrected import (
    AgedLine,
    DueLine,
    Evidence,
    KeyLine,
    Line,
    Times,
    serve,
    served,
)
from lengthwise_lab.reproductions.ssjf.jobs import (
    CONSTANT_S,
    PER_TOKEN_S,
    Arrivals,
    LegacyDraws,
    Lengths,
)
from lengthwise_lab.reproductions.ssjf.legacy import (
    Batches,
    Completion,
    Job,
    Order,
    figures,
    simulate,
)
from lengthwise_lab.reproductions.table.details import Floats, Run, describe

#: The points that the original plots; jobs of a run, and runs of a point.
LEVELS: Mapping[str, Sequence[float]] = {
    "poisson": (1, 3, 5, 7, 9),
    "gamma": (1, 2, 3, 4, 5),
    "trace": (0.5, 2, 10, 50, 200),
}
JOBS, RUNS = 50, 20

#: What is compared, for a reader. `ssjf3`, `ssjf5` are its classifiers; legacy runs lack `ours`.
NAMES: Mapping[str, str] = {
    "fcfs": "first come, first served",
    "oracle": "shortest first, true lengths",
    "ssjf3": "SSJF, three classes",
    "ssjf5": "SSJF, five classes",
    "plain3": "shortest predicted first without aging, three classes",
    "plain5": "shortest predicted first without aging, five classes",
    "ours": "Lengthwise's defaults, five classes",
    "ours, k=3 alone": "due time, k = 3 alone, five classes",
    "ours, k=10 alone": "due time, k = 10 alone, five classes",
    "ours, k=30 alone": "due time, k = 30 alone, five classes",
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """Means over all runs of a sweep. `early_per_s` is None where it was not measured.

    `details`: all that is said of the jobs (lengthwise_lab.reproductions.table.details).
    """

    mean_s: float
    p99_s: float
    whole_per_s: float
    early_per_s: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


#: Of one kind of arrivals: scheduler -> what it made of them.
Sweep = dict[str, Point]


def class_tokens(tokens: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """What a prediction of each class is worth to our policy, tokens, (classes,): their mean."""
    return np.bincount(classes, weights=tokens) / np.bincount(classes)


def legacy(answers: Classified, trace_ms: Sequence[int], batches: Batches) -> dict[str, Sweep]:
    """All sweeps of one way of batching, as SSJF's own simulator makes them."""
    lengths = Lengths(
        tokens=answers.tokens, classes={"ssjf3": answers.three, "ssjf5": answers.five}
    )
    draws = LegacyDraws(lengths)
    sweeps = {}
    for kind, levels in LEVELS.items():
        runs: dict[str, list[tuple[float, ...]]] = {}
        ran: dict[str, list[Run]] = {}
        for level in _each(levels):
            jobs = draws.jobs(JOBS, Arrivals(kind=kind, level=level, trace_ms=trace_ms))
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


def corrected(answers: Classified, trace_ms: Sequence[int], batches: Batches) -> dict[str, Sweep]:
    """The same sweeps with exact Poisson arrivals, gaps in their own order and no defects.

    A trace's level says how much slower it runs than it was recorded: `1000 / level` times.
    """
    rng = np.random.default_rng(42)
    worth = {
        name: CONSTANT_S + PER_TOKEN_S * class_tokens(answers.tokens, classes)[classes]
        for name, classes in (("ssjf3", answers.three), ("ssjf5", answers.five))
    }
    evidence = evidence_of(answers)
    sweeps = {}
    for kind, levels in LEVELS.items():
        runs: dict[str, list[tuple[float, ...]]] = {}
        ran: dict[str, list[Run]] = {}
        for level in _each(levels):
            arrivals = _arrivals(rng, kind, level, trace_ms)
            rows = rng.choice(len(answers.tokens), size=JOBS, replace=False)
            tokens = answers.tokens[rows]
            durations = (CONSTANT_S + PER_TOKEN_S * tokens).tolist()
            three, five = worth["ssjf3"][rows].tolist(), worth["ssjf5"][rows].tolist()
            every = lines(arrivals, durations, three, five, slots=batches.size, evidence=evidence)
            for name, line in every.items():
                times = serve(
                    arrivals,
                    durations,
                    line,
                    slots=batches.size,
                    static=not batches.dynamic,
                )
                ran.setdefault(name, []).append(as_run(arrivals, durations, tokens, times))
                got = served(arrivals, durations, times.ends_s)
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


def lines(
    arrivals_s: Sequence[float],
    durations_s: Sequence[float],
    three_s: Sequence[float],
    five_s: Sequence[float],
    *,
    slots: int,
    evidence: Evidence,
) -> dict[str, Line]:
    """An empty line for each order; `three_s` and `five_s` are predicted durations, s."""
    return {
        "fcfs": KeyLine(arrivals_s),
        "oracle": KeyLine(durations_s),
        "ssjf3": AgedLine(arrivals_s, three_s),
        "ssjf5": AgedLine(arrivals_s, five_s),
        "ours": DueLine(arrivals_s, five_s, slots=slots, evidence=evidence),
    }


def evidence_of(answers: Classified) -> Evidence:
    """What a queue would know of the five-class predictor."""
    worth = CONSTANT_S + PER_TOKEN_S * class_tokens(answers.tokens, answers.five)[answers.five]
    return Evidence.of(worth.tolist(), answers.tokens.tolist())


def as_run(
    arrivals_s: Sequence[float],
    durations_s: Sequence[float],
    tokens: NDArray[np.int64],
    times: Times,
) -> Run:
    """A run as it is described: jobs in order of arrival."""
    return Run(
        arrival_s=np.asarray(arrivals_s, float),
        start_s=np.asarray(times.starts_s),
        end_s=np.asarray(times.ends_s),
        alone_s=np.asarray(durations_s),
        tokens=tokens.astype(float),
    )


def _as_they_ran(jobs: Sequence[Job], done: Sequence[Completion]) -> Run:
    """A legacy run as it is described; a job that was forgotten never ended."""
    start, end = np.full((2, len(jobs)), np.nan)
    for one in done:
        start[one.job.number], end[one.job.number] = one.first_s, one.ended_s
    durations: Floats = np.array([job.duration_s for job in jobs])
    return Run(
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
        gaps = rng.gamma(level**-2, level**2 / Arrivals(kind=kind, level=level).rate, JOBS)
    sums: list[float] = np.cumsum(gaps).tolist()
    return sums


def _means(runs: Mapping[str, list[tuple[float, ...]]]) -> Iterator[tuple[str, list[float]]]:
    for name, measured in runs.items():
        yield name, np.mean(measured, axis=0).tolist()
