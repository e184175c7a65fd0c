"""Answers a client that waits for its job: the whole answer at once, or an OpenAI event stream.

Called by `routes_openai`, when the job is in the line.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lengthwise_contract.states import JobState
from lengthwise_queue.admission.submit import SubmittedJob
from lengthwise_queue.errors import AttemptRestarted
from lengthwise_queue.metrics import length_bucket
from lengthwise_queue.openai import sse as openai_stream
from lengthwise_queue.service import Service
from lengthwise_store.errors import JobFailed, LengthwiseError, StoreUnavailable
from lengthwise_store.jobs import EntryKind, OutputEntry
from lengthwise_store.output_reader import (
    ClientDisconnected,
    End,
    follow,
    read_end,
    while_connected,
)

log = logging.getLogger(__name__)

#: How long the headers of a stream are held back for its first entry, s: a job that fails within
#: it gets the right status. Longer, and a waiting client would not learn its job's id.
HEADER_HOLD_S = 2.0

#: A comment is sent when nothing else was for so long, s; proxies close idle connections after 60.
KEEP_ALIVE_S = 10.0

#: Tells a client which job its request became.
JOB_ID_HEADER = "X-Lengthwise-Job-Id"

#: The status of an answer that nobody is there to read; nginx's, for the logs.
CLIENT_CLOSED_REQUEST = 499

_OUTCOMES = {
    JobState.SUCCEEDED: "succeeded",
    JobState.CANCELLED: "cancelled",
    JobState.EXPIRED: "expired",
}


@dataclass
class RequestTracker:
    """One client's wait for one job, for the metrics and the log."""

    service: Service
    ticket: SubmittedJob
    started_s: float  #: When its request came, `time.perf_counter`.
    first_s: float | None = None  #: When the first piece of its answer came.
    end: End | None = None

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.ticket.accepted.id

    def note(self, entry: OutputEntry) -> None:
        """An entry came."""
        if entry.kind is EntryKind.CHUNK and self.first_s is None:
            self.first_s = time.perf_counter() - self.started_s
            self.service.metrics.ttft.labels(self.ticket.queue).observe(self.first_s)
        elif entry.kind is EntryKind.END:
            self.end = read_end(entry)

    def follow(self) -> AsyncGenerator[list[OutputEntry]]:
        """The job's output, from its start."""
        return follow(
            self.service.store,
            self.ticket.queue,
            self.job_id,
            first_s=HEADER_HOLD_S,
            beat_s=KEEP_ALIVE_S,
        )

    def problem(self) -> LengthwiseError | None:
        """Why there is no answer, once the job has ended."""
        return None if self.end is None else self.end.problem(self.job_id)

    def client_disconnected(self) -> None:
        """The client is gone: so is its job, unless it can come back for it."""
        if self.end is not None:
            return
        self._count("client_disconnected")
        # A client that gave an idempotency key means to repeat the request, and to find the job.
        if self.ticket.new.idempotency_key is None:
            self.service.tasks.start(
                self.service.withdraw(self.ticket.queue, self.job_id, "client hung up")
            )

    def answered(self) -> None:
        """The client has all that it will get."""
        took_s = time.perf_counter() - self.started_s
        state = None if self.end is None else self.end.state
        outcome = "broken" if state is None else _OUTCOMES.get(state, "failed")
        self._count(outcome)
        self.service.metrics.e2e.labels(self.ticket.queue).observe(took_s)
        log.info(
            "request answered",
            extra={
                "job_id": self.job_id,
                "queue": self.ticket.queue,
                "outcome": outcome,
                "ttft_s": self.first_s,
                "took_s": took_s,
                "predicted_tokens": self.ticket.new.predicted_tokens,
                "output_tokens": None if self.end is None else self.end.output_tokens,
            },
        )
        if state is JobState.SUCCEEDED:
            self.service.tasks.start(self._measure())

    def _count(self, outcome: str) -> None:
        self.service.metrics.requests.labels(self.ticket.queue, outcome).inc()

    async def _measure(self) -> None:
        """Record how long the job stood in line, and how wrong its prediction was."""
        queue, metrics = self.ticket.queue, self.service.metrics
        try:
            job = await self.service.store.get(queue, self.job_id)
        except StoreUnavailable:
            return
        if job is None or job.started_ms is None:
            return
        bucket = length_bucket(job.predicted_tokens)
        waited_s = max(job.started_ms - job.accepted_ms, 0) / 1000
        metrics.queue_wait.labels(queue, bucket).observe(waited_s)
        if job.prediction is not None and job.output_tokens is not None:
            error = abs(job.predicted_tokens - job.output_tokens)
            metrics.predictor_error.labels(queue).observe(error)


