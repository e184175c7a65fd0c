"""Summarise a finished simulation as values that JSON can hold. Called by reports and the table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lengthwise_lab.simulator.core.histograms import (
    COMPLETION,
    EXCESS,
    FIRST_TOKEN,
    LAG,
    PER_TOKEN,
    SLOWDOWN,
    WAIT,
    WORST_GAP,
    Histograms,
    quantile,
)
from lengthwise_lab.simulator.core.report_bounds import bucket_names
from lengthwise_lab.simulator.core.state import (
    ENDED,
    FINISHED,
    MAX_WAITING,
    PREEMPTIONS,
    REDONE,
    SLOWDOWNS,
    TOKENS,
)
from lengthwise_lab.simulator.simulation import SimulationResult, now_s

_SHOWN = {
    "completion_s": COMPLETION,
    "wait_s": WAIT,
    "ttft_s": FIRST_TOKEN,
    "s_per_token": PER_TOKEN,
    "worst_gap_s": WORST_GAP,
}


def summarize(result: SimulationResult) -> dict[str, Any]:
    """Return all the measurements of a run.

    Returns:
        `completion_s`, `wait_s`, `ttft_s`, `s_per_token` and `worst_gap_s`, each with count, mean,
        p50, p90, p99 (within 0.5 %) and max; `buckets`: completion by output tokens; `fairness`
        between requests, by their slowdowns, and between tenants; `starvation`: the longest wait,
        the shares that waited long, by how much later at most a request arrived that overtook
        another, and how far that is beyond the slack (<= 0: our promise was kept); `engine`:
        preemptions, tokens computed again, simulated seconds, tokens a second, longest queue.
    """
    histograms, state = result.histograms, result.state
    ended = int(state.i[FINISHED])
    seconds = now_s(result)
    tokens = float(state.tenant_f[:, TOKENS].sum())
    return {
        "policy": result.policy,
        "ended": ended,
        "tau_b": round(result.tau, 4),
        **{name: spread_of(histograms, metric) for name, metric in _SHOWN.items()},
        "buckets": {
            name: spread_of(histograms, COMPLETION, row)
            for row, name in enumerate(bucket_names(histograms.edges.tolist()), start=1)
        },
        "fairness": {
            "jain_of_slowdowns": _jain(histograms),
            "slowdown": spread_of(histograms, SLOWDOWN),
            **fairness(state.tenant_f),
        },
        "starvation": {
            "max_wait_s": _rounded(float(histograms.sums[WAIT, 0, 2])),
            "share_waiting_over_10_times_its_length": _share(histograms, 0),
            "share_waiting_over_100_s": _share(histograms, 1),
            "max_lag_s": _rounded(float(histograms.sums[LAG, 0, 2])),
            "mean_lag_s": _rounded(_mean(histograms, LAG, 0)),
            "max_excess_s": _rounded(float(histograms.sums[EXCESS, 0, 2])),
        },
        "engine": {
            "seconds": _rounded(seconds),
            "tokens_per_s": _rounded(tokens / seconds if seconds > 0 else 0.0),
            "preemptions": int(state.i[PREEMPTIONS]),
            "tokens_redone": int(state.i[REDONE]),
            "longest_queue": int(state.i[MAX_WAITING]),
        },
        "cost": {
            "pricing_s": round(result.pricing_s, 3),
            "running_s": round(result.running_s, 3),
        },
    }


def spread_of(histograms: Histograms, metric: int, row: int = 0) -> dict[str, float]:
    """Return count, mean, quantiles and maximum of one metric in one bucket; row 0 is all."""
    count = int(histograms.sums[metric, row, 0])
    if count == 0:
        return {"count": 0}
    hist = histograms.hist[metric, row]
    largest = float(histograms.sums[metric, row, 2])
    return {
        "count": count,
        "mean": _rounded(_mean(histograms, metric, row)),
        **{
            f"p{round(100 * q)}": _rounded(min(quantile(hist, q), largest))
            for q in (0.5, 0.9, 0.99)
        },
        "max": _rounded(largest),
    }


def fairness(tenants: np.ndarray) -> dict[str, Any]:
    """Return Jain's index over the tenants' mean slowdowns, and the worst over the best.

    A slowdown is the completion time over what the request takes alone.
    """
    served = tenants[tenants[:, ENDED] > 0]
    slowdowns = served[:, SLOWDOWNS] / served[:, ENDED]
    if len(slowdowns) == 0:
        return {}
    jain = slowdowns.sum() ** 2 / (len(slowdowns) * (slowdowns**2).sum())
    return {
        "jain": round(float(jain), 4),
        "max_over_min": _rounded(float(slowdowns.max() / slowdowns.min())),
        "slowdowns": [_rounded(float(value)) for value in slowdowns],
    }


def _jain(histograms: Histograms) -> float:
    """Return Jain's index over the requests' slowdowns: 1 if all are the same."""
    count, total, _, squares = histograms.sums[SLOWDOWN, 0]
    return _rounded(total**2 / (count * squares)) if count else 0.0


def _share(histograms: Histograms, which: int) -> float:
    """Return the share of the ended requests that starved; see `Histograms.starved`."""
    count = float(histograms.sums[WAIT, 0, 0])
    return _rounded(float(histograms.starved[which]) / count) if count else 0.0


def _mean(histograms: Histograms, metric: int, row: int) -> float:
    count = float(histograms.sums[metric, row, 0])
    return float(histograms.sums[metric, row, 1]) / count if count else math.nan


def _rounded(value: float) -> float:
    """Round to six digits; 0 for infinity and NaN, which JSON cannot hold."""
    return float(f"{value:.6g}") if math.isfinite(value) else 0.0
