"""A workload: lengths, arrivals, tenants and a predictor, as pieces of requests in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.simulator.workloads.arrivals import (
    Burst,
    Closed,
    Gamma,
    OnOff,
    Poisson,
    Trace,
    arrival_times,
)
from lengthwise_lab.simulator.workloads.jobs import Jobs
from lengthwise_lab.simulator.workloads.lengths import Lengths
from lengthwise_lab.simulator.workloads.predictions import SAMPLE, Predictor, make_predictor

#: Requests in a piece: large enough for NumPy, small enough to lie in the cache.
PIECE = 100_000


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What comes.

    Attributes:
        lengths: To draw from.
        requests: How many; a trace has at most its own rows.
        rate_per_s: Mean arrivals a second; of no meaning for a burst, a trace or a closed loop.
        arrivals: The process.
        predictor: Its name (predictions.py), and the tau of a noisy one.
        tau: Of a noisy predictor.
        shares: Of each tenant, adding up to 1.
        seed: Of everything random.
        in_order: Take the table's rows one after the other instead of drawing.
    """

    lengths: Lengths
    requests: int
    rate_per_s: float = 1.0
    arrivals: Poisson | Gamma | OnOff | Burst | Trace | Closed = field(default_factory=Poisson)
    predictor: str = "oracle"
    tau: float | None = None
    shares: tuple[float, ...] = (1.0,)
    seed: int = 1
    in_order: bool = False

    def fitted_predictor(self) -> Predictor:
        """The predictor, fitted to a sample of these lengths."""
        rng = np.random.default_rng([self.seed, 3])
        rows = rng.integers(0, len(self.lengths), SAMPLE)
        sample = self._jobs(np.zeros(SAMPLE), rows, np.zeros(SAMPLE, np.int64))
        return make_predictor(self.predictor, sample, tau=self.tau, seed=self.seed)

    def pieces(self, predictor: Predictor) -> Iterator[Jobs]:
        """The requests, `PIECE` at a time; the same for the same seed, whatever the policy."""
        draws, noise, times = (np.random.default_rng([self.seed, part]) for part in range(3))
        count = self.requests
        if isinstance(self.arrivals, Trace):
            if self.lengths.arrival_s is None:
                raise BadWorkload("arrivals of kind trace want lengths from a file with arrival_s")
            count = min(count, len(self.lengths))
        sizes = [min(PIECE, count - start) for start in range(0, count, PIECE)]
        arriving = (
            self._recorded_times(sizes, self.arrivals.speed)
            if isinstance(self.arrivals, Trace)
            else arrival_times(self.arrivals, self.rate_per_s, iter(sizes), times)
        )
        start = 0
        for arrival_s in arriving:
            size = len(arrival_s)
            if self.in_order or isinstance(self.arrivals, Trace):
                rows = np.arange(start, start + size) % len(self.lengths)
            else:
                rows = draws.integers(0, len(self.lengths), size)
            tenant = np.searchsorted(np.cumsum(self.shares), draws.random(size), side="right")
            jobs = self._jobs(arrival_s, rows, np.minimum(tenant, len(self.shares) - 1))
            yield jobs.with_predictions(predictor.predict(jobs, noise))
            start += size

    def _recorded_times(self, sizes: list[int], speed: float) -> Iterator[np.ndarray]:
        assert self.lengths.arrival_s is not None  # noqa: S101 - pieces() has looked
        start = 0
        for size in sizes:
            yield self.lengths.arrival_s[start : start + size] / speed
            start += size

    def _jobs(self, arrival_s: np.ndarray, rows: np.ndarray, tenant: np.ndarray) -> Jobs:
        output = self.lengths.output[rows]
        return Jobs(
            arrival_s=arrival_s,
            prompt=self.lengths.prompt[rows],
            output=output,
            predicted=output.astype(np.float64),
            recorded=self.lengths.recorded[rows],
            tenant=tenant,
        )
