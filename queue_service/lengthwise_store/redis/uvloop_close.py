"""Connections to Redis for uvloop, which says "closed" in its own way. Used by connection.py.

Where asyncio's transport takes bytes for a peer that is gone and lets the next read tell, uvloop's
raises `RuntimeError`, which redis-py hands through: to its callers that is a bug and not an outage.
Seen in a chaos run: a failover cut a connection between its connect and its first command, and the
worker's loop that listens for cancellations ended the worker.
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
    """Makes that a `ConnectionError`, which is tried again, or told as an outage."""

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        """Send a command."""
        try:
            await super().send_packed_command(*args, **kwargs)
        except RuntimeError as exc:
            raise ConnectionError(f"closed before a command could be sent: {exc}") from exc


class Plain(UvloopCloseMixin, Connection):
    """Over TCP."""


class Tls(UvloopCloseMixin, SSLConnection):
    """Over TLS."""


class Unix(UvloopCloseMixin, UnixDomainSocketConnection):
    """Over a Unix socket."""
