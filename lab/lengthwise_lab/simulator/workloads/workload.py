"""A workload: lengths, arrivals, tenants and a predictor make requests, piece by piece."""

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

#: Requests in a piece: large enough for NumPy, small enough for the CPU's cache.
PIECE = 100_000


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The description of a stream of requests.

    Attributes:
        lengths: The table that lengths are drawn from.
        requests: The number of requests; a trace has at most its own rows.
        rate_per_s: Mean arrivals a second; not used for a burst, a trace or a closed loop.
        arrivals: The arrival process.
        predictor: The name of the predictor (predictions.py).
        tau: Kendall's tau-b of a noisy predictor.
        shares: The share of the requests of each tenant, adding up to 1.
        seed: The seed of everything random.
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
        """Return the predictor, fitted to a sample of these lengths."""
        rng = np.random.default_rng([self.seed, 3])
        rows = rng.integers(0, len(self.lengths), SAMPLE)
        sample = self._jobs(np.zeros(SAMPLE), rows, np.zeros(SAMPLE, np.int64))
        return make_predictor(self.predictor, sample, tau=self.tau, seed=self.seed)

    def pieces(self, predictor: Predictor) -> Iterator[Jobs]:
        """Yield the requests, `PIECE` at a time; the same for the same seed under every policy."""
        draws, noise, times = (np.random.default_rng([self.seed, part]) for part in range(3))
        count = self.requests
        if isinstance(self.arrivals, Trace):
            if self.lengths.arrival_s is None:
                raise BadWorkload("arrivals of kind trace need lengths from a file with arrival_s")
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
        assert self.lengths.arrival_s is not None  # noqa: S101 - pieces() has checked it
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
