"""The queues that order SSJF's corrected workloads.

All of it is known before a job has run. Called by sweeps.py and steady_load.py.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lengthwise_contract.defaults import ANSWERS_KEPT
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.simulator.core.report_bounds import STARVED_S, STARVED_TIMES
from lengthwise_queue.prediction.accuracy import Ranking
from lengthwise_queue.prediction.quality import APART
from lengthwise_queue.scheduling.policy import slack_ms, wait_credit_ms

#: The product's own k and wait factor.
DEFAULT_K = QueueSettings().overtake_factor
DEFAULT_WAIT_FACTOR = QueueSettings().overtake_wait_factor


class WaitingQueue(Protocol):
    """The waiting jobs, as indices, and the order in which they are served."""

    def push(self, job: int) -> None:
        """Add a job that has arrived."""

    def pop(self, now_s: float) -> int:
        """Remove and return the job to serve at this time, s; the queue is not empty."""

    def __len__(self) -> int:
        """Return the number of waiting jobs."""


class KeyQueue:
    """The smallest key first; equal keys in order of arrival.

    Args:
        keys: One for each job, fixed before any job runs.
    """

    def __init__(self, keys: Sequence[float]) -> None:
        self._keys = keys
        self._heap: list[tuple[float, int]] = []

    def push(self, job: int) -> None:
        """See `WaitingQueue`."""
        heapq.heappush(self._heap, (self._keys[job], job))

    def pop(self, now_s: float) -> int:
        """See `WaitingQueue`."""
        return heapq.heappop(self._heap)[1]

    def __len__(self) -> int:
        """See `WaitingQueue`."""
        return len(self._heap)


class AgedQueue:
    """Shortest prediction first, but starved jobs before all others, in order of arrival.

    SSJF's rule with its defects fixed: every job is checked and not only the longest waiter, its
    wait is the true one, and the wait is compared with the predicted duration.

    Args:
        arrivals_s: Ascending, s.
        predicted_s: Durations, s.
    """

    def __init__(self, arrivals_s: Sequence[float], predicted_s: Sequence[float]) -> None:
        self._predicted_s = predicted_s
        self._starves_s = [
            arrival + min(STARVED_S, STARVED_TIMES * predicted)
            for arrival, predicted in zip(arrivals_s, predicted_s, strict=True)
        ]
        self._by_length: list[tuple[float, int]] = []
        self._by_patience: list[tuple[float, int]] = []
        self._starved: list[int] = []
        self._waiting: set[int] = set()

    def push(self, job: int) -> None:
        """See `WaitingQueue`."""
        heapq.heappush(self._by_length, (self._predicted_s[job], job))
        heapq.heappush(self._by_patience, (self._starves_s[job], job))
        self._waiting.add(job)

    def pop(self, now_s: float) -> int:
        """See `WaitingQueue`."""
        while self._by_patience and self._by_patience[0][0] < now_s:
            heapq.heappush(self._starved, heapq.heappop(self._by_patience)[1])
        while self._starved:
            job = heapq.heappop(self._starved)
            if job in self._waiting:
                self._waiting.remove(job)
                return job
        while True:
            job = heapq.heappop(self._by_length)[1]
            if job in self._waiting:
                self._waiting.remove(job)
                return job

    def __len__(self) -> int:
        """See `WaitingQueue`."""
        return len(self._waiting)


@dataclass(frozen=True, kw_only=True)
class PredictorStats:
    """Statistics of a predictor, from the last answers of a queue.

    `usual_s`: the mean predicted duration, s. `credit`: how far each second of waiting lets a long
    job be overtaken, s.
    """

    usual_s: float
    credit: float

    @classmethod
    def of(cls, predicted_s: Sequence[float], tokens: Sequence[int]) -> PredictorStats:
        """Learn from the first of these answers, as if given before; `tokens`: their lengths."""
        seen = list(zip(predicted_s[:ANSWERS_KEPT], tokens[:ANSWERS_KEPT], strict=True))
        accuracy = Ranking.of(seen, apart=APART).accuracy
        return cls(
            usual_s=sum(predicted for predicted, _ in seen) / len(seen),
            credit=wait_credit_ms(1.0, wait_factor=DEFAULT_WAIT_FACTOR, rank_accuracy=accuracy),
        )


class DueTimeQueue:
    """The product's queue: the smallest due time first, fixed by the queue that a job finds.

    Args:
        arrivals_s: Ascending, s.
        predicted_s: Durations, s.
        slots: Jobs at once.
        stats: The knowledge of the predictor.
        factor: k.
    """

    def __init__(
        self,
        arrivals_s: Sequence[float],
        predicted_s: Sequence[float],
        *,
        slots: int,
        stats: PredictorStats,
        factor: float = DEFAULT_K,
    ) -> None:
        self._arrivals_s, self._predicted_s = arrivals_s, predicted_s
        self._slots, self._predictor_stats, self._factor = slots, stats, factor
        self._heap: list[tuple[float, int]] = []
        self._backlog_s = 0.0

    def push(self, job: int) -> None:
        """See `WaitingQueue`."""
        predicted_s = self._predicted_s[job]
        slack = slack_ms(
            1000 * predicted_s,
            policy="sjf",
            overtake_factor=self._factor,
            usual_ms=1000 * self._predictor_stats.usual_s,
            credit_ms=1000 * self._predictor_stats.credit * self._backlog_s / self._slots,
        )
        heapq.heappush(self._heap, (self._arrivals_s[job] + slack / 1000, job))
        self._backlog_s += predicted_s

    def pop(self, now_s: float) -> int:
        """See `WaitingQueue`."""
        job = heapq.heappop(self._heap)[1]
        # An empty queue has a backlog of exactly 0: a rounding error must not become negative.
        self._backlog_s = max(self._backlog_s - self._predicted_s[job], 0.0) if self._heap else 0.0
        return job

    def __len__(self) -> int:
        """See `WaitingQueue`."""
        return len(self._heap)


def due_times_s(
    arrivals_s: Sequence[float], predicted_s: Sequence[float], *, factor: float = DEFAULT_K
) -> list[float]:
    """Return the product's due time of each job by k alone, s; `factor` is k."""
    return [
        arrival + slack_ms(1000 * predicted, policy="sjf", overtake_factor=factor) / 1000
        for arrival, predicted in zip(arrivals_s, predicted_s, strict=True)
    ]
