"""Find jobs that were overtaken, and check that the bound allows it. Pure.

Called by queue_checks.py.

docs/concepts/ordering.md guarantees: a job is not overtaken by a job of its class that was accepted
later than it by more than its own bound. With classes, and with a delay after which a job starts to
wait, K may start before J, while J waits, only if

    since_K + offset_K <= since_J + offset_J + bound_J

The right side is J's due time, so that the bound follows from the due times in the
acknowledgements. The order itself is stricter: of the waiting jobs, the one with the smallest due
time is first. Both are checked, for the first start of every job, because a record has no later
ones. Jobs of one claim start at the same time and are not compared.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WaitingInterval:
    """The time that one job waited, ms since the epoch by the clock of Redis.

    `since`: it waits from then on. `until`: its first start, or its end without a start. `started`:
    whether it started. `due`: its due time. `rank`: since + offset of its class, which is its due
    time with a bound of 0. `sure`: whether it was in the queue for all of that time; a delayed job
    enters the queue some time after `since`, at a tick.
    """

    id: str
    since: float
    until: float
    started: bool
    due: float
    rank: float
    sure: bool


@dataclass(frozen=True, kw_only=True)
class Overtaking:
    """The result. Pairs are (overtaken job, overtaking job), one for each overtaken job."""

    overtaken: int  #: Jobs that were overtaken by one that started to wait later.
    unsure: int  #: Jobs that cannot be checked, because they entered the queue later.
    out_of_order: list[tuple[str, str]]  #: Overtaken by a job with a later due time.
    beyond_bound: list[tuple[str, str]]  #: Overtaken by one that came too late for the bound.


def find_overtaking(intervals: Sequence[WaitingInterval]) -> Overtaking:
    """Check the jobs of one tenant, in O(n log n)."""
    starts = sorted((s for s in intervals if s.started), key=lambda s: s.until)
    times = [s.until for s in starts]
    latest_due = _Largest([s.due for s in starts])
    latest_rank = _Largest([s.rank for s in starts])
    latest_since = _Largest([s.since for s in starts])
    overtaken, unsure = 0, 0
    out_of_order, beyond = [], []
    for job in intervals:
        if not job.sure:
            unsure += 1
            continue
        first, last = _between(times, job.since, job.until)
        if first >= last:
            continue
        by = latest_since.of(first, last)
        overtaken += starts[by].since > job.since
        by = latest_due.of(first, last)
        if starts[by].due > job.due + _EXACT_MS:
            out_of_order.append((job.id, starts[by].id))
        by = latest_rank.of(first, last)
        if starts[by].rank > job.due + _EXACT_MS:
            beyond.append((job.id, starts[by].id))
    return Overtaking(
        overtaken=overtaken, unsure=unsure, out_of_order=out_of_order, beyond_bound=beyond
    )


#: Times have a resolution of a microsecond; the last digit is rounded.
_EXACT_MS = 0.0025


def _between(times: Sequence[float], after: float, before: float) -> tuple[int, int]:
    """Return the slice of the sorted `times` that is strictly between two times."""
    return bisect_right(times, after + _EXACT_MS), bisect_left(times, before - _EXACT_MS)


class _Largest:
    """Finds the largest of values[i:j] in constant time, with a sparse table of indices."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = values
        self._rows = [list(range(len(values)))]
        width = 1
        while 2 * width <= len(values):
            row = self._rows[-1]
            self._rows.append(
                [self._better(row[i], row[i + width]) for i in range(len(values) - 2 * width + 1)]
            )
            width *= 2

    def _better(self, a: int, b: int) -> int:
        return a if self._values[a] >= self._values[b] else b

    def of(self, first: int, last: int) -> int:
        """Return the index of the largest in [first, last), which must not be empty."""
        row = (last - first).bit_length() - 1
        return self._better(self._rows[row][first], self._rows[row][last - (1 << row)])
