"""The jobs of SSJF's experiments, drawn as its simulator draws them.

Called by sweeps.py. The original draws from numpy's global generator, which is seeded once with 42,
so a run depends on all runs before it: a `LegacyDraws` object is one such process.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.reproductions.ssjf.legacy import LegacyJob

#: Duration of a job, s: a constant, and a time for each output token.
CONSTANT_S, PER_TOKEN_S = 0.1, 0.02

_SEED = 42


@dataclass(frozen=True, kw_only=True)
class ClassedLengths:
    """Answers with their predicted classes.

    `tokens`: int64, (rows,), output tokens. `classes`: predictor's name -> int64, (rows,), the
    class that it chose; higher is longer.
    """

    tokens: NDArray[np.int64]
    classes: dict[str, NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class LegacyArrivals:
    """A kind of arrivals. A sweep changes `level`.

    `kind`: `poisson` (level: jobs/s), `gamma` (level: the gaps' coefficient of variation; `rate`:
    jobs/s), `uniform` (level: jobs/s), `trace` (level: its milliseconds are divided by this).
    """

    kind: str
    level: float
    rate: float = 0.03
    trace_ms: Sequence[int] = ()  #: Of a trace, ms since the epoch.


class LegacyDraws:
    """The original's random numbers, from its start.

    Args:
        lengths: The answers that jobs are drawn from.
    """

    def __init__(self, lengths: ClassedLengths) -> None:
        self._lengths = lengths
        self._numpy = np.random.RandomState(_SEED)
        self._python = random.Random(_SEED)  # noqa: S311 - the original's own generator

    def jobs(self, count: int, arrivals: LegacyArrivals) -> dict[str, list[LegacyJob]]:
        """Draw the next run's jobs; those of two predictors differ only in the prediction.

        Args:
            count: The number of jobs; <= rows of lengths.
            arrivals: The arrival process.
        """
        times = self._times(count, arrivals)
        rows = self._numpy.choice(len(self._lengths.tokens), size=count, replace=False)
        tokens = self._lengths.tokens[rows].tolist()
        return {
            name: [
                LegacyJob(number, arrival_s, duration_s(length), duration_s(predicted))
                for number, (arrival_s, length, predicted) in enumerate(
                    zip(times, tokens, classes[rows].tolist(), strict=True)
                )
            ]
            for name, classes in self._lengths.classes.items()
        }

    def _times(self, count: int, arrivals: LegacyArrivals) -> list[float]:
        draw, level = self._numpy, arrivals.level
        if arrivals.kind == "poisson":
            # A count for each whole second; all of its jobs arrive at that second.
            seconds = int(count / level)
            counts = draw.poisson(level, seconds)
            while counts.sum() < count:
                counts = np.append(counts, draw.poisson(level, seconds))
            whole: list[float] = np.repeat(np.arange(len(counts)), counts)[:count].tolist()
            return whole
        if arrivals.kind == "trace":
            first = self._python.randint(0, len(arrivals.trace_ms) - count)
            window = np.array(arrivals.trace_ms[first : first + count])
            # Milliseconds, used as seconds.
            scaled: list[float] = np.round((window - window[0]) / level, 1).tolist()
            return scaled
        if arrivals.kind == "gamma":
            gaps = draw.gamma((1 / level) ** 2, level**2 / arrivals.rate, count)
        else:
            gaps = draw.uniform(1 / (level - 0.5), 1 / (level + 0.5), count)
        # Sorted, as published: the shortest gaps first, so the load only falls.
        sums: list[float] = np.cumsum(np.sort(gaps)).tolist()
        return sums


def duration_s(tokens: float) -> float:
    """Return how long a job of so many tokens runs, s, to the hundredth."""
    return round(CONSTANT_S + tokens * PER_TOKEN_S, 2)
