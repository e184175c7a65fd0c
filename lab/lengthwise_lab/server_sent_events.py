"""Read a stream of server-sent events. The one parser of the lab and the command line.

It is httpx-sse's. An event counts only with the blank line that ends it, so that a stream that is
cut in the middle of an event does not look complete.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
from httpx_sse import EventSource, ServerSentEvent


async def read_events(response: httpx.Response) -> AsyncIterator[ServerSentEvent]:
    """Yield the events of an open response until it ends.

    An event's `id` is that of the last event that had one. Keep-alive comments, for which httpx-sse
    yields events without data, are skipped.

    Raises:
        httpx.TransportError: The connection broke, or the response is not an event stream.
    """
    async for event in EventSource(response).aiter_sse():
        if event.data:
            yield event
