"""When requests arrive: all at once, at Poisson times, in bursts, or as a recorded trace has it.

Called by workload.py for live load tests. Everything random comes from a seed.
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


class Kind(StrEnum):
    """The shape of an arrival process."""

    BURST = "burst"  #: Everything at once.
    POISSON = "poisson"  #: Independent of one another.
    GAMMA = "gamma"  #: Gamma-distributed gaps: above a variation of 1 they clump.
    ONOFF = "onoff"  #: Poisson while on, silence while off, by turns.
    TRACE = "trace"  #: A recorded hour, stretched to the mean rate that is asked for.


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """An arrival process; `rate_per_s` is its mean, also of `onoff` and `trace`.

    Attributes:
        kind: Its shape.
        rate_per_s: Mean arrivals per second, > 0; None for a burst.
        variation: Of `gamma`: standard deviation of the gaps over their mean, > 0. Of Azure's
            published hours of 2023 it is 1.09 (chats) and 13 (code).
        on_s: Of `onoff`: how long it is on, seconds.
        off_s: Of `onoff`: how long it is silent, seconds.
        trace_s: Of `trace`: recorded times, ascending, seconds.
    """

    kind: Kind = Kind.BURST
    rate_per_s: float | None = None
    variation: float = 4.0
    on_s: float = 5.0
    off_s: float = 10.0
    trace_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check what the types cannot.

        Raises:
            ValueError: A number is out of range, or the kind lacks what it needs.
        """
        if self.kind is not Kind.BURST and not (self.rate_per_s and self.rate_per_s > 0):
            raise ValueError(f"{self.kind} arrivals need a rate > 0, got {self.rate_per_s}")
        if self.variation <= 0 or self.on_s <= 0 or self.off_s < 0:
            raise ValueError("need variation > 0, on_s > 0 and off_s >= 0")
        if self.kind is Kind.TRACE and len(self.trace_s) < 2:
            raise ValueError("a trace needs at least two arrivals")

    def times(self, count: int, *, seed: int) -> list[float]:
        """`count` arrival times, ascending, seconds; the first is 0.

        A trace is cut to a window of `count` arrivals that begins at a place drawn from the seed,
        and goes round at its end; its own gaps are kept, stretched by one factor.

        Raises:
            ValueError: `count` < 1.
        """
        if count < 1:
            raise ValueError(f"need count >= 1, got {count}")
        rate = self.rate_per_s
        if self.kind is Kind.BURST or rate is None:
            return [0.0] * count
        chance = random.Random(seed)  # noqa: S311 - not for secrets
        if self.kind is Kind.TRACE:
            return self._replayed(count, rate, chance)
        at_s, times = 0.0, []
        for _ in range(count):
            times.append(at_s)
            at_s += self._gap(chance, rate)
        if self.kind is Kind.ONOFF:
            # What was drawn is time spent "on"; each full turn of it is followed by a silence.
            return [t + self.off_s * int(t / self.on_s) for t in times]
        return times

    def _gap(self, chance: random.Random, rate: float) -> float:
        if self.kind is Kind.GAMMA:
            shape = 1 / self.variation**2
            return chance.gammavariate(shape, 1 / (rate * shape))
        if self.kind is Kind.ONOFF:
            return chance.expovariate(rate * (self.on_s + self.off_s) / self.on_s)
        return chance.expovariate(rate)

    def _replayed(self, count: int, rate: float, chance: random.Random) -> list[float]:
        gaps = [b - a for a, b in pairwise(self.trace_s)]
        begin = chance.randrange(len(gaps))
        stretch = (1 / rate) * len(gaps) / sum(gaps)
        at_s, times = 0.0, []
        for i in range(count):
            times.append(at_s)
            at_s += stretch * gaps[(begin + i) % len(gaps)]
        return times


#: Names of a column of arrival times, in the order in which they are looked for.
_TIME_COLUMNS = ("arrival_s", "timestamp_s", "arrival", "timestamp")


def read_trace(path: Path) -> tuple[float, ...]:
    """Arrival times from a CSV (or .csv.gz) with a column `arrival_s`, seconds.

    Raises:
        BadWorkload: It cannot be read, has no such column, or its times do not ascend.
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
        raise BadWorkload(f"{path}: needs two arrivals or more, in the order of time")
    return times
