"""Bound the rate at which jobs are kept to learn from. Pure.

A queue that answers hundreds of jobs a second learns nothing from keeping each: 10,000 are kept in
all. What is stored of a job costs Redis about as much as a tenth of the job
(docs/research/experiments.md, "the learner in service").
"""

from __future__ import annotations

#: Jobs of one queue that a replica keeps, each second in the long run, and at once.
PER_S, AT_ONCE = 50.0, 1000.0


class KeptRate:
    """A token bucket for each queue. Times are of the caller's monotonic clock, s."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, queue: str, now_s: float) -> bool:
        """Return whether the next job of a queue is kept."""
        left, at_s = self._buckets.get(queue, (AT_ONCE, now_s))
        left = min(AT_ONCE, left + PER_S * max(0.0, now_s - at_s))
        kept = left >= 1
        self._buckets[queue] = (left - 1 if kept else left), now_s
        return kept
