"""The record of finished requests that a queue may be set to keep, for training; see `record_rows`.

A stream beside the line, bounded in rows and in age. It is no part of a job's life: the worker
writes to it after a job has ended, and what a crash loses of it is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from lengthwise_store.codec import read_clock_ms
from lengthwise_store.keys import QueueKeys
from lengthwise_store.redis.connections import Connections
from lengthwise_store.redis.errors import read


class RedisRecord:
    """The record's part of `JobStore`."""

    _connections: Connections

    async def record(self, queue: str, rows: Sequence[bytes], *, most: int, ttl_ms: int) -> None:
        """Keep rows, and let go of those beyond `most` and of those older than `ttl_ms`."""
        key = QueueKeys(queue).record
        client = self._connections.of(key)
        now_ms = read_clock_ms(await read(client.time()))
        pipe = client.pipeline(transaction=False)
        for row in rows:
            pipe.xadd(key, {"row": row})
        # Exactly, for these are prompts: about would be up to a hundred more. It is once a second.
        pipe.xtrim(key, maxlen=most, approximate=False)
        pipe.xtrim(key, minid=str(max(0, int(now_ms) - ttl_ms)), approximate=False)
        pipe.pexpire(key, ttl_ms)
        await read(pipe.execute())

    async def recorded(
        self, queue: str, *, after: str = "0-0", limit: int = 500
    ) -> list[tuple[str, bytes]]:
        """Rows of the record behind a cursor, the oldest first, each with its cursor."""
        key = QueueKeys(queue).record
        found = await read(self._connections.of(key).xrange(key, min=f"({after}", count=limit))
        return [
            (one.decode(), fields[b"row"])
            for one, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", cast("Any", found))
        ]

    async def forget_record(self, queue: str) -> None:
        """Delete the record."""
        key = QueueKeys(queue).record
        await read(self._connections.of(key).unlink(key))
