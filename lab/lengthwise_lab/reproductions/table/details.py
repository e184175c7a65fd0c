"""What a row of the table has beside its number: the same figures for every run of requests.

A headline number is one figure of a workload; this is the rest of it, so that a mean cannot hide a
tail. Called by every source of rows that has requests; those that have none say so (table.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.simulator.core.report_bounds import (
    BUCKET_EDGES,
    STARVED_S,
    STARVED_TIMES,
    bucket_names,
)
from lengthwise_lab.simulator.core.state import Floats

#: The names of the length buckets.
BUCKETS = bucket_names(BUCKET_EDGES)

#: What every run of requests is described by. table.py holds the rows to it.
KEYS = ("policy", "time", "runs", "requests", "completion_s", "buckets", "fairness", "starvation")

SIMULATED = "simulated seconds"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Some requests served by one policy; all (n,), in the order in which they were sent.

    Attributes:
        arrival_s: When each was sent, s.
        start_s: When it was first given a slot; by SSJF's own rules, when it last was, s.
        end_s: When its answer was whole, s; NaN: it never was.
        alone_s: What it takes on an idle engine, s.
        tokens: Of its answer.
    """

    arrival_s: Floats
    start_s: Floats
    end_s: Floats
    alone_s: Floats
    tokens: Floats


def describe(
    runs: Sequence[Run],
    *,
    policy: str,
    time: str = SIMULATED,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All that is said of requests.

    Counts are added up over the runs and maxima are the largest of all; every other figure is the
    mean over the runs of each run's own, as the seeds report theirs.

    Args:
        runs: Of one policy over one kind of workload; >= 1, each with >= 1 request that ended.
        policy: What decided who is next.
        time: What the seconds are.
        more: What else this source knows of the runs.

    Returns:
        The `KEYS`: `completion_s` from sending to the whole answer, and in `buckets` by output
        tokens; `fairness` between requests, by their slowdown (completion over what the request
        takes alone): 1 of Jain's index is the same slowdown for all; `starvation`: waits for the
        first slot, the share that waited long, by how much later a request came that was started
        before (`max_lag_s`), how many places a request lost, and how many were never served.
    """
    ended = [~np.isnan(run.end_s) for run in runs]
    took = [(run.end_s - run.arrival_s)[there] for run, there in zip(runs, ended, strict=True)]
    alone = [run.alone_s[there] for run, there in zip(runs, ended, strict=True)]
    slowdowns = [times / least for times, least in zip(took, alone, strict=True)]
    place = [
        np.searchsorted(BUCKET_EDGES, run.tokens[there], side="left")
        for run, there in zip(runs, ended, strict=True)
    ]
    return {
        "policy": policy,
        "time": time,
        "runs": len(runs),
        "requests": sum(len(run.end_s) for run in runs),
        "completion_s": spread(took),
        "buckets": {
            name: spread([t[at == n] for t, at in zip(took, place, strict=True)])
            for n, name in enumerate(BUCKETS)
        },
        "fairness": {
            "jain_of_slowdowns": rounded(np.mean([_jain(each) for each in slowdowns])),
            "slowdown": spread(slowdowns),
        },
        "starvation": _starvation(runs, ended),
        **(more or {}),
    }


def spread(runs: Sequence[Floats]) -> dict[str, Any]:
    """Count, mean, p50, p99 and maximum; a run without a value is left out of the means."""
    full = [values for values in runs if len(values)]
    if not full:
        return {"count": 0}
    p50, p99 = np.mean([quantiles(values, (0.5, 0.99)) for values in full], axis=0)
    return {
        "count": sum(map(len, full)),
        "mean": rounded(np.mean([values.mean() for values in full])),
        "p50": rounded(p50),
        "p99": rounded(p99),
        "max": rounded(max(values.max() for values in full)),
    }


def quantiles(values: Floats, shares: Sequence[float]) -> list[float]:
    """As np.quantile gives them, which takes ten times as long for the few jobs of a run."""
    ordered = np.sort(values)
    found = []
    for share in shares:
        at = share * (len(ordered) - 1)
        low = int(at)
        high = min(low + 1, len(ordered) - 1)
        found.append(float(ordered[low] + (ordered[high] - ordered[low]) * (at - low)))
    return found


def _starvation(runs: Sequence[Run], ended: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
    waits = [(run.start_s - run.arrival_s)[there] for run, there in zip(runs, ended, strict=True)]
    p99 = np.mean([quantiles(wait, (0.99,))[0] for wait in waits])

    def share(late: Callable[[Floats, Floats], NDArray[np.bool_]]) -> float:
        """Of the requests that were served."""
        each = [
            late(wait, run.alone_s[there]).mean()
            for wait, run, there in zip(waits, runs, ended, strict=True)
        ]
        return rounded(np.mean(each))

    return {
        "mean_wait_s": rounded(np.mean([wait.mean() for wait in waits])),
        "p99_wait_s": rounded(p99),
        "max_wait_s": rounded(max(wait.max() for wait in waits)),
        "share_waiting_over_10_times_its_length": share(lambda w, a: w > STARVED_TIMES * a),
        "share_waiting_over_100_s": share(lambda w, _: w > STARVED_S),
        "max_lag_s": rounded(
            max(_lags(run, there) for run, there in zip(runs, ended, strict=True))
        ),
        "max_places_lost": max(
            _places_lost(run, there) for run, there in zip(runs, ended, strict=True)
        ),
        "never_served": sum(int((~there).sum()) for there in ended),
    }


def _lags(run: Run, ended: NDArray[np.bool_]) -> float:
    """By how much later one came that was started before another, at most, s."""
    arrival, start = run.arrival_s[ended], run.start_s[ended]
    order = np.argsort(start, kind="stable")
    sent, begun = arrival[order], start[order]
    latest = np.maximum.accumulate(sent)
    # Who starts at the same instant has overtaken nobody: the latest of those strictly before.
    before = np.searchsorted(begun, begun, side="left")
    overtaken = before > 0
    return float(np.max(latest[before[overtaken] - 1] - sent[overtaken], initial=0.0))


def _places_lost(run: Run, ended: NDArray[np.bool_]) -> int:
    """How many places later than it came a request was started, at most."""
    start = run.start_s[ended]
    began = np.empty(len(start), np.int64)
    began[np.argsort(start, kind="stable")] = np.arange(len(start))
    return int(np.max(began - np.arange(len(start)), initial=0))


def _jain(values: Floats) -> float:
    return float(values.sum() ** 2 / (len(values) * (values**2).sum()))


def rounded(value: float | np.floating[Any]) -> float:
    """Six digits: more would be the machine's rounding."""
    return float(f"{float(value):.6g}")
