"""The statistics of a load test: quantiles, length buckets, rank agreement, and the oracle. Pure.

Called by report.py on the samples that drive.py brought home. The line that the oracle stands in
is ordered by `lengthwise_queue.scheduling.policy` itself, so it is the product's rule and not a copy of it.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lengthwise_contract.queue_settings import PolicyName
from lengthwise_queue.scheduling.policy import slack_ms

#: k of the oracle: the largest that a queue takes, which is shortest first in all but name.
ORACLE_OVERTAKE_FACTOR = 1000.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request as its client saw it. Times are seconds on the client's monotonic clock.

    `due_to_send_s` counts from the start of the run; the others from that moment on, also when the
    driver was late, so that a slow driver cannot hide a slow server (coordinated omission).
    """

    index: int  #: Which request of the workload.
    due_to_send_s: float
    ttft_s: float | None = None  #: To the first token; None: there was none.
    completion_s: float | None = None  #: To the last byte; None: it failed.
    error: str | None = None
    job_id: str | None = None
    policy: str | None = None  #: What the queue says it was ordered by.
    predicted_tokens: float | None = None  #: None: the predictor did not answer in time.
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    service_s: float | None = None  #: Claim to end, by the queue's clock.

    @property
    def ok(self) -> bool:
        """Whether the whole answer came."""
        return self.error is None and self.completion_s is not None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A distribution of seconds, by its usual points."""

    count: int
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile, interpolated between the two nearest values (type 7, numpy's default).

    Raises:
        ValueError: There are no values, or q is outside 0..1.
    """
    if not values or not 0 <= q <= 1:
        raise ValueError(f"need values and 0 <= q <= 1, got {len(values)} values and q={q}")
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def summarize(values: Sequence[float]) -> Summary:
    """The usual points of a distribution of seconds.

    Raises:
        ValueError: There are no values.
    """
    return Summary(
        count=len(values),
        mean_s=sum(values) / len(values) if values else math.nan,
        p50_s=quantile(values, 0.5),
        p90_s=quantile(values, 0.9),
        p99_s=quantile(values, 0.99),
        max_s=max(values),
    )


# ------------------------------------------------------------------------------- buckets


def bucket_edges(values: Sequence[float], count: int = 3) -> list[float]:
    """Upper edges that cut the values into `count` parts of equal size, as far as ties allow.

    Equal parts, because fixed edges leave buckets empty when a model's lengths lie close together.
    The last bucket has no upper edge; equal edges are merged, so there may be fewer buckets.
    """
    if not values:
        return []
    top = max(values)
    edges = {quantile(values, i / count) for i in range(1, count)}
    return sorted(e for e in edges if e < top)


def bucket_of(value: float, edges: Sequence[float]) -> int:
    """Which bucket a value is in: bucket i holds `edges[i-1] < value <= edges[i]`."""
    return bisect_left(edges, value)


def bucket_names(edges: Sequence[float]) -> list[str]:
    """What to call the buckets, shortest first; tokens."""
    if not edges:
        return ["all"]
    inner = [f"{low:.0f}-{high:.0f}" for low, high in pairwise(edges)]
    return [f"<= {edges[0]:.0f}", *inner, f"> {edges[-1]:.0f}"]


# ------------------------------------------------------------------------------- rank agreement


