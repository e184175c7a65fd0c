"""The workloads of SSJF's simulator, served without its defects.

Nobody idles while a job waits, every job runs, a running job keeps its slot, and what decides who
is next is known before the job has run. Called by ssjf_sweeps.py and ssjf_slots.py.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.prediction.accuracy import Ranking
from lengthwise_queue.prediction.quality import APART
from lengthwise_queue.scheduling.policy import slack_ms, wait_credit_ms

#: The product's own defaults: k, and how many times the wait it finds a long job may be overtaken
#: for (docs/decisions 0060 and 0061).
OVERTAKE_FACTOR = QueueSettings().overtake_factor
WAIT_FACTOR = QueueSettings().overtake_wait_factor

#: Answers that a queue remembers, and judges its predictor by.
_ANSWERS_KEPT = 256

#: SSJF's own bounds on waiting: so many seconds, or so many times the duration.
_STARVED_S, _STARVED_FACTOR = 100.0, 10.0


class Line(Protocol):
    """The jobs that wait, as indices."""

    def push(self, job: int) -> None:
        """One more has arrived."""

    def pop(self, now_s: float) -> int:
        """The next one to serve, at this instant, s; the line is not empty."""

    def __len__(self) -> int:
        """How many wait."""


class KeyLine:
    """The smallest key first; equal keys in order of arrival.

    Args:
        keys: One for each job, decided before anything runs.
    """

    def __init__(self, keys: Sequence[float]) -> None:
        self._keys = keys
        self._heap: list[tuple[float, int]] = []

    def push(self, job: int) -> None:
        """See `Line`."""
        heapq.heappush(self._heap, (self._keys[job], job))

    def pop(self, now_s: float) -> int:
        """See `Line`."""
        return heapq.heappop(self._heap)[1]

    def __len__(self) -> int:
        """See `Line`."""
        return len(self._heap)


class AgedLine:
    """Shortest prediction first, but who has starved goes before, in order of arrival.

    SSJF's rule with its defects mended: each job is looked at and not only the longest waiter, its
    waiting is what it really waited, and it is compared with its predicted duration.

    Args:
        arrivals_s: Ascending, s.
        predicted_s: Durations, s.
    """

    def __init__(self, arrivals_s: Sequence[float], predicted_s: Sequence[float]) -> None:
        self._predicted_s = predicted_s
        self._starves_s = [
            arrival + min(_STARVED_S, _STARVED_FACTOR * predicted)
            for arrival, predicted in zip(arrivals_s, predicted_s, strict=True)
        ]
        self._by_length: list[tuple[float, int]] = []
        self._by_patience: list[tuple[float, int]] = []
        self._starved: list[int] = []
        self._waiting: set[int] = set()

    def push(self, job: int) -> None:
        """See `Line`."""
        heapq.heappush(self._by_length, (self._predicted_s[job], job))
        heapq.heappush(self._by_patience, (self._starves_s[job], job))
        self._waiting.add(job)

    def pop(self, now_s: float) -> int:
        """See `Line`."""
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
        """See `Line`."""
        return len(self._waiting)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a queue knows of its predictor from its last answers.

    `usual_s`: the mean predicted duration, s. `credit`: what each second of waiting is worth.
    """

    usual_s: float
    credit: float

    @classmethod
    def of(cls, predicted_s: Sequence[float], tokens: Sequence[int]) -> Evidence:
        """As if the first of these answers had been given before; `tokens` is what they took."""
        seen = list(zip(predicted_s[:_ANSWERS_KEPT], tokens[:_ANSWERS_KEPT], strict=True))
        accuracy = Ranking.of(seen, apart=APART).accuracy
        return cls(
            usual_s=sum(predicted for predicted, _ in seen) / len(seen),
            credit=wait_credit_ms(1.0, wait_factor=WAIT_FACTOR, rank_accuracy=accuracy),
        )


