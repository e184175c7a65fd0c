"""A finished simulation in figures that JSON can hold. Called by reports and by the table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lengthwise_lab.simulator.core.state import FINISHED, MAX_WAITING, PREEMPTIONS, REDONE
from lengthwise_lab.simulator.core.tally import (
    COMPLETION,
    EXCESS,
    FIRST_TOKEN,
    LAG,
    PER_TOKEN,
    SLOWDOWN,
    WAIT,
    WORST_GAP,
    Tally,
    quantile,
)
from lengthwise_lab.simulator.experiment import Outcome, now_s

_SHOWN = {
    "completion_s": COMPLETION,
    "wait_s": WAIT,
    "ttft_s": FIRST_TOKEN,
    "s_per_token": PER_TOKEN,
    "worst_gap_s": WORST_GAP,
}


def figures(outcome: Outcome) -> dict[str, Any]:
    """All that a run tells.

    Returns:
        `completion_s`, `wait_s`, `ttft_s`, `s_per_token` and `worst_gap_s`, each with count, mean,
        p50, p90, p99 (within 0.5 %) and max; `buckets`, completion by output tokens; `fairness`
        between requests, by their slowdowns, and between tenants; `starvation`: the longest wait,
        the shares that waited long, by how much later a request came that overtook another at most,
        and how far that is beyond the slack (<= 0: our promise held); `engine`: preemptions, tokens
        computed again, simulated seconds, tokens a second.
    """
    tally, state = outcome.tally, outcome.state
    ended = int(state.i[FINISHED])
    seconds = now_s(outcome)
    tokens = float(state.tenant_f[:, 4].sum())
    return {
        "policy": outcome.policy,
        "ended": ended,
        "tau_b": round(outcome.tau, 4),
        **{name: spread_of(tally, metric) for name, metric in _SHOWN.items()},
        "buckets": _buckets(tally),
        "fairness": {
            "jain_of_slowdowns": _jain(tally),
            "slowdown": spread_of(tally, SLOWDOWN),
            **fairness(state.tenant_f),
        },
        "starvation": {
            "max_wait_s": _rounded(float(tally.sums[WAIT, 0, 2])),
            "share_waiting_over_10_times_its_length": _share(tally, 0),
            "share_waiting_over_100_s": _share(tally, 1),
            "max_lag_s": _rounded(float(tally.sums[LAG, 0, 2])),
            "mean_lag_s": _rounded(_mean(tally, LAG, 0)),
            "max_excess_s": _rounded(float(tally.sums[EXCESS, 0, 2])),
        },
        "engine": {
            "seconds": _rounded(seconds),
            "tokens_per_s": _rounded(tokens / seconds if seconds > 0 else 0.0),
            "preemptions": int(state.i[PREEMPTIONS]),
            "tokens_redone": int(state.i[REDONE]),
            "longest_line": int(state.i[MAX_WAITING]),
        },
        "cost": {
            "pricing_s": round(outcome.pricing_s, 3),
            "running_s": round(outcome.running_s, 3),
        },
    }


def spread_of(tally: Tally, metric: int, row: int = 0) -> dict[str, float]:
    """Count, mean, quantiles and maximum of one metric in one length bucket; row 0 is all."""
    count = int(tally.sums[metric, row, 0])
    if count == 0:
        return {"count": 0}
    hist = tally.hist[metric, row]
    largest = float(tally.sums[metric, row, 2])
    return {
        "count": count,
        "mean": _rounded(_mean(tally, metric, row)),
        **{
            f"p{round(100 * q)}": _rounded(min(quantile(hist, q), largest))
            for q in (0.5, 0.9, 0.99)
        },
        "max": _rounded(largest),
    }


def _buckets(tally: Tally) -> dict[str, dict[str, float]]:
    names, low = [], 1
    for edge in tally.edges:
        names.append(f"{low}-{edge}")
        low = int(edge) + 1
    names.append(f"{low}+")
    return {name: spread_of(tally, COMPLETION, row + 1) for row, name in enumerate(names)}


def fairness(tenants: np.ndarray) -> dict[str, Any]:
    """Jain's index over the tenants' mean slowdowns, and the worst off beside the best off.

    A slowdown is the completion time over what the request takes alone.
    """
    served = tenants[tenants[:, 3] > 0]
    slowdowns = served[:, 2] / served[:, 3]
    if len(slowdowns) == 0:
        return {}
    jain = slowdowns.sum() ** 2 / (len(slowdowns) * (slowdowns**2).sum())
    return {
        "jain": round(float(jain), 4),
        "max_over_min": _rounded(float(slowdowns.max() / slowdowns.min())),
        "slowdowns": [_rounded(float(value)) for value in slowdowns],
    }


def _jain(tally: Tally) -> float:
    """Jain's index over the requests' slowdowns: 1 if all have the same."""
    count, total, _, squares = tally.sums[SLOWDOWN, 0]
    return _rounded(total**2 / (count * squares)) if count else 0.0


def _share(tally: Tally, which: int) -> float:
    """Of the requests that ended, those that starved; see `Tally.starved`."""
    count = float(tally.sums[WAIT, 0, 0])
    return _rounded(float(tally.starved[which]) / count) if count else 0.0


def _mean(tally: Tally, metric: int, row: int) -> float:
    count = float(tally.sums[metric, row, 0])
    return float(tally.sums[metric, row, 1]) / count if count else math.nan


def _rounded(value: float) -> float:
    """Six digits; JSON has no infinity."""
    return float(f"{value:.6g}") if math.isfinite(value) else 0.0
