"""Server-sent events: how one is written, and the response that sends a stream of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lengthwise_queue.web.disconnect import ClientDisconnected, ReplicaStopping, while_connected

#: A comment is sent when nothing else was sent for this long, s. Proxies close connections that
#: were idle for 60 s.
KEEP_ALIVE_S = 10.0

#: The comment. It ends with its line, without the usual blank one: after an `id:` line, OpenAI's
#: Python client takes a blank line for an event and fails on its empty data (openai-python #2722).
KEEP_ALIVE = b": waiting\n"


def event(data: bytes, *, entry_id: str | None = None, name: str | None = None) -> bytes:
    """Write one server-sent event."""
    head = b"" if entry_id is None else b"id: %s\n" % entry_id.encode()
    if name is not None:
        head += b"event: %s\n" % name.encode()
    if b"\n" in data or b"\r" in data:  # a line break would end the field
        data = b"\ndata: ".join(data.splitlines())
    return b"%sdata: %s\n\n" % (head, data)


class EventStream(Response):
    """A response that sends server-sent events until they end or the client disconnects.

    A subclass sends its events in `_send_events`, with `_send`.
    """

    media_type = "text/event-stream"

    def __init__(
        self, headers: Mapping[str, str] | None = None, *, unless: asyncio.Event | None = None
    ) -> None:
        """Prepare the headers; nothing is sent yet.

        Args:
            headers: Headers beside those of every event stream.
            unless: The stream stops when this is set, because the client can resume elsewhere.
        """
        super().__init__(
            headers={
                **(headers or {}),
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",  # nginx would buffer the stream
            }
        )
        self.raw_headers = [h for h in self.raw_headers if h[0] != b"content-length"]
        self._unless = unless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            await while_connected(receive, self._send_events(send), unless=self._unless)
        except ClientDisconnected:
            self._on_disconnect()
            return
        except ReplicaStopping:
            complete = False
            await self._on_stopping(send)
        else:
            complete = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if complete:
            self._on_complete()

    async def _send_events(self, send: Send) -> None:
        raise NotImplementedError

    async def _send(self, send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _on_stopping(self, send: Send) -> None:
        """Called when the stream stops because of `unless`; may send a last event."""

    def _on_disconnect(self) -> None:
        """Called when the client closed the connection."""

    def _on_complete(self) -> None:
        """Called when all events were sent."""