class DueLine:
    """The product's line: the smallest due time first, settled by the line that a job finds.

    Args:
        arrivals_s: Ascending, s.
        predicted_s: Durations, s.
        slots: Jobs at once.
        evidence: What is known of the predictor.
    """

    def __init__(
        self,
        arrivals_s: Sequence[float],
        predicted_s: Sequence[float],
        *,
        slots: int,
        evidence: Evidence,
    ) -> None:
        self._arrivals_s, self._predicted_s = arrivals_s, predicted_s
        self._slots, self._evidence = slots, evidence
        self._heap: list[tuple[float, int]] = []
        self._backlog_s = 0.0

    def push(self, job: int) -> None:
        """See `Line`."""
        predicted_s = self._predicted_s[job]
        slack = slack_ms(
            1000 * predicted_s,
            policy="sjf",
            overtake_factor=OVERTAKE_FACTOR,
            usual_ms=1000 * self._evidence.usual_s,
            credit_ms=1000 * self._evidence.credit * self._backlog_s / self._slots,
        )
        heapq.heappush(self._heap, (self._arrivals_s[job] + slack / 1000, job))
        self._backlog_s += predicted_s

    def pop(self, now_s: float) -> int:
        """See `Line`."""
        job = heapq.heappop(self._heap)[1]
        # An empty line is 0 exactly: what rounding left behind must not become negative.
        self._backlog_s = max(self._backlog_s - self._predicted_s[job], 0.0) if self._heap else 0.0
        return job

    def __len__(self) -> int:
        """See `Line`."""
        return len(self._heap)


def due_times_s(
    arrivals_s: Sequence[float], predicted_s: Sequence[float], *, factor: float = OVERTAKE_FACTOR
) -> list[float]:
    """The product's due time of each job by k alone, whatever the line, s; `factor` is k."""
    return [
        arrival + slack_ms(1000 * predicted, policy="sjf", overtake_factor=factor) / 1000
        for arrival, predicted in zip(arrivals_s, predicted_s, strict=True)
    ]


class Times(NamedTuple):
    """When each job began and ended, s."""

    starts_s: list[float]
    ends_s: list[float]


def serve(
    arrivals_s: Sequence[float],
    durations_s: Sequence[float],
    line: Line,
    *,
    slots: int,
    static: bool = False,
) -> Times:
    """When each job begins and ends.

    Args:
        arrivals_s: Ascending, s.
        durations_s: How long each runs, whoever runs beside it, s.
        line: Empty; who is next.
        slots: Jobs at once.
        static: The next batch begins when the whole of the last has ended, and a job's answer is
            there when its batch has ended; else a job joins as soon as a slot is free.
    """
    starts, ends = [0.0] * len(arrivals_s), [0.0] * len(arrivals_s)
    busy: list[float] = []
    now, arrived = 0.0, 0
    while arrived < len(arrivals_s) or len(line):
        while busy and busy[0] <= now:
            heapq.heappop(busy)
        while arrived < len(arrivals_s) and arrivals_s[arrived] <= now:
            line.push(arrived)
            arrived += 1
        if len(line) and (not busy if static else len(busy) < slots):
            batch = [line.pop(now) for _ in range(min(len(line), slots if static else 1))]
            longest_s = max(durations_s[job] for job in batch)
            for job in batch:
                starts[job], ends[job] = now, now + longest_s
                heapq.heappush(busy, ends[job])
        elif len(line):
            now = busy[0]
        else:
            now = max(now, arrivals_s[arrived])
    return Times(starts, ends)


@dataclass(frozen=True, kw_only=True)
class Served:
    """The figures of one run: from arrival to completion, s; `whole_per_s`: jobs by its length.

    `quarters_s`: means of the shortest quarter of the jobs, ..., of the longest, by true length.
    `details`: all that is said of the jobs (lengthwise_lab.reproductions.table.details).
    """

    mean_s: float
    p50_s: float
    p99_s: float
    max_s: float
    whole_per_s: float
    quarters_s: tuple[float, ...]
    details: Mapping[str, Any] = field(default_factory=dict)


def served(
    arrivals_s: Sequence[float], durations_s: Sequence[float], ends_s: Sequence[float]
) -> Served:
    """The figures of a run of >= 4 jobs; none is left out."""
    took: NDArray[np.float64] = np.subtract(ends_s, arrivals_s)
    p50, p99 = np.percentile(took, (50, 99))
    return Served(
        mean_s=float(took.mean()),
        p50_s=float(p50),
        p99_s=float(p99),
        max_s=float(took.max()),
        quarters_s=tuple(
            float(part.mean())
            for part in np.array_split(took[np.argsort(durations_s, kind="stable")], 4)
        ),
        whole_per_s=len(took) / (max(ends_s) - arrivals_s[0]),
    )
