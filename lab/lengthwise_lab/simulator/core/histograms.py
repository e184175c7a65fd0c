"""The measurements of ended requests, in histograms whose size does not grow with their number."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.parameters import Parameters
from lengthwise_lab.simulator.core.report_bounds import STARVED_S, STARVED_TIMES
from lengthwise_lab.simulator.core.state import (
    ARRIVAL,
    ENDED,
    FIRST,
    GAP,
    NOW,
    NUMBER,
    OUT,
    OVERTAKEN,
    PROMPT,
    SIZE,
    SLACK,
    SLOWDOWNS,
    TENANT,
    TOKENS,
    TTFT,
    Floats,
    Ints,
    State,
)

#: What is measured of each request. LAG: by how much later a request arrived that overtook it.
#: EXCESS: LAG less the request's slack, which our policy promises never to be above 0. SLOWDOWN:
#: completion time over what the request takes alone.
COMPLETION, WAIT, FIRST_TOKEN, PER_TOKEN, WORST_GAP, LAG, EXCESS, SLOWDOWN = range(8)
METRICS = (
    "completion_s", "wait_s", "ttft_s", "s_per_token", "worst_gap_s", "lag_s", "excess_s",
    "slowdown",
)  # fmt: skip
#: Histogram bins: from 0.1 ms on, each 1 % wider than the one before, up to 4e6 s.
LOWEST_S, RATIO, BINS = 1e-4, 0.01, 2450
#: Columns of `Histograms.record`.
RECORDED = ("first_s", "ttft_s", "end_s", "worst_gap_s", "lag_s")


class Histograms(NamedTuple):
    """The measurements of all ended requests.

    Attributes:
        edges: Upper bounds of the length buckets, output tokens, inclusive; one bucket more.
        hist: (metrics, 1 + buckets, bins): row 0 is everything.
        sums: (metrics, 1 + buckets, 4): count, sum, maximum, sum of squares.
        starved: (2,): how many waited more than `STARVED_TIMES` what they take alone, and more than
            `STARVED_S`.
        record: (requests, 5): the times of single requests, by number; (0, 5): not kept.
    """

    edges: Ints
    hist: Ints
    sums: Floats
    starved: Ints
    record: Floats


def new_histograms(edges: tuple[int, ...], *, recorded: int = 0) -> Histograms:
    """Return empty histograms, with space to record the first `recorded` requests one by one."""
    rows = len(edges) + 2
    sums = np.zeros((len(METRICS), rows, 4))
    sums[:, :, 2] = -np.inf
    return Histograms(
        edges=np.array(edges, np.int64),
        hist=np.zeros((len(METRICS), rows, BINS), np.int64),
        sums=sums,
        starved=np.zeros(2, np.int64),
        record=np.full((recorded, len(RECORDED)), np.nan),
    )


@compiled
def _count(histograms: Histograms, metric: int, bucket: int, value: float) -> None:
    at = 0
    if value > LOWEST_S:
        at = min(BINS - 1, 1 + int(math.log(value / LOWEST_S) / RATIO))
    for row in (0, bucket):
        histograms.hist[metric, row, at] += 1
        sums = histograms.sums[metric, row]
        sums[0] += 1
        sums[1] += value
        sums[2] = max(sums[2], value)
        sums[3] += value * value


@compiled
def count_ended(state: State, params: Parameters, histograms: Histograms, a: int) -> None:
    """Add the measurements of request `a`, which has all its output."""
    f, n, now = state.f, state.n, state.s[NOW]
    number, arrival = n[a, NUMBER], f[a, ARRIVAL]
    completion = now - arrival
    ttft = f[a, TTFT] - arrival
    lag = f[a, OVERTAKEN]
    if number < len(histograms.record):
        histograms.record[number, 0] = f[a, FIRST]
        histograms.record[number, 1] = f[a, TTFT]
        histograms.record[number, 2] = now
        histograms.record[number, 3] = max(ttft, f[a, GAP])
        histograms.record[number, 4] = lag
    if number < params.warm_up:
        return
    bucket = 1
    while bucket <= len(histograms.edges) and n[a, OUT] > histograms.edges[bucket - 1]:
        bucket += 1
    _count(histograms, COMPLETION, bucket, completion)
    _count(histograms, WAIT, bucket, f[a, FIRST] - arrival)
    _count(histograms, FIRST_TOKEN, bucket, ttft)
    _count(histograms, PER_TOKEN, bucket, completion / n[a, OUT])
    _count(histograms, WORST_GAP, bucket, max(ttft, f[a, GAP]))
    _count(histograms, LAG, bucket, lag)
    _count(histograms, EXCESS, bucket, lag - f[a, SLACK])
    if params.independent:
        alone = f[a, SIZE]
    else:
        alone = (params.step_s + params.decode_s) * n[a, OUT] + params.prefill_s * n[a, PROMPT]
    _count(histograms, SLOWDOWN, bucket, completion / alone)
    if f[a, FIRST] - arrival > STARVED_TIMES * alone:
        histograms.starved[0] += 1
    if f[a, FIRST] - arrival > STARVED_S:
        histograms.starved[1] += 1
    of_tenant = state.tenant_f[n[a, TENANT]]
    of_tenant[SLOWDOWNS] += completion / alone
    of_tenant[ENDED] += 1
    of_tenant[TOKENS] += n[a, OUT]


def quantile(counts: NDArray[np.int64], q: float) -> float:
    """Return the q-quantile of a histogram, s: the geometric middle of its bin, within 0.5 %."""
    total = int(counts.sum())
    if total == 0:
        return math.nan
    at = int(np.searchsorted(np.cumsum(counts), q * total, side="left"))
    return 0.0 if at == 0 else LOWEST_S * math.exp((at - 0.5) * RATIO)