def tau_b(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Kendall's tau-b: how far two rankings agree, -1..1, ties counted as they should be.

    `(concordant - discordant) / sqrt((pairs - ties in x) * (pairs - ties in y))`.

    Returns:
        None where it is not defined: fewer than two points, or all of x or of y equal.

    Raises:
        ValueError: The two differ in length.

    Source: W. R. Knight, A Computer Method for Calculating Kendall's Tau with Ungrouped Data
    (1966): discordant pairs are the exchanges of a merge sort, so it is O(n log n).
    """
    if len(xs) != len(ys):
        raise ValueError(f"need as many x as y, got {len(xs)} and {len(ys)}")
    points = sorted(zip(xs, ys, strict=True))
    pairs = _pairs(len(points))
    ties_x = _tied_pairs([x for x, _ in points])
    ties_both = _tied_pairs(points)
    ordered, exchanges = _merge_sort([y for _, y in points])
    ties_y = _tied_pairs(ordered)
    scale = math.sqrt((pairs - ties_x) * (pairs - ties_y))
    if scale == 0:
        return None
    agreement = pairs - ties_x - ties_y + ties_both - 2 * exchanges
    return agreement / scale


def _pairs(n: int) -> int:
    return n * (n - 1) // 2


def _tied_pairs(ordered: Sequence[object]) -> int:
    """Pairs of equal neighbours in a sorted sequence."""
    total, run = 0, 1
    for previous, current in pairwise(ordered):
        if current == previous:
            total += run
            run += 1
        else:
            run = 1
    return total


def _merge_sort(values: list[float]) -> tuple[list[float], int]:
    """The values in order, and how many pairs stood the wrong way round."""
    if len(values) < 2:
        return values, 0
    middle = len(values) // 2
    left, left_count = _merge_sort(values[:middle])
    right, right_count = _merge_sort(values[middle:])
    merged: list[float] = []
    exchanges, i, j = left_count + right_count, 0, 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            exchanges += len(left) - i
            j += 1
    return merged + left[i:] + right[j:], exchanges


# ------------------------------------------------------------------------------- the oracle


def list_schedule(
    arrivals_s: Sequence[float],
    service_s: Sequence[float],
    lengths_ms: Sequence[float],
    *,
    slots: int,
    policy: PolicyName,
    overtake_factor: float,
) -> list[float]:
    """When each request would be done, if `slots` slots served them in the policy's order.

    Whenever a slot is free, the arrived request with the smallest due time takes it and keeps it
    for its service time. The model has no more to it than that: service times do not depend on
    how many slots are busy, so compare it with itself under `fcfs` before believing it.

    Args:
        arrivals_s: Seconds from the start of the run.
        service_s: Seconds that each holds a slot.
        lengths_ms: What each is ordered by under `sjf`, ms.
        slots: How many are served at once, >= 1.
        policy: As in a queue's settings.
        overtake_factor: k, as in a queue's settings.

    Returns:
        Completion times in the order of the arguments, seconds after arrival.

    Raises:
        ValueError: `slots` < 1, or the sequences differ in length.
    """
    if slots < 1 or not len(arrivals_s) == len(service_s) == len(lengths_ms):
        raise ValueError(
            f"need slots >= 1 and equal lengths, got {slots} slots and "
            f"{len(arrivals_s)}, {len(service_s)}, {len(lengths_ms)}"
        )
    due_ms = [
        1000 * arrived + slack_ms(length, policy=policy, overtake_factor=overtake_factor)
        for arrived, length in zip(arrivals_s, lengths_ms, strict=True)
    ]
    order = sorted(range(len(arrivals_s)), key=lambda i: (arrivals_s[i], i))
    free_at = [0.0] * slots
    line: list[tuple[float, int]] = []
    done = [0.0] * len(order)
    upcoming = 0
    for _ in order:
        now = heapq.heappop(free_at)
        if not line:
            now = max(now, arrivals_s[order[upcoming]])
        while upcoming < len(order) and arrivals_s[order[upcoming]] <= now:
            heapq.heappush(line, (due_ms[order[upcoming]], order[upcoming]))
            upcoming += 1
        _, i = heapq.heappop(line)
        heapq.heappush(free_at, now + service_s[i])
        done[i] = now + service_s[i] - arrivals_s[i]
    return done


def oracle(samples: Sequence[Sample], *, slots: int) -> tuple[Summary, Summary] | None:
    """What knowing every length beforehand would give, and the same model's figure for FCFS.

    Both from `list_schedule` with the service times that were measured, ordered by the lengths that
    were measured.

    Returns:
        (shortest first, first come first served); None if no sample has length and service time.
    """
    known = [s for s in samples if s.ok and s.service_s is not None and s.output_tokens is not None]
    if not known:
        return None
    arrivals = [s.due_to_send_s for s in known]
    service = [s.service_s or 0.0 for s in known]
    lengths = [float(s.output_tokens or 0) for s in known]

    def under(policy: PolicyName) -> Summary:
        return summarize(
            list_schedule(
                arrivals,
                service,
                lengths,
                slots=slots,
                policy=policy,
                overtake_factor=ORACLE_OVERTAKE_FACTOR,
            )
        )

    return under("sjf"), under("fcfs")


def by_bucket(
    samples: Sequence[Sample],
    predictions: Callable[[int], float | None],
    edges: Sequence[float],
) -> list[Summary | None]:
    """Completion times by predicted length, one summary a bucket; None: the bucket is empty.

    Args:
        samples: Those of one run.
        predictions: index of the request -> predicted tokens; None leaves it out.
        edges: From `bucket_edges`.
    """
    buckets: list[list[float]] = [[] for _ in range(len(edges) + 1)]
    for sample in samples:
        predicted = predictions(sample.index)
        if sample.completion_s is not None and sample.error is None and predicted is not None:
            buckets[bucket_of(predicted, edges)].append(sample.completion_s)
    return [summarize(values) if values else None for values in buckets]
