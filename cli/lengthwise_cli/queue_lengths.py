"""Read requests and the lengths of their answers from a queue. Called by commands/collect.py.

The queue deletes a request as soon as it is answered, so that no prompts are left in Redis, unless
its training log is on (`record_rows`). With a training log, this reads the log from the start and
follows it. Without one, it polls the waiting and running jobs, keeps their requests, and writes a
row when a job succeeds. It connects to Redis directly, which only the operator of the system can
do: no API of the queue service returns one tenant's prompts to another.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lengthwise_contract.states import JobState
from lengthwise_store.jobs import Job
from lengthwise_store.keys import QueueKeys
from lengthwise_store.redis.connections import Connections
from lengthwise_store.redis.errors import read
from lengthwise_store.redis.settings import RedisAddress
from lengthwise_store.store import JobStore
from lengthwise_store.training_log import length_row, read_request

#: Waiting jobs per poll, first in order first: a job that starts soon is seen before it ends.
_POLLED_AHEAD = 500

#: Requests kept for jobs that have not ended; the oldest are dropped.
_KEPT = 20_000


@dataclass
class PollProgress:
    """The counts of all polls so far.

    Attributes:
        rows: Jobs that succeeded and whose request was kept.
        censored: Of these, the jobs that ran to their cap.
        missed: Jobs that succeeded between two polls, so that their request was deleted.
    """

    rows: int = 0
    censored: int = 0
    missed: int = 0


class QueueLengths:
    """Polls one queue."""

    def __init__(self, redis_url: str, queue: str) -> None:
        """Connects on first use."""
        access = RedisAddress.parse(redis_url)
        self._store = JobStore(access)
        settings = self._store.settings
        self._connections = Connections(
            access,
            connect_timeout_s=settings.connect_timeout_s,
            command_timeout_s=settings.command_timeout_s,
        )
        self._queue = queue
        self._keys = QueueKeys(queue)
        self._requests: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._ended: set[str] | None = None  #: Finished jobs at the previous poll.
        self._cursor = "0-0"  #: Position in the training log.
        self.keeps_training_log = False  #: Whether the training log was on at the last poll.
        self.progress = PollProgress()

    async def exists(self) -> bool:
        """Whether the queue exists."""
        return await self._store.queue(self._queue) is not None

    async def poll(self) -> list[dict[str, Any]]:
        """Return rows of the jobs that ended since the last poll; call it about twice a second.

        The first poll of a queue with a training log returns the whole log.
        """
        queue = await self._store.queue(self._queue)
        self.keeps_training_log = queue is not None and queue.settings.record_rows > 0
        rows = await self._recorded() if self.keeps_training_log else await self._rows_of_ended()
        self.progress.rows += len(rows)
        self.progress.censored += sum(row["censored"] for row in rows)
        return rows

    async def _recorded(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while True:
            found = await self._store.training_rows(self._queue, after=self._cursor)
            if not found:
                return rows
            self._cursor = found[-1][0]
            rows += [json.loads(row) for _, row in found]

    async def _rows_of_ended(self) -> list[dict[str, Any]]:
        snapshot = await self._store.snapshot(self._queue, _POLLED_AHEAD)
        await self._keep(job.id for job in (*snapshot.running, *snapshot.waiting))
        alive = {job.id for job in (*snapshot.running, *snapshot.waiting)}
        gone = [job_id for job_id in self._requests if job_id not in alive]
        rows = []
        for job_id in gone:
            job = await self._store.get(self._queue, job_id)
            if job is not None and job.state in (JobState.QUEUED, JobState.SCHEDULED):
                continue  # it went back to the queue, behind the jobs of this poll
            if job is not None and job.state is JobState.RUNNING:
                continue
            request = self._requests.pop(job_id)
            row = None if job is None else row_of(job, request)
            if row is not None:
                rows.append(row)
        answered = {job.id for job in snapshot.finished if job.state is JobState.SUCCEEDED}
        if self._ended is not None:
            known = {str(row["id"]) for row in rows}
            self.progress.missed += len(answered - self._ended - known - set(gone))
        self._ended = answered | (self._ended or set())
        return rows

    async def _keep(self, ids: Iterable[str]) -> None:
        new = [job_id for job_id in ids if job_id not in self._requests]
        if not new:
            return
        pipe = self._connections.of(self._keys.prefix).pipeline(transaction=False)
        for job_id in new:
            pipe.get(self._keys.body(job_id))
        for job_id, body in zip(new, await read(pipe.execute()), strict=True):
            request = read_request(body)
            if request is not None:
                self._requests[job_id] = request
        while len(self._requests) > _KEPT:
            self._requests.popitem(last=False)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._store.aclose()
        await self._connections.aclose()


def row_of(job: Job, request: dict[str, Any]) -> dict[str, Any] | None:
    """Return a job's row; None for a job without an answer, a length or a text."""
    if job.state is not JobState.SUCCEEDED:
        return None
    return length_row(
        job.id,
        job.queue,
        request,
        output_tokens=job.output_tokens,
        prompt_tokens=job.prompt_tokens,
    )
