"""Answers a client of the Responses API: the whole response, or its events as they come.

Called by `routes_responses`, when the job is in the line.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lengthwise_queue.openai import assemble as responses
from lengthwise_queue.openai.answers import (
    CLIENT_CLOSED_REQUEST,
    JOB_ID_HEADER,
    KEEP_ALIVE_S,
    RequestTracker,
)
from lengthwise_queue.openai.responses import response_object
from lengthwise_queue.openai.responses.events import EventBuilder, JsonObject
from lengthwise_queue.openai.sse import KEEP_ALIVE, event
from lengthwise_queue.service import Service
from lengthwise_store.errors import JobFailed, StoreUnavailable
from lengthwise_store.jobs import EntryKind, OutputEntry
from lengthwise_store.output_reader import ClientDisconnected, Drained, follow, while_connected
from lengthwise_store.responses.record import ResponseRecord


async def plain(visit: RequestTracker, record: ResponseRecord, receive: Receive) -> Response:
    """The whole response, when it is there.

    Raises:
        JobEnded: There is none; carries the engine's own error, if it gave one.
        StoreUnavailable: Redis was away for too long.
    """
    try:
        chunks = await while_connected(receive, _collect(visit))
    except ClientDisconnected:
        visit.client_disconnected()
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    visit.answered()
    problem = visit.problem()
    end = visit.end
    chat = responses.assemble(
        visit.ticket.new.endpoint,
        chunks,
        prompt_tokens=None if end is None else end.prompt_tokens,
        output_tokens=None if end is None else end.output_tokens,
    )
    if problem is None and chat is None:
        problem = JobFailed.answer_missing(visit.job_id)
    if problem is not None:
        raise problem
    answer = response_object.answer_of(chat)
    status = response_object.ended_well(answer)
    completed_ms = await visit.service.responses.now_ms(record.id)
    body = response_object.view(record, status, answer, completed_ms=completed_ms)
    return Response(
        to_json(body), media_type="application/json", headers={JOB_ID_HEADER: visit.job_id}
    )


async def _collect(visit: RequestTracker) -> list[bytes]:
    chunks: list[bytes] = []
    async with contextlib.aclosing(visit.follow()) as batches:
        async for batch in batches:
            for entry in batch:
                visit.note(entry)
                if entry.kind is EntryKind.ATTEMPT:
                    chunks = []
                elif entry.kind is EntryKind.CHUNK:
                    chunks.append(entry.data)
    return chunks


class EventStream(Response):
    """Sends a response's events until its end or the client's.

    With a `visit` it is the client that asked for the response, and its going away withdraws it.
    Without, it is a reader, who may come back, here or at another replica.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        service: Service,
        record: ResponseRecord,
        *,
        visit: RequestTracker | None = None,
        after: int = -1,
    ) -> None:
        """Nothing is sent yet.

        Args:
            service: This app's.
            record: Which response.
            visit: See the class.
            after: Only events with a higher sequence number.
        """
        super().__init__(
            headers={
                JOB_ID_HEADER: record.job_id,
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )
        self.raw_headers = [h for h in self.raw_headers if h[0] != b"content-length"]
        self._service = service
        self._record = record
        self._visit = visit
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        unless = self._service.draining if self._visit is None else None
        try:
            await while_connected(receive, self._send_all(send), unless=unless)
        except ClientDisconnected:
            if self._visit is not None:
                self._visit.client_disconnected()
            return
        except Drained:
            pass  # it may read on elsewhere
        else:
            if self._visit is not None:
                self._visit.answered()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        narrator = EventBuilder(self._record)
        await self._send(send, narrator.begin())
        try:
            async with contextlib.aclosing(self._entries()) as batches:
                async for batch in batches:
                    events: list[JsonObject] = []
                    for entry in batch:
                        if self._visit is not None:
                            self._visit.note(entry)
                        events += narrator.feed(entry)
                    await self._send(send, events)
                    if narrator.ended:
                        return
        except StoreUnavailable:
            return  # cut off, without an end: the reader resumes, and is told by a 503

    def _entries(self) -> AsyncGenerator[list[OutputEntry]]:
        if self._visit is not None:
            return self._visit.follow()
        return follow(
            self._service.store,
            self._record.queue,
            self._record.job_id,
            first_s=KEEP_ALIVE_S,
            beat_s=KEEP_ALIVE_S,
        )

    async def _send(self, send: Send, events: list[JsonObject]) -> None:
        frames = b"".join(
            event(to_json(one), name=one["type"])
            for one in events
            if one["sequence_number"] > self._after
        )
        body = frames or KEEP_ALIVE
        await send({"type": "http.response.body", "body": body, "more_body": True})
