"""HTTP connections for uvloop, which has no socket to ask about once a connection is cut.

anyio asks each new connection for its peer's address. Where the peer resets it between connect and
that question, asyncio's transport knows the address still and the first write tells; uvloop's has
no socket any more, and an `AttributeError` comes through httpx: to its callers that is a bug and
not a peer that is away. Seen in a chaos run (queue_service/lengthwise_queue/closed_transport.py is
the same for Redis).
"""

from __future__ import annotations

import httpx


class SaysCut(httpx.AsyncHTTPTransport):
    """Makes that an `httpx.ConnectError`."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        try:
            return await super().handle_async_request(request)
        except AttributeError as exc:
            if "getpeername" not in str(exc) and "getsockname" not in str(exc):
                raise
            raise httpx.ConnectError("cut before a request could be sent", request=request) from exc
