"""Arrival times of requests: all at once, Poisson, in bursts, or from a recorded trace.

Called by workload.py for live load tests. All random numbers follow from a seed.
"""

from __future__ import annotations

import csv
import gzip
import random
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from lengthwise_lab.errors import BadWorkload


class ArrivalKind(StrEnum):
    """The shape of an arrival process."""

    BURST = "burst"  #: Everything at once.
    POISSON = "poisson"  #: Independent of one another.
    GAMMA = "gamma"  #: Gamma-distributed gaps: with a variation above 1 they come in bursts.
    ONOFF = "onoff"  #: Alternates between Poisson arrivals and no arrivals.
    TRACE = "trace"  #: A recorded hour, scaled to the mean rate that is asked for.


@dataclass(frozen=True, kw_only=True)
class ArrivalProcess:
    """An arrival process; `rate_per_s` is its mean, also of `onoff` and `trace`.

    Attributes:
        kind: The shape.
        rate_per_s: Mean arrivals per second, > 0; None for a burst.
        variation: For `gamma`: standard deviation of the gaps over their mean, > 0. In Azure's
            published hours of 2023 it is 1.09 (chats) and 13 (code).
        on_s: For `onoff`: length of a phase with arrivals, seconds.
        off_s: For `onoff`: length of a phase without arrivals, seconds.
        trace_s: For `trace`: recorded times, ascending, seconds.
    """

    kind: ArrivalKind = ArrivalKind.BURST
    rate_per_s: float | None = None
    variation: float = 4.0
    on_s: float = 5.0
    off_s: float = 10.0
    trace_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: A number is out of range, or one that the kind needs is missing.
        """
        if self.kind is not ArrivalKind.BURST and not (self.rate_per_s and self.rate_per_s > 0):
            raise ValueError(f"{self.kind} arrivals need a rate > 0, got {self.rate_per_s}")
        if self.variation <= 0 or self.on_s <= 0 or self.off_s < 0:
            raise ValueError("need variation > 0, on_s > 0 and off_s >= 0")
        if self.kind is ArrivalKind.TRACE and len(self.trace_s) < 2:
            raise ValueError("a trace needs at least two arrivals")

    def times(self, count: int, *, seed: int) -> list[float]:
        """Return `count` arrival times, ascending, seconds; the first is 0.

        A trace contributes `count` arrivals from a place drawn from the seed, and continues at its
        start after its end. Its gaps are multiplied by one factor.

        Raises:
            ValueError: `count` < 1.
        """
        if count < 1:
            raise ValueError(f"need count >= 1, got {count}")
        rate = self.rate_per_s
        if self.kind is ArrivalKind.BURST or rate is None:
            return [0.0] * count
        rng = random.Random(seed)  # noqa: S311 - not for secrets
        if self.kind is ArrivalKind.TRACE:
            return self._replayed(count, rate, rng)
        at_s, times = 0.0, []
        for _ in range(count):
            times.append(at_s)
            at_s += self._gap(rng, rate)
        if self.kind is ArrivalKind.ONOFF:
            # The times drawn exclude the phases without arrivals: insert one after each full phase.
            return [t + self.off_s * int(t / self.on_s) for t in times]
        return times

    def _gap(self, rng: random.Random, rate: float) -> float:
        if self.kind is ArrivalKind.GAMMA:
            shape = 1 / self.variation**2
            return rng.gammavariate(shape, 1 / (rate * shape))
        if self.kind is ArrivalKind.ONOFF:
            return rng.expovariate(rate * (self.on_s + self.off_s) / self.on_s)
        return rng.expovariate(rate)

    def _replayed(self, count: int, rate: float, rng: random.Random) -> list[float]:
        gaps = [b - a for a, b in pairwise(self.trace_s)]
        begin = rng.randrange(len(gaps))
        stretch = (1 / rate) * len(gaps) / sum(gaps)
        at_s, times = 0.0, []
        for i in range(count):
            times.append(at_s)
            at_s += stretch * gaps[(begin + i) % len(gaps)]
        return times


#: Accepted names of the column of arrival times, the first that exists is used.
_TIME_COLUMNS = ("arrival_s", "timestamp_s", "arrival", "timestamp")


def read_trace(path: Path) -> tuple[float, ...]:
    """Read arrival times from a CSV (or .csv.gz) with a column `arrival_s`, seconds.

    Raises:
        BadWorkload: It cannot be read, has no such column, or its times are not ascending.
    """
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            column = next((c for c in _TIME_COLUMNS if c in (rows.fieldnames or ())), None)
            if column is None:
                raise BadWorkload(
                    f"{path} needs a column `arrival_s` (seconds); it has {rows.fieldnames}"
                )
            times = tuple(float(row[column]) for row in rows)
    except (OSError, UnicodeDecodeError, ValueError, TypeError, EOFError, csv.Error) as exc:
        raise BadWorkload(f"cannot read {path}: {exc}") from exc
    if len(times) < 2 or times[-1] <= times[0] or any(b < a for a, b in pairwise(times)):
        raise BadWorkload(f"{path}: needs two arrivals or more, in ascending order")
    return times
