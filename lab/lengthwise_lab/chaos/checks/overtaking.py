"""Who overtook whom, and whether they were allowed to. Pure. Called by checker.py.

docs/concepts/ordering.md promises: no job is overtaken by one of its class that was accepted later
than it
by more than its own bound. With classes, and a delay after which a job's waiting begins, K may
start before J, while J waits, only if

    since_K + offset_K <= since_J + offset_J + bound_J

The right side is J's due time, so the bound follows from the due times told at acceptance. The
order itself is stricter: of those that wait, the smallest due time is first. Both are checked, for
the first start of every job: a record keeps no later ones. Jobs that were claimed in one call start
at the same instant, and are not compared.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stay:
    """One job's time in the line, ms since the epoch by Redis.

    `since`: it waits from then on. `until`: its first start, or its end without one. `started`:
    whether it was the former. `due`: as it was told. `rank`: since + offset of its class, what
    remains of its due time if its length were nothing. `sure`: whether it stood in the line for all
    of that time; a delayed job enters it some time after `since`, when a tick comes by.
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
    """What was found. Pairs are (who was overtaken, by whom), one for each overtaken job."""

    overtaken: int  #: Jobs that were overtaken at all: by one that came later.
    unsure: int  #: Jobs of which it cannot be said, because they entered the line later.
    out_of_order: list[tuple[str, str]]  #: Behind one that was due later.
    beyond_bound: list[tuple[str, str]]  #: Behind one that came later than the bound allows.


def judge(stays: Sequence[Stay]) -> Overtaking:
    """Look at the jobs of one tenant; in n log n."""
    starts = sorted((s for s in stays if s.started), key=lambda s: s.until)
    times = [s.until for s in starts]
    latest_due = _Largest([s.due for s in starts])
    latest_rank = _Largest([s.rank for s in starts])
    latest_since = _Largest([s.since for s in starts])
    overtaken, unsure = 0, 0
    out_of_order, beyond = [], []
    for stay in stays:
        if not stay.sure:
            unsure += 1
            continue
        first, last = _between(times, stay.since, stay.until)
        if first >= last:
            continue
        by = latest_since.of(first, last)
        overtaken += starts[by].since > stay.since
        by = latest_due.of(first, last)
        if starts[by].due > stay.due + _EXACT_MS:
            out_of_order.append((stay.id, starts[by].id))
        by = latest_rank.of(first, last)
        if starts[by].rank > stay.due + _EXACT_MS:
            beyond.append((stay.id, starts[by].id))
    return Overtaking(
        overtaken=overtaken, unsure=unsure, out_of_order=out_of_order, beyond_bound=beyond
    )


#: Times are told to the microsecond; the last digit is rounded.
_EXACT_MS = 0.0025


def _between(times: Sequence[float], after: float, before: float) -> tuple[int, int]:
    """The slice of `times`, sorted, that lies strictly between two."""
    return bisect_right(times, after + _EXACT_MS), bisect_left(times, before - _EXACT_MS)


class _Largest:
    """Answers "the largest of values[i:j]" in constant time: a sparse table of indices."""

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
        """The index of the largest in [first, last), which must not be empty."""
        row = (last - first).bit_length() - 1
        return self._better(self._rows[row][first], self._rows[row][last - (1 << row)])
