"""Arrival processes, drawn in pieces of any number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lengthwise_lab.simulator.core.state import Floats


class _Arrivals(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Poisson(_Arrivals):
    """Exponential gaps between arrivals."""

    kind: Literal["poisson"] = "poisson"


class Gamma(_Arrivals):
    """Gamma gaps: steadier than Poisson below a coefficient of variation of 1, bursty above."""

    kind: Literal["gamma"] = "gamma"
    cv: float = Field(default=2.0, gt=0)


class OnOff(_Arrivals):
    """Poisson while on, nothing while off, both for exponential times; the rate is the mean."""

    kind: Literal["onoff"] = "onoff"
    on_s: float = Field(default=10.0, gt=0)
    off_s: float = Field(default=30.0, gt=0)


class Burst(_Arrivals):
    """All requests at once."""

    kind: Literal["burst"] = "burst"


class Trace(_Arrivals):
    """The recorded times and the rows of the file of the lengths, in their order."""

    kind: Literal["trace"] = "trace"
    speed: float = Field(default=1.0, gt=0, description="2: twice as fast as recorded")


class Closed(_Arrivals):
    """A closed loop: each client sends its next request `think_s` after its answer."""

    kind: Literal["closed"] = "closed"
    clients: int = Field(default=64, ge=1)
    think_s: float = Field(default=0.0, ge=0)


Arrivals = Annotated[Poisson | Gamma | OnOff | Burst | Trace | Closed, Field(discriminator="kind")]


def arrival_times(
    arrivals: Poisson | Gamma | OnOff | Burst | Closed,
    rate_per_s: float,
    sizes: Iterator[int],
    rng: np.random.Generator,
) -> Iterator[Floats]:
    """Draw ascending arrival times in pieces of the given sizes, s.

    A trace has its own times and does not use this function.
    """
    now = 0.0
    phase_left = 0.0  # OnOff: what is left of the present "on" time
    for size in sizes:
        if isinstance(arrivals, Burst | Closed):
            yield np.zeros(size)
            continue
        if isinstance(arrivals, OnOff):
            times, now, phase_left = _on_off(arrivals, rate_per_s, size, now, phase_left, rng)
            yield times
            continue
        if isinstance(arrivals, Gamma):
            shape = arrivals.cv**-2
            gaps = rng.gamma(shape, 1 / (shape * rate_per_s), size)
        else:
            gaps = rng.exponential(1 / rate_per_s, size)
        times = now + np.cumsum(gaps)
        now = float(times[-1])
        yield times


def _on_off(
    arrivals: OnOff,
    rate_per_s: float,
    size: int,
    now: float,
    phase_left: float,
    rng: np.random.Generator,
) -> tuple[Floats, float, float]:
    """Draw arrivals on a clock that runs only while on, then insert the pauses."""
    share = arrivals.on_s / (arrivals.on_s + arrivals.off_s)
    clock = np.cumsum(rng.exponential(share / rate_per_s, size))
    ends = [phase_left]
    while ends[-1] <= clock[-1]:
        more = max(16, int(size * share / rate_per_s / arrivals.on_s))
        ends += list(ends[-1] + np.cumsum(rng.exponential(arrivals.on_s, more)))
    pauses = np.concatenate([[0.0], np.cumsum(rng.exponential(arrivals.off_s, len(ends)))])
    passed = np.searchsorted(ends, clock, side="right")
    times = now + clock + pauses[passed]
    return times, float(times[-1]), float(ends[int(passed[-1])] - clock[-1])
