"""Delivers a response: the whole response object, or its events as they come.

Called by `routes`, when the job is in the queue.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lengthwise_queue.openai.assemble import assemble
from lengthwise_queue.openai.chat import CHAT
from lengthwise_queue.openai.delivery import JOB_ID_HEADER, STOPS, all_chunks, json_answer
from lengthwise_queue.openai.endpoint import JsonObject
from lengthwise_queue.openai.request_tracker import RequestTracker
from lengthwise_queue.openai.responses.events import EventBuilder
from lengthwise_queue.openai.responses.response_object import message_of, response_object
from lengthwise_queue.service import Service
from lengthwise_queue.web.disconnect import CLIENT_CLOSED_REQUEST
from lengthwise_queue.web.server_sent_events import KEEP_ALIVE, KEEP_ALIVE_S, EventStream, event
from lengthwise_store.errors import JobFailed, StoreUnavailable
from lengthwise_store.jobs import EntryKind, OutputEntry
from lengthwise_store.output_reader import stream_output
from lengthwise_store.responses.record import ResponseRecord


async def deliver(tracker: RequestTracker, record: ResponseRecord, receive: Receive) -> Response:
    """Wait for the whole answer, and return it as a response object.

    Raises:
        JobEnded: The job has no answer; carries the engine's own error, if there is one.
        AnswerInterrupted: Redis did not answer for too long, or this replica stops.
    """
    chunks = await all_chunks(tracker, receive)
    if chunks is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    end = tracker.end
    completion = assemble(
        CHAT,
        chunks,
        prompt_tokens=None if end is None else end.prompt_tokens,
        output_tokens=None if end is None else end.output_tokens,
        usage_details=None if end is None else end.usage_details,
    )
    if completion is None:
        raise JobFailed.answer_missing(tracker.job_id)
    message = message_of(completion)
    body = response_object(record, message.final_status(), message, completed_ms=tracker.ended_ms)
    return json_answer(tracker, to_json(body))


class ResponseEventStream(EventStream):
    """Sends the events of a response.

    With a `tracker`, the client is the one that created the response: if it disconnects, the
    response is cancelled. Without, the client only reads, and can resume here or elsewhere.
    """

    def __init__(
        self,
        service: Service,
        record: ResponseRecord,
        *,
        tracker: RequestTracker | None = None,
        after: int = -1,
    ) -> None:
        """Prepare the stream; nothing is sent yet.

        Args:
            service: The service of this app.
            record: The response.
            tracker: See the class.
            after: Only events with a higher sequence number are sent.
        """
        super().__init__(
            {JOB_ID_HEADER: record.job_id},
            unless=service.draining if tracker is None else service.grace_over,
        )
        self._service = service
        self._record = record
        self._tracker = tracker
        self._after = after
        self._builder = EventBuilder(record)
        self._starts = after < 0  #: The client has no part of the output.
        self._interrupted = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await super().__call__(scope, receive, send)
        except BaseException:
            if self._tracker is not None and not self._interrupted:
                self._tracker.interrupted("")  # no one is left to read the answer
            raise

    async def _send_events(self, send: Send) -> None:
        await self._send_all(send, self._builder.begin())
        try:
            async with contextlib.aclosing(self._output()) as batches:
                async for batch in batches:
                    for entry in batch:
                        if self._tracker is not None:
                            self._tracker.note(entry)
                    await self._send_all(send, self._events(batch))
                    if self._builder.ended:
                        return
        except StoreUnavailable as exc:
            await self._interrupt(send, exc.problem)

    def _events(self, batch: list[OutputEntry]) -> list[JsonObject]:
        """Return the events for some entries.

        A reader that starts gets the last attempt alone if it differs from an earlier one. A reader
        that has events of the earlier one gets an error, and starts again.
        """
        events = [one for entry in batch for one in self._builder.feed(entry)]
        if self._builder.restarted and self._starts:
            last = max(i for i, entry in enumerate(batch) if entry.kind is EntryKind.ATTEMPT)
            self._builder = EventBuilder(self._record)
            self._builder.begin()  # is sent already
            events = [one for entry in batch[last:] for one in self._builder.feed(entry)]
        self._starts = self._starts and not batch
        return events

    async def _on_stopping(self, send: Send) -> None:
        await self._interrupt(send, STOPS)

    async def _interrupt(self, send: Send, problem: str) -> None:
        """End the stream of a client that created the response.

        Other streams break off without an end: their readers resume.
        """
        if self._tracker is not None:
            self._interrupted = True
            error = self._builder.interrupted(self._tracker.interrupted(problem))
            await self._send(send, event(to_json(error), name=error["type"]))

    def _on_disconnect(self) -> None:
        if self._tracker is not None and not self._interrupted:
            self._tracker.client_disconnected()

    def _on_complete(self) -> None:
        if self._tracker is not None and not self._interrupted:
            self._tracker.answered()

    def _output(self) -> AsyncGenerator[list[OutputEntry]]:
        if self._tracker is not None:
            return self._tracker.output()
        return stream_output(
            self._service.store,
            self._record.queue,
            self._record.job_id,
            first_s=KEEP_ALIVE_S,
            beat_s=KEEP_ALIVE_S,
        )

    async def _send_all(self, send: Send, events: list[JsonObject]) -> None:
        frames = b"".join(
            event(to_json(one), name=one["type"])
            for one in events
            if one["sequence_number"] > self._after
        )
        await self._send(send, frames or KEEP_ALIVE)
