"""What came of the requests, in histograms: as large for ten million as for ten."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.reproductions.table.details import STARVED_S, STARVED_TIMES
from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.rules import Rules
from lengthwise_lab.simulator.core.state import (
    ARRIVAL,
    FIRST,
    GAP,
    NOW,
    NUMBER,
    OUT,
    OVERTAKEN,
    PROMPT,
    SIZE,
    SLACK,
    TENANT,
    TTFT,
    Floats,
    Ints,
    State,
)

#: What is measured of each request. LAG is by how much later one came that overtook it, EXCESS how
#: much more that is than its slack, which is what our policy promises never to be, SLOWDOWN its
#: completion time over what it takes alone.
COMPLETION, WAIT, FIRST_TOKEN, PER_TOKEN, WORST_GAP, LAG, EXCESS, SLOWDOWN = range(8)
METRICS = (
    "completion_s", "wait_s", "ttft_s", "s_per_token", "worst_gap_s", "lag_s", "excess_s",
    "slowdown",
)  # fmt: skip
#: Histogram bins: from 0.1 ms on, each 1 % wider than the one before, up to 4e6 s.
LOWEST_S, RATIO, BINS = 1e-4, 0.01, 2450
#: Columns of `Tally.record`.
RECORDED = ("first_s", "ttft_s", "end_s", "worst_gap_s", "lag_s")


class Tally(NamedTuple):
    """Counts of what ended.

    Attributes:
        edges: Upper bounds of the length buckets, output tokens, inclusive; one bucket more.
        hist: (metrics, 1 + buckets, bins): row 0 is everything.
        sums: (metrics, 1 + buckets, 4): count, sum, maximum, sum of squares.
        starved: (2,): how many waited more than `STARVED_TIMES` what they take alone, and more than
            `STARVED_S`.
        record: (requests, 5) by number, for runs that are looked at one by one; (0, 5): not kept.
    """

    edges: Ints
    hist: Ints
    sums: Floats
    starved: Ints
    record: Floats


def new_tally(edges: tuple[int, ...], *, recorded: int = 0) -> Tally:
    """An empty one, with room to record so many requests one by one."""
    rows = len(edges) + 2
    sums = np.zeros((len(METRICS), rows, 4))
    sums[:, :, 2] = -np.inf
    return Tally(
        edges=np.array(edges, np.int64),
        hist=np.zeros((len(METRICS), rows, BINS), np.int64),
        sums=sums,
        starved=np.zeros(2, np.int64),
        record=np.full((recorded, len(RECORDED)), np.nan),
    )


@compiled
def _count(tally: Tally, metric: int, bucket: int, value: float) -> None:
    at = 0
    if value > LOWEST_S:
        at = min(BINS - 1, 1 + int(math.log(value / LOWEST_S) / RATIO))
    for row in (0, bucket):
        tally.hist[metric, row, at] += 1
        sums = tally.sums[metric, row]
        sums[0] += 1
        sums[1] += value
        sums[2] = max(sums[2], value)
        sums[3] += value * value


@compiled
def count_ended(state: State, rules: Rules, tally: Tally, a: int) -> None:
    """Request `a` has all its output: put it into every tally."""
    f, n, now = state.f, state.n, state.s[NOW]
    number, arrival = n[a, NUMBER], f[a, ARRIVAL]
    completion = now - arrival
    ttft = f[a, TTFT] - arrival
    lag = f[a, OVERTAKEN]
    if number < len(tally.record):
        tally.record[number, 0] = f[a, FIRST]
        tally.record[number, 1] = f[a, TTFT]
        tally.record[number, 2] = now
        tally.record[number, 3] = max(ttft, f[a, GAP])
        tally.record[number, 4] = lag
    if number < rules.warm_up:
        return
    bucket = 1
    while bucket <= len(tally.edges) and n[a, OUT] > tally.edges[bucket - 1]:
        bucket += 1
    _count(tally, COMPLETION, bucket, completion)
    _count(tally, WAIT, bucket, f[a, FIRST] - arrival)
    _count(tally, FIRST_TOKEN, bucket, ttft)
    _count(tally, PER_TOKEN, bucket, completion / n[a, OUT])
    _count(tally, WORST_GAP, bucket, max(ttft, f[a, GAP]))
    _count(tally, LAG, bucket, lag)
    _count(tally, EXCESS, bucket, lag - f[a, SLACK])
    if rules.independent:
        alone = f[a, SIZE]
    else:
        alone = (rules.step_s + rules.decode_s) * n[a, OUT] + rules.prefill_s * n[a, PROMPT]
    _count(tally, SLOWDOWN, bucket, completion / alone)
    if f[a, FIRST] - arrival > STARVED_TIMES * alone:
        tally.starved[0] += 1
    if f[a, FIRST] - arrival > STARVED_S:
        tally.starved[1] += 1
    of_tenant = state.tenant_f[n[a, TENANT]]
    of_tenant[2] += completion / alone
    of_tenant[3] += 1
    of_tenant[4] += n[a, OUT]


def quantile(counts: NDArray[np.int64], q: float) -> float:
    """The q-quantile of a histogram, within 0.5 %: the geometric middle of its bin, s."""
    total = int(counts.sum())
    if total == 0:
        return math.nan
    at = int(np.searchsorted(np.cumsum(counts), q * total, side="left"))
    return 0.0 if at == 0 else LOWEST_S * math.exp((at - 0.5) * RATIO)
