"""The workloads of SSJF's simulator, served without its defects.

No slot is idle while a job waits, every job runs, a running job keeps its slot, and the order
(queues.py) is known before a job has run. Called by sweeps.py and steady_load.py.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.reproductions.ssjf.queues import WaitingQueue


class JobTimes(NamedTuple):
    """The start and the end of each job, s."""

    starts_s: list[float]
    ends_s: list[float]


def serve(
    arrivals_s: Sequence[float],
    durations_s: Sequence[float],
    queue: WaitingQueue,
    *,
    slots: int,
    static: bool = False,
) -> JobTimes:
    """Serve all jobs, and return their starts and ends.

    Args:
        arrivals_s: Ascending, s.
        durations_s: How long each runs, s; jobs do not slow each other down.
        queue: Empty; it decides the order.
        slots: Jobs at once.
        static: A batch starts when all of the last one has ended, and a job ends with its batch;
            False: a job starts as soon as a slot is free.
    """
    starts, ends = [0.0] * len(arrivals_s), [0.0] * len(arrivals_s)
    busy: list[float] = []
    now, arrived = 0.0, 0
    while arrived < len(arrivals_s) or len(queue):
        while busy and busy[0] <= now:
            heapq.heappop(busy)
        while arrived < len(arrivals_s) and arrivals_s[arrived] <= now:
            queue.push(arrived)
            arrived += 1
        if len(queue) and (not busy if static else len(busy) < slots):
            batch = [queue.pop(now) for _ in range(min(len(queue), slots if static else 1))]
            longest_s = max(durations_s[job] for job in batch)
            for job in batch:
                starts[job], ends[job] = now, now + longest_s
                heapq.heappush(busy, ends[job])
        elif len(queue):
            now = busy[0]
        else:
            now = max(now, arrivals_s[arrived])
    return JobTimes(starts, ends)


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """The figures of one run: times from arrival to completion, s.

    `whole_per_s`: all jobs by the duration of the run. `quarters_s`: means of the shortest quarter
    of the jobs, ..., of the longest, by true length. `details`: from `details.describe`.
    """

    mean_s: float
    p50_s: float
    p99_s: float
    max_s: float
    whole_per_s: float
    quarters_s: tuple[float, ...]
    details: Mapping[str, Any] = field(default_factory=dict)


def figures_of(
    arrivals_s: Sequence[float], durations_s: Sequence[float], ends_s: Sequence[float]
) -> RunFigures:
    """Return the figures of a run of >= 4 jobs; none is left out."""
    took: NDArray[np.float64] = np.subtract(ends_s, arrivals_s)
    p50, p99 = np.percentile(took, (50, 99))
    return RunFigures(
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
