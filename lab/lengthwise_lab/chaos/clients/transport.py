"""HTTP connections on uvloop, with the error of a connection that is reset before its first use.

anyio reads the peer's address of each new connection. If the peer resets the connection before
that, asyncio's transport still has the address, and the first write fails. uvloop's transport has
no socket any more, and httpx raises `AttributeError`, which looks like a bug and not like a lost
peer. Observed in a chaos run. lengthwise_store/redis/uvloop_close.py does the same for Redis.
"""

from __future__ import annotations

import httpx


class UvloopTransport(httpx.AsyncHTTPTransport):
    """A transport that raises `httpx.ConnectError` in that case."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        try:
            return await super().handle_async_request(request)
        except AttributeError as exc:
            if "getpeername" not in str(exc) and "getsockname" not in str(exc):
                raise
            raise httpx.ConnectError("reset before a request was sent", request=request) from exc
