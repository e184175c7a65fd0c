"""SSJF's sweeps: its own figures reproduced, and the same workloads served without its defects.

Called by ssjf_rows.py. One legacy process makes the Poisson, gamma and trace sweeps of one way of
batching, in this order, on one stream of random numbers; the published figures average the points
that it plots, which are every second one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.seeds.recorded import Classified
from lengthwise_lab.seeds.ssjf_corrected import (
    AgedLine,
    KeyLine,
    Line,
    due_times_s,
    serve,
    served,
)
from lengthwise_lab.seeds.ssjf_jobs import (
    CONSTANT_S,
    PER_TOKEN_S,
    Arrivals,
    LegacyDraws,
    Lengths,
)
from lengthwise_lab.seeds.ssjf_legacy import Batches, Order, figures, simulate

#: The points that the original plots; jobs of a run, and runs of a point.
LEVELS: Mapping[str, Sequence[float]] = {
    "poisson": (1, 3, 5, 7, 9),
    "gamma": (1, 2, 3, 4, 5),
    "trace": (0.5, 2, 10, 50, 200),
}
JOBS, RUNS = 50, 20

#: What is compared. `ssjf3` and `ssjf5` are its two classifiers; legacy runs lack `ours`.
SCHEDULERS = ("fcfs", "oracle", "ssjf3", "ssjf5", "ours")


@dataclass(frozen=True, kw_only=True)
class Point:
    """Means over all runs of a sweep. `early_per_s` is None where it was not measured."""

    mean_s: float
    p99_s: float
    whole_per_s: float
    early_per_s: float | None = None


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
        for level in _each(levels):
            jobs = draws.jobs(JOBS, Arrivals(kind=kind, level=level, trace_ms=trace_ms))
            for name, order in (
                ("fcfs", Order.FCFS),
                ("oracle", Order.ORACLE),
                ("ssjf3", Order.PREDICTED),
                ("ssjf5", Order.PREDICTED),
            ):
                got = figures(simulate(jobs.get(name, jobs["ssjf5"]), order, batches))
                runs.setdefault(name, []).append(
                    (got.mean_s, got.p99_s, got.whole_per_s, got.early_per_s)
                )
        sweeps[kind] = {
            name: Point(mean_s=mean, p99_s=p99, whole_per_s=whole, early_per_s=early)
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
    sweeps = {}
    for kind, levels in LEVELS.items():
        runs: dict[str, list[tuple[float, ...]]] = {}
        for level in _each(levels):
            arrivals = _arrivals(rng, kind, level, trace_ms)
            rows = rng.choice(len(answers.tokens), size=JOBS, replace=False)
            durations = (CONSTANT_S + PER_TOKEN_S * answers.tokens[rows]).tolist()
            three, five = worth["ssjf3"][rows].tolist(), worth["ssjf5"][rows].tolist()
            for name, line in lines(arrivals, durations, three, five).items():
                ends = serve(
                    arrivals,
                    durations,
                    line,
                    slots=batches.size,
                    static=not batches.dynamic,
                )
                got = served(arrivals, durations, ends)
                runs.setdefault(name, []).append((got.mean_s, got.p99_s, got.whole_per_s))
        sweeps[kind] = {
            name: Point(mean_s=mean, p99_s=p99, whole_per_s=whole)
            for name, (mean, p99, whole) in _means(runs)
        }
    return sweeps


def lines(
    arrivals_s: Sequence[float],
    durations_s: Sequence[float],
    three_s: Sequence[float],
    five_s: Sequence[float],
) -> dict[str, Line]:
    """An empty line for each of `SCHEDULERS`; `three_s` and `five_s` are predicted durations, s."""
    return {
        "fcfs": KeyLine(arrivals_s),
        "oracle": KeyLine(durations_s),
        "ssjf3": AgedLine(arrivals_s, three_s),
        "ssjf5": AgedLine(arrivals_s, five_s),
        "ours": KeyLine(due_times_s(arrivals_s, five_s)),
    }


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
