"""Delivers a job's answer to the client that waits for it: at once, or as an event stream.

Called by `routes` when the job is in the queue.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lengthwise_queue.errors import AttemptRestarted
from lengthwise_queue.openai.endpoint import Endpoint
from lengthwise_queue.openai.request_tracker import RequestTracker
from lengthwise_queue.openai.splicer import Splicer
from lengthwise_queue.web.disconnect import (
    CLIENT_CLOSED_REQUEST,
    ClientDisconnected,
    ReplicaStopping,
    while_connected,
)
from lengthwise_queue.web.server_sent_events import KEEP_ALIVE, EventStream, event
from lengthwise_store.errors import JobFailed, LengthwiseError, StoreUnavailable
from lengthwise_store.jobs import EntryKind, OutputEntry

T = TypeVar("T")

#: The response header with the id of the request's job.
JOB_ID_HEADER = "X-Lengthwise-Job-Id"

#: The last event of an OpenAI stream.
DONE = b"data: [DONE]\n\n"


#: Why an answer is interrupted.
STOPS = "This replica of the queue service stops."


async def deliver(tracker: RequestTracker, receive: Receive) -> Response:
    """Wait for the engine's complete answer, and return its bytes unchanged.

    Raises:
        JobEnded: The job has no answer; carries the engine's own error, if there is one.
        AnswerInterrupted: Redis did not answer for too long, or this replica stops.
    """
    chunks = await all_chunks(tracker, receive)
    if chunks is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return json_answer(tracker, chunks[-1])


async def all_chunks(tracker: RequestTracker, receive: Receive) -> list[bytes] | None:
    """Wait for a job's end, and return its chunks, at least one; None: the client disconnected.

    Raises:
        JobEnded: The job has no answer; carries the engine's own error, if there is one.
        AnswerInterrupted: Redis did not answer for too long, or this replica stops.
    """
    chunks = await _while_tracked(tracker, receive, tracker.all_chunks())
    if chunks is None:
        return None
    tracker.answered()
    problem = tracker.problem()
    if problem is None and not chunks:
        problem = JobFailed.answer_missing(tracker.job_id)
    if problem is not None:
        raise problem
    return chunks


def json_answer(tracker: RequestTracker, body: bytes) -> Response:
    """Make the response to a request whose job was answered."""
    return Response(body, media_type="application/json", headers={JOB_ID_HEADER: tracker.job_id})


async def _while_tracked(
    tracker: RequestTracker, receive: Receive, work: Coroutine[Any, Any, T]
) -> T | None:
    """Run `work` for as long as the client waits for it; None: it disconnected.

    Raises:
        AnswerInterrupted: Redis did not answer for too long, or this replica stops.
    """
    try:
        return await while_connected(receive, work, unless=tracker.service.grace_over)
    except ClientDisconnected:
        tracker.client_disconnected()
        return None
    except ReplicaStopping as exc:
        raise tracker.interrupted(STOPS) from exc
    except StoreUnavailable as exc:
        raise tracker.interrupted(exc.problem) from exc
    except BaseException:
        tracker.interrupted("")  # no one is left to read the answer, whatever went wrong
        raise


async def deliver_stream(
    tracker: RequestTracker, endpoint: Endpoint[Any], receive: Receive
) -> Response:
    """Return a response that sends the engine's chunks as they come.

    Raises:
        JobEnded: The job ended without an answer before the headers had to be sent.
        AnswerInterrupted: This replica stops.
    """
    batches = tracker.output()
    try:
        early = await _while_tracked(tracker, receive, _first_entries(batches))
        if early is None:
            await batches.aclose()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        for entry in early:
            tracker.note(entry)
        problem = tracker.problem()
        if problem is not None and tracker.first_s is None:
            tracker.answered()
            raise problem
    except BaseException:
        await batches.aclose()
        raise
    return OpenAIStream(tracker, endpoint, early, batches)


async def _first_entries(batches: AsyncGenerator[list[OutputEntry]]) -> list[OutputEntry]:
    """Wait for entries, until the headers must be sent. A new attempt alone does not need them."""
    early: list[OutputEntry] = []
    async for batch in batches:
        early += batch
        if not batch or any(e.kind is not EntryKind.ATTEMPT for e in batch):
            break
    return early


class OpenAIStream(EventStream):
    """Sends a job's output as the events of an OpenAI stream."""

    def __init__(
        self,
        tracker: RequestTracker,
        endpoint: Endpoint[Any],
        early: list[OutputEntry],
        batches: AsyncGenerator[list[OutputEntry]],
    ) -> None:
        super().__init__({JOB_ID_HEADER: tracker.job_id}, unless=tracker.service.grace_over)
        self._tracker = tracker
        self._early = early
        self._batches = batches
        self._splicer = Splicer(endpoint, tracker.job_id)
        self._interrupted = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await super().__call__(scope, receive, send)
        except BaseException:
            if not self._interrupted:
                self._tracker.interrupted("")  # no one is left to read the answer
            raise
        finally:
            await self._batches.aclose()

    async def _send_events(self, send: Send) -> None:
        try:
            await self._send(send, self._events(self._early) or KEEP_ALIVE)
            if self._tracker.end is None:
                async for batch in self._batches:
                    for entry in batch:
                        self._tracker.note(entry)
                    await self._send(send, self._events(batch) or KEEP_ALIVE)
        except AttemptRestarted as exc:
            exc.job_id = self._tracker.job_id
            await self._send(send, _error(exc) + DONE)
        except StoreUnavailable as exc:
            self._interrupted = True
            await self._send(send, _error(self._tracker.interrupted(exc.problem)) + DONE)

    async def _on_stopping(self, send: Send) -> None:
        self._interrupted = True
        await self._send(send, _error(self._tracker.interrupted(STOPS)) + DONE)

    def _on_disconnect(self) -> None:
        if not self._interrupted:
            self._tracker.client_disconnected()

    def _on_complete(self) -> None:
        if not self._interrupted:
            self._tracker.answered()

    def _events(self, entries: list[OutputEntry]) -> bytes:
        """Return the events for some entries, joined, so that they are one write to the socket."""
        events = bytearray()
        for entry in _of_last_attempt(entries):
            match entry.kind:
                case EntryKind.CHUNK:
                    rest = self._splicer.feed(entry.data)
                    if rest is not None:
                        events += event(rest, entry_id=entry.id)
                case EntryKind.ATTEMPT:
                    self._splicer.new_attempt()
                    events += b": attempt %d\n" % entry.attempt  # a comment, for a human reader
                case EntryKind.END:
                    problem = self._tracker.problem()
                    if problem is None:
                        self._splicer.end()
                    else:
                        events += _error(problem)
                    events += DONE
        return bytes(events)


def _of_last_attempt(entries: list[OutputEntry]) -> list[OutputEntry]:
    """Return the entries of the last attempt; those of an earlier one could only contradict it."""
    starts = [i for i, entry in enumerate(entries) if entry.kind is EntryKind.ATTEMPT]
    return entries[starts[-1] :] if starts else entries


def _error(error: LengthwiseError) -> bytes:
    return event(to_json(error.as_openai()))
