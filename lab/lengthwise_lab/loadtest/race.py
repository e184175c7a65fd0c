"""Send the same requests to several queues at the same moment, and follow each as it answers.

Called by `lengthwise demo`. Runs one after the other (compare.py) measure the mood of the machine
as much as the order. In a race a busy moment of the machine hits every lane. The queues are held
until every request is in them and predicted; then they open together. Otherwise the free slots take
the requests whose predictions come first, and a lane's result depends on chance.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lengthwise_contract.queue_settings import PolicyName
from lengthwise_lab.loadtest.client import ServiceClient
from lengthwise_lab.loadtest.compare import PolicyRun, check_policy
from lengthwise_lab.loadtest.driver import LoadTarget, drive, look_up
from lengthwise_lab.loadtest.measures import Sample
from lengthwise_lab.loadtest.workload import TimedRequest

#: Pause between two requests as they are sent to a held queue, s.
_APART_S = 0.04

#: Longest time that the queues are held for their requests, s.
_HOLD_S = 60.0


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
        """Build a race; nothing is sent yet. When the requests are due does not matter."""
        self._service, self._lanes = service, lanes
        # One after the other, so that all lanes accept them in the same order.
        self._requests = [
            replace(request, due_to_send_s=at * _APART_S) for at, request in enumerate(requests)
        ]
        self._send_s = 0.0
        self._start_s: float | None = None
        self._end_s: float | None = None
        self.lanes: Mapping[str, LaneProgress] = {
            lane.policy: LaneProgress(requests) for lane in lanes
        }

    @property
    def seconds(self) -> float:
        """Time since the queues opened, until the last answer, s; 0 before."""
        if self._start_s is None:
            return 0.0
        return (self._end_s or time.monotonic()) - self._start_s

    async def run(self) -> list[PolicyRun]:
        """Run the race. Return one run for each lane, in the order of the lanes.

        Raises:
            ServiceError: The queue service returned an error, or served by another policy.
        """
        await self._command("pause")
        self._send_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._serve(lane)) for lane in self._lanes]
            await self._wait_until_all_are_in(tasks)
            await self._command("resume")
            self._start_s = time.monotonic()
        self._end_s = time.monotonic()
        return [
            await self._finish(lane, *task.result())
            for lane, task in zip(self._lanes, tasks, strict=True)
        ]

    async def _command(self, command: Literal["pause", "resume"]) -> None:
        names = (lane.target.model for lane in self._lanes)
        await asyncio.gather(*(self._service.command_queue(name, command) for name in names))

    async def _wait_until_all_are_in(self, tasks: Sequence[asyncio.Task[object]]) -> None:
        """Wait for every request to be in its queue, or for the longest time, or for a failure."""
        end_s = time.monotonic() + _HOLD_S
        while time.monotonic() < end_s and not any(task.done() for task in tasks):
            views = [await self._service.queue(lane.target.model) for lane in self._lanes]
            if all(view.depth >= len(self._requests) for view in views):
                return
            await asyncio.sleep(0.1)

    async def _serve(self, lane: Lane) -> tuple[list[Sample], float]:
        progress = self.lanes[lane.policy]
        samples = await drive(
            lane.target,
            self._requests,
            on_start=lambda index: progress.start(index, self.seconds),
            on_done=lambda sample: progress.end(self._from_the_opening(sample)),
        )
        return [self._from_the_opening(sample) for sample in samples], self.seconds

    def _from_the_opening(self, sample: Sample) -> Sample:
        """Count a sample's times from the opening of the queues, as if all had arrived then."""
        held_s = (self._start_s or time.monotonic()) - self._send_s - sample.due_to_send_s
        ttft_s, completion_s = (
            None if value is None else max(0.0, value - held_s)
            for value in (sample.ttft_s, sample.completion_s)
        )
        return replace(sample, ttft_s=ttft_s, completion_s=completion_s, due_to_send_s=0.0)

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
