"""Send the same requests to several queues at the same moment, and follow each as it answers.

Called by `lengthwise demo`. Runs one after the other (compare.py) measure the mood of the machine
as much as the order. In a race a busy moment of the machine hits every lane.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lengthwise_contract.queue_settings import PolicyName
from lengthwise_lab.loadtest.client import ServiceClient
from lengthwise_lab.loadtest.compare import PolicyRun, check_policy
from lengthwise_lab.loadtest.driver import LoadTarget, drive, look_up
from lengthwise_lab.loadtest.measures import Sample
from lengthwise_lab.loadtest.workload import TimedRequest


class LaneProgress:
    """The progress of one lane: which requests wait, run, are answered. Times are an argument."""

    def __init__(self, requests: Sequence[TimedRequest]) -> None:
        """Build the progress of a lane whose requests all arrive at second 0."""
        self.requests = requests
        self._started_s: dict[int, float] = {}
        self._samples: dict[int, Sample] = {}

    def start(self, index: int, now_s: float) -> None:
        """Record the first token of a request, seconds after the start of the race."""
        self._started_s.setdefault(index, now_s)

    def end(self, sample: Sample) -> None:
        """Record the end of a request."""
        self._samples[sample.index] = sample

    @property
    def answered(self) -> list[TimedRequest]:
        """The requests that are answered, in the order of arrival."""
        return [r for r in self.requests if r.index in self._samples]

    @property
    def running(self) -> list[TimedRequest]:
        """The requests that have a first token and no end, the longest running first."""
        found = [r for r in self.requests if self._is_running(r)]
        return sorted(found, key=lambda r: self._started_s[r.index])

    @property
    def waiting(self) -> list[TimedRequest]:
        """The requests without a first token, in the order of arrival."""
        known = {*self._started_s, *self._samples}
        return [r for r in self.requests if r.index not in known]

    def started_s(self, request: TimedRequest) -> float:
        """When a running request had its first token, seconds after the start of the race."""
        return self._started_s[request.index]

    def mean_wait_s(self, now_s: float) -> float:
        """The mean over all requests of how long each has waited for its whole answer so far, s.

        An answered request waited until its end, an open one until now. So the mean never favours
        a lane for answers that it has not given yet.
        """
        waits = (self._wait_s(r, now_s) for r in self.requests)
        return sum(waits) / len(self.requests)

    def _is_running(self, request: TimedRequest) -> bool:
        return request.index in self._started_s and request.index not in self._samples

    def _wait_s(self, request: TimedRequest, now_s: float) -> float:
        sample = self._samples.get(request.index)
        if sample is None or sample.completion_s is None:
            return now_s
        return sample.completion_s


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One queue of a race: its policy, and where the requests go."""

    policy: PolicyName
    target: LoadTarget


class Race:
    """A race of the same requests in several queues, which arrive in all of them at once."""

    def __init__(
        self, service: ServiceClient, lanes: Sequence[Lane], requests: Sequence[TimedRequest]
    ) -> None:
        """Build a race; nothing is sent yet. Every request must be due at second 0."""
        self._service, self._lanes, self._requests = service, lanes, requests
        self._start_s: float | None = None
        self._end_s: float | None = None
        self.lanes: Mapping[str, LaneProgress] = {
            lane.policy: LaneProgress(requests) for lane in lanes
        }

    @property
    def seconds(self) -> float:
        """Time since the start, until the last answer; 0 before the start."""
        if self._start_s is None:
            return 0.0
        return (self._end_s or time.monotonic()) - self._start_s

    async def run(self) -> list[PolicyRun]:
        """Run the race. Return one run for each lane, in the order of the lanes.

        Raises:
            ServiceError: The queue service returned an error, or served by another policy.
        """
        self._start_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._serve(lane)) for lane in self._lanes]
        self._end_s = time.monotonic()
        return [
            await self._finish(lane, *task.result())
            for lane, task in zip(self._lanes, tasks, strict=True)
        ]

    async def _serve(self, lane: Lane) -> tuple[list[Sample], float]:
        progress = self.lanes[lane.policy]
        samples = await drive(
            lane.target,
            self._requests,
            on_start=lambda index: progress.start(index, self.seconds),
            on_done=progress.end,
        )
        return samples, self.seconds

    async def _finish(self, lane: Lane, samples: list[Sample], duration_s: float) -> PolicyRun:
        samples = await look_up(self._service, samples)
        check_policy(lane.policy, samples)
        settings = (await self._service.queue(lane.target.model)).settings
        return PolicyRun(
            policy=lane.policy,
            overtake_factor=settings.overtake_factor,
            samples=samples,
            duration_s=duration_s,
            fallbacks=sum(s.ok and s.predicted_tokens is None for s in samples),
        )
