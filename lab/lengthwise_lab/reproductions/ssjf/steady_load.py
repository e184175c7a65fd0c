"""SSJF's rows of a steady load: shortest predicted job first with continuous batching.

The check that SSJF's publication lacks: exact Poisson arrivals, thousands of jobs, and a load that
is a share of the slots' capacity. Called by rows.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lengthwise_lab.reproductions.recorded_lengths import Classified
from lengthwise_lab.reproductions.ssjf.corrected import RunFigures, figures_of, serve
from lengthwise_lab.reproductions.ssjf.jobs import CONSTANT_S, PER_TOKEN_S
from lengthwise_lab.reproductions.ssjf.queues import KeyQueue, due_times_s
from lengthwise_lab.reproductions.ssjf.sweeps import (
    NAMES,
    as_run,
    class_tokens,
    predictor_stats,
    queues_of,
)
from lengthwise_lab.reproductions.table.details import RequestTimes, describe
from lengthwise_lab.reproductions.table.row import TableRow, of_requests

JOBS, SEEDS = 2_000, 5

#: Runs that a column of the row shows.
_IN_ROW = ("fcfs", "plain5", "ssjf5")

#: An independent simulation of a steady load (slots, load): the five-class predictions' cut of the
#: mean, %, and their p99 as a multiple of that of FCFS.
_STEADY = (
    (1, 0.7, 18.5, 59 / 47),
    (1, 0.9, 34.3, 179 / 100),
    (2, 0.9, 27.1, 78 / 47),
    (8, 0.9, 11.8, 20 / 15),
    (8, 1.2, 42.4, 516 / 148),
    (32, 0.9, 3.5, 11.7 / 10.8),
    (32, 1.2, 36.3, 145 / 48),
)

#: Tolerances with recorded data and without. Five random seeds of 2,000 jobs: at a load of 0.9 the
#: scatter of the queue alone makes runs differ by a quarter.
_STEADY_PP, _STEADY_P99 = {True: 5.0, False: 8.0}, 0.6


def run(answers: Classified, *, slots: int, load: float) -> dict[str, RunFigures]:
    """Serve the same jobs under each scheduler; return means over `SEEDS` random seeds.

    Args:
        answers: The source of jobs and their predictions.
        slots: Jobs at once; a job starts as soon as a slot is free, and keeps it.
        load: Offered load, as a share of the slots' time; above 1 the queue grows to the end.

    Returns:
        By scheduler; `plain3` and `plain5` are shortest predicted first without any aging.
    """
    worth = {
        name: CONSTANT_S + PER_TOKEN_S * class_tokens(answers.tokens, classes)[classes]
        for name, classes in (("three", answers.three), ("five", answers.five))
    }
    mean_s = CONSTANT_S + PER_TOKEN_S * float(answers.tokens.mean())
    stats = predictor_stats(answers)
    runs: dict[str, list[RunFigures]] = {}
    jobs: dict[str, list[RequestTimes]] = {}
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(mean_s / (load * slots), JOBS)).tolist()
        rows = rng.choice(len(answers.tokens), size=JOBS, replace=False)
        tokens = answers.tokens[rows]
        durations = (CONSTANT_S + PER_TOKEN_S * tokens).tolist()
        three, five = worth["three"][rows].tolist(), worth["five"][rows].tolist()
        every = queues_of(arrivals, durations, three, five, slots=slots, stats=stats) | {
            "plain3": KeyQueue(three),
            "plain5": KeyQueue(five),
            **{
                f"lengthwise, k={k} alone": KeyQueue(due_times_s(arrivals, five, factor=k))
                for k in (3, 10, 30)
            },
        }
        for name, queue in every.items():
            times = serve(arrivals, durations, queue, slots=slots)
            runs.setdefault(name, []).append(figures_of(arrivals, durations, times.ends_s))
            jobs.setdefault(name, []).append(as_run(arrivals, durations, tokens, times))
    return {
        name: RunFigures(
            **{
                field: float(np.mean([getattr(one, field) for one in each]))
                for field in ("mean_s", "p50_s", "p99_s", "max_s", "whole_per_s")
            },
            quarters_s=tuple(np.mean([one.quarters_s for one in each], axis=0).tolist()),
            details=describe(jobs[name], policy=NAMES[name]),
        )
        for name, each in runs.items()
    }


def steady_rows(answers: Classified) -> list[TableRow]:
    """Return the rows of every steady load."""
    found = []
    for slots, load, cut, tail in _STEADY:
        got = run(answers, slots=slots, load=load)
        found += _rows_of(slots, load, cut, tail, got, recorded=answers.recorded)
    return found


def _rows_of(
    slots: int,
    load: float,
    cut: float,
    tail: float,
    got: Mapping[str, RunFigures],
    *,
    recorded: bool,
) -> list[TableRow]:
    fcfs = got["fcfs"]
    where = f"{slots} slots" if slots > 1 else "1 slot"
    setting = f"steady Poisson load {load}, {where}, continuous, five-class predictor"
    common: dict[str, Any] = {
        "system": "SSJF",
        "setting": setting,
        "kind": "third party",
        "note": "published, reproduced: shortest predicted first without aging, in two simulators; "
        "corrected: with their bound on waiting",
        "details": of_requests(
            f"steady load {load}, {where}",
            baseline=fcfs.details,
            reproduced=got["plain5"].details,
            corrected=got["ssjf5"].details,
            **{name: one.details for name, one in got.items() if name not in _IN_ROW},
        ),
    }
    return [
        TableRow(
            name="mean completion time, cut against FCFS",
            unit="%",
            published=cut,
            reproduced=cut_against(fcfs.mean_s, got["plain5"].mean_s),
            corrected=cut_against(fcfs.mean_s, got["ssjf5"].mean_s),
            lengthwise=cut_against(fcfs.mean_s, got["lengthwise"].mean_s),
            tolerance=_STEADY_PP[recorded],
            **common,
        ),
        TableRow(
            name="p99 completion time, to FCFS",
            unit="x",
            published=round(tail, 2),
            reproduced=got["plain5"].p99_s / fcfs.p99_s,
            corrected=got["ssjf5"].p99_s / fcfs.p99_s,
            lengthwise=got["lengthwise"].p99_s / fcfs.p99_s,
            tolerance=_STEADY_P99,
            **common,
        ),
    ]


def cut_against(fcfs: float, other: float) -> float:
    """Return by how much `other` is less than `fcfs`, %."""
    return 100 * (1 - other / fcfs)