async def plain(visit: RequestTracker, receive: Receive) -> Response:
    """The engine's whole answer, as it gave it.

    Raises:
        JobEnded: There is none; carries the engine's own error, if it gave one.
        StoreUnavailable: Redis was away for too long.
    """
    try:
        body = await while_connected(receive, _collect(visit))
    except ClientDisconnected:
        visit.client_disconnected()
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    visit.answered()
    problem = visit.problem()
    if problem is None and body is None:
        problem = JobFailed.answer_missing(visit.job_id)
    if problem is not None:
        raise problem
    return Response(body, media_type="application/json", headers={JOB_ID_HEADER: visit.job_id})


async def _collect(visit: RequestTracker) -> bytes | None:
    body: bytes | None = None
    async with contextlib.aclosing(visit.follow()) as batches:
        async for batch in batches:
            for entry in batch:
                visit.note(entry)
                if entry.kind is EntryKind.ATTEMPT:
                    body = None
                elif entry.kind is EntryKind.CHUNK:
                    body = entry.data
    return body


async def streaming(visit: RequestTracker, receive: Receive) -> Response:
    """The engine's chunks as they come.

    Raises:
        JobEnded: The job ended without an answer before the headers had to go out.
        StoreUnavailable: Redis was away for too long.
    """
    batches = visit.follow()
    try:
        early = await while_connected(receive, _first_entries(batches))
    except ClientDisconnected:
        visit.client_disconnected()
        await batches.aclose()
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    for entry in early:
        visit.note(entry)
    problem = visit.problem()
    if problem is not None and visit.first_s is None:
        await batches.aclose()
        visit.answered()
        raise problem
    return OpenAIStream(visit, early, batches)


async def _first_entries(batches: AsyncGenerator[list[OutputEntry]]) -> list[OutputEntry]:
    """What there is when the headers must go out; a new attempt alone is no reason to."""
    early: list[OutputEntry] = []
    async for batch in batches:
        early += batch
        if not batch or any(e.kind is not EntryKind.ATTEMPT for e in batch):
            break
    return early


class OpenAIStream(Response):
    """Sends a job's output as OpenAI's server-sent events, until its end or the client's."""

    media_type = "text/event-stream"

    def __init__(
        self,
        visit: RequestTracker,
        early: list[OutputEntry],
        batches: AsyncGenerator[list[OutputEntry]],
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers(
            {
                JOB_ID_HEADER: visit.job_id,
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",  # nginx would hold the stream back
            }
        )
        self.raw_headers = [h for h in self.raw_headers if h[0] != b"content-length"]
        self._visit = visit
        self._early = early
        self._batches = batches
        self._splicer = openai_stream.Splicer(visit.ticket.new.endpoint, visit.job_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await while_connected(receive, self._send_all(send))
        except ClientDisconnected:
            self._visit.client_disconnected()
        else:
            self._visit.answered()
        finally:
            await self._batches.aclose()

    async def _send_all(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        try:
            await self._send_body(send, self._frames(self._early) or openai_stream.KEEP_ALIVE)
            if self._visit.end is None:
                async for batch in self._batches:
                    for entry in batch:
                        self._visit.note(entry)
                    frames = self._frames(batch)
                    await self._send_body(send, frames or openai_stream.KEEP_ALIVE)
        except (AttemptRestarted, StoreUnavailable) as exc:
            await self._send_body(send, _error(exc) + openai_stream.DONE)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_body(self, send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})

    def _frames(self, entries: list[OutputEntry]) -> bytes:
        """The events for some entries, in one piece: one write to the socket."""
        frames = bytearray()
        for entry in _of_last_attempt(entries):
            match entry.kind:
                case EntryKind.CHUNK:
                    rest = self._splicer.feed(entry.data)
                    if rest is not None:
                        frames += openai_stream.event(rest, entry_id=entry.id)
                case EntryKind.ATTEMPT:
                    self._splicer.new_attempt()
                    frames += openai_stream.attempt_comment(entry.attempt)
                case EntryKind.END:
                    problem = self._visit.problem()
                    if problem is None:
                        self._splicer.end()
                    else:
                        frames += _error(problem)
                    frames += openai_stream.DONE
        return bytes(frames)


def _of_last_attempt(entries: list[OutputEntry]) -> list[OutputEntry]:
    """Without what an attempt said that is over: sent, it could only contradict what follows."""
    begins = [i for i, entry in enumerate(entries) if entry.kind is EntryKind.ATTEMPT]
    return entries[begins[-1] :] if begins else entries


def _error(error: LengthwiseError) -> bytes:
    return openai_stream.event(to_json(error.as_openai()))
