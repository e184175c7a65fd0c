"""The jobs of SSJF's experiments: arrivals and lengths as its simulator draws them, and corrected.

Called by ssjf_sweeps.py. The original draws from numpy's global generator, seeded once with 42 and
never again, so a run depends on all before it: a `LegacyDraws` object is one such process.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.reproductions.ssjf.legacy import Job

#: Duration of a job: this and so much for each output token, s; nothing else matters.
CONSTANT_S, PER_TOKEN_S = 0.1, 0.02

_SEED = 42


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Answers with their predictions.

    `tokens`: int64, (rows,), output tokens. `classes`: predictor's name -> int64, (rows,), the
    class that it put the answer in; higher is longer.
    """

    tokens: NDArray[np.int64]
    classes: dict[str, NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """A kind of arrivals. `level` is what a sweep changes.

    `kind`: `poisson` (level: jobs/s), `gamma` (level: the gaps' coefficient of variation; `rate`:
    jobs/s), `uniform` (level: jobs/s), `trace` (level: its milliseconds are divided by this).
    """

    kind: str
    level: float
    rate: float = 0.03
    trace_ms: Sequence[int] = ()  #: Of a trace, ms since the epoch.


class LegacyDraws:
    """The original's random numbers, from its start on.

    Args:
        lengths: What jobs are drawn from.
    """

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths
        self._numpy = np.random.RandomState(_SEED)
        self._python = random.Random(_SEED)  # noqa: S311 - the original's own generator

    def jobs(self, count: int, arrivals: Arrivals) -> dict[str, list[Job]]:
        """The next run's jobs: the same for every predictor, but for the prediction.

        Args:
            count: How many jobs; <= rows of lengths.
            arrivals: When they come.
        """
        times = self._times(count, arrivals)
        rows = self._numpy.choice(len(self._lengths.tokens), size=count, replace=False)
        tokens = self._lengths.tokens[rows].tolist()
        return {
            name: [
                Job(number, arrival_s, duration_s(length), duration_s(predicted))
                for number, (arrival_s, length, predicted) in enumerate(
                    zip(times, tokens, classes[rows].tolist(), strict=True)
                )
            ]
            for name, classes in self._lengths.classes.items()
        }

    def _times(self, count: int, arrivals: Arrivals) -> list[float]:
        draw, level = self._numpy, arrivals.level
        if arrivals.kind == "poisson":
            # A count for each whole second, and all of it comes at that second.
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
        # Sorted: the shortest gaps first, so that the load only ever falls.
        sums: list[float] = np.cumsum(np.sort(gaps)).tolist()
        return sums


def duration_s(tokens: float) -> float:
    """How long a job of so many tokens runs, s, to the hundredth."""
    return round(CONSTANT_S + tokens * PER_TOKEN_S, 2)
