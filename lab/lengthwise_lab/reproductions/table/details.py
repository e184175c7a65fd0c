"""The details behind a row's number: the same figures for every run of requests.

A headline number is one figure of a workload. The details are the rest, so that a mean cannot hide
a tail. Called by every source of rows about requests.
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

#: The figures of every run of requests; `row.lacks` checks that none is missing.
KEYS = ("policy", "time", "runs", "requests", "completion_s", "buckets", "fairness", "starvation")

SIMULATED = "simulated seconds"


@dataclass(frozen=True, kw_only=True)
class RequestTimes:
    """The times of requests served by one policy; all (n,), in the order of sending.

    Attributes:
        arrival_s: When each was sent, s.
        start_s: When it first got a slot, s.
        end_s: When its answer was complete, s; NaN: never.
        alone_s: What it takes on an idle engine, s.
        tokens: The length of its answer.
    """

    arrival_s: Floats
    start_s: Floats
    end_s: Floats
    alone_s: Floats
    tokens: Floats


def describe(
    runs: Sequence[RequestTimes],
    *,
    policy: str,
    time: str = SIMULATED,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the figures of some runs.

    Counts are summed over the runs, and maxima are the largest of all. Every other figure is the
    mean over the runs of each run's own figure, as the four research systems report them.

    Args:
        runs: Runs of one policy over one kind of workload; >= 1, each with >= 1 finished request.
        policy: The order of service, for a reader.
        time: The meaning of the seconds.
        more: More figures of this source.

    Returns:
        The `KEYS`: `completion_s` from sending to the complete answer, and in `buckets` by output
        tokens; `fairness` between requests, by their slowdown (completion over what the request
        takes alone): Jain's index is 1 if all slowdowns are the same; `starvation`: waits for the
        first slot, the share that waited long, by how much later at most a request was sent that
        started before another (`max_lag_s`), how many places a request lost at most, and how many
        were never served.
    """
    ended = [~np.isnan(run.end_s) for run in runs]
    took = [(run.end_s - run.arrival_s)[served] for run, served in zip(runs, ended, strict=True)]
    alone = [run.alone_s[served] for run, served in zip(runs, ended, strict=True)]
    slowdowns = [times / least for times, least in zip(took, alone, strict=True)]
    place = [
        np.searchsorted(BUCKET_EDGES, run.tokens[served], side="left")
        for run, served in zip(runs, ended, strict=True)
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
    """Return count, mean, p50, p99 and maximum; means leave out runs without a value."""
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
    """Return the same as np.quantile, ten times as fast for the few jobs of a run."""
    ordered = np.sort(values)
    found = []
    for share in shares:
        at = share * (len(ordered) - 1)
        low = int(at)
        high = min(low + 1, len(ordered) - 1)
        found.append(float(ordered[low] + (ordered[high] - ordered[low]) * (at - low)))
    return found


def _starvation(runs: Sequence[RequestTimes], ended: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
    waits = [(run.start_s - run.arrival_s)[served] for run, served in zip(runs, ended, strict=True)]
    p99 = np.mean([quantiles(wait, (0.99,))[0] for wait in waits])

    def share(late: Callable[[Floats, Floats], NDArray[np.bool_]]) -> float:
        """Return the share of the served requests."""
        each = [
            late(wait, run.alone_s[served]).mean()
            for wait, run, served in zip(waits, runs, ended, strict=True)
        ]
        return rounded(np.mean(each))

    return {
        "mean_wait_s": rounded(np.mean([wait.mean() for wait in waits])),
        "p99_wait_s": rounded(p99),
        "max_wait_s": rounded(max(wait.max() for wait in waits)),
        "share_waiting_over_10_times_its_length": share(lambda w, a: w > STARVED_TIMES * a),
        "share_waiting_over_100_s": share(lambda w, _: w > STARVED_S),
        "max_lag_s": rounded(
            max(_lags(run, served) for run, served in zip(runs, ended, strict=True))
        ),
        "max_places_lost": max(
            _places_lost(run, served) for run, served in zip(runs, ended, strict=True)
        ),
        "never_served": sum(int((~served).sum()) for served in ended),
    }


def _lags(run: RequestTimes, ended: NDArray[np.bool_]) -> float:
    """Return by how much later at most a request was sent that started before another, s."""
    arrival, start = run.arrival_s[ended], run.start_s[ended]
    order = np.argsort(start, kind="stable")
    sent, began = arrival[order], start[order]
    latest = np.maximum.accumulate(sent)
    # A request that starts at the same instant has not overtaken: only those strictly before count.
    before = np.searchsorted(began, began, side="left")
    overtaken = before > 0
    return float(np.max(latest[before[overtaken] - 1] - sent[overtaken], initial=0.0))


def _places_lost(run: RequestTimes, ended: NDArray[np.bool_]) -> int:
    """Return how many places later than in order of sending a request started, at most."""
    start = run.start_s[ended]
    began = np.empty(len(start), np.int64)
    began[np.argsort(start, kind="stable")] = np.arange(len(start))
    return int(np.max(began - np.arange(len(start)), initial=0))


def _jain(values: Floats) -> float:
    return float(values.sum() ** 2 / (len(values) * (values**2).sum()))


def rounded(value: float | np.floating[Any]) -> float:
    """Round to six digits, which every machine gives alike."""
    return float(f"{float(value):.6g}")
