"""The statistics of a load test: quantiles, length buckets, rank agreement. Pure.

Called by report.py on the samples of driver.py.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request as its client measured it. Times are seconds on the client's monotonic clock.

    `due_to_send_s` counts from the start of the run. The other times count from then, also if the
    driver sent the request late, so that a slow driver cannot hide a slow server (coordinated
    omission).
    """

    index: int  #: Index of the request in the workload.
    due_to_send_s: float
    ttft_s: float | None = None  #: To the first token; None: there was none.
    completion_s: float | None = None  #: To the last byte; None: it failed.
    error: str | None = None
    job_id: str | None = None
    policy: str | None = None  #: The policy that the queue reports.
    predicted_tokens: float | None = None  #: None: the predictor did not answer in time.
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    service_s: float | None = None  #: From claim to end, by the queue's clock.

    @property
    def ok(self) -> bool:
        """Whether the answer is complete."""
        return self.error is None and self.completion_s is not None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean and quantiles of a distribution of seconds."""

    count: int
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


def quantile(values: Sequence[float], q: float) -> float:
    """Return the q-quantile, interpolated between two values (type 7, numpy's default).

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
    """Summarize a distribution of seconds.

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
    """Return upper edges that cut the values into `count` parts of equal size, if ties allow.

    Fixed edges would leave buckets empty for a model whose lengths are close together. The last
    bucket has no upper edge. Equal edges are merged, so that there may be fewer buckets.
    """
    if not values:
        return []
    top = max(values)
    edges = {quantile(values, i / count) for i in range(1, count)}
    return sorted(e for e in edges if e < top)


def bucket_of(value: float, edges: Sequence[float]) -> int:
    """Return the bucket of a value: bucket i holds `edges[i-1] < value <= edges[i]`."""
    return bisect_left(edges, value)


def bucket_names(edges: Sequence[float]) -> list[str]:
    """Return the names of the buckets, shortest first; tokens."""
    if not edges:
        return ["all"]
    inner = [f"{low:.0f}-{high:.0f}" for low, high in pairwise(edges)]
    return [f"<= {edges[0]:.0f}", *inner, f"> {edges[-1]:.0f}"]


# ------------------------------------------------------------------------------- rank agreement


def tau_b(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Return Kendall's tau-b, the agreement of two rankings, -1..1, corrected for ties.

    `(concordant - discordant) / sqrt((pairs - ties in x) * (pairs - ties in y))`.

    Returns:
        None if it is not defined: fewer than two points, or all of x or of y equal.

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
    """Count the pairs of equal values in a sorted sequence."""
    total, run = 0, 1
    for previous, current in pairwise(ordered):
        if current == previous:
            total += run
            run += 1
        else:
            run = 1
    return total


def _merge_sort(values: list[float]) -> tuple[list[float], int]:
    """Sort the values. Return them and the number of pairs that were out of order."""
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


def by_bucket(
    samples: Sequence[Sample],
    predictions: Callable[[int], float | None],
    edges: Sequence[float],
) -> list[Summary | None]:
    """Summarize completion times by predicted length, one summary a bucket; None: empty bucket.

    Args:
        samples: The samples of one run.
        predictions: Index of the request -> predicted tokens; None leaves it out.
        edges: From `bucket_edges`.
    """
    buckets: list[list[float]] = [[] for _ in range(len(edges) + 1)]
    for sample in samples:
        predicted = predictions(sample.index)
        if sample.completion_s is not None and sample.error is None and predicted is not None:
            buckets[bucket_of(predicted, edges)].append(sample.completion_s)
    return [summarize(values) if values else None for values in buckets]
