"""Connections to Redis that treat uvloop's error for a closed peer as a lost connection.

asyncio's transport accepts bytes for a peer that is gone, and the next read fails. uvloop's raises
`RuntimeError`, which redis-py passes on: to its callers that is a bug and not an outage. Seen
in a chaos run: a failover cut a connection between its connect and its first command, and the
worker's loop that waits for cancellations ended the worker. Used by connections.py and
failover_pool.py.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import ConnectionError  # noqa: A004 - the client's own, not the built-in


class UvloopCloseMixin(AbstractConnection):
    """Raises `ConnectionError` instead, which is retried, or reported as an outage."""

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        """Send a command."""
        try:
            await super().send_packed_command(*args, **kwargs)
        except RuntimeError as exc:
            raise ConnectionError(f"closed before a command could be sent: {exc}") from exc


class PlainConnection(UvloopCloseMixin, Connection):
    """A TCP connection."""


class TlsConnection(UvloopCloseMixin, SSLConnection):
    """A TLS connection."""


class UnixConnection(UvloopCloseMixin, UnixDomainSocketConnection):
    """A connection over a Unix socket."""
