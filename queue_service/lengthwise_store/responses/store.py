"""Stores the records of responses. Called by the routes of responses."""

from __future__ import annotations

import json
from typing import Any

from lengthwise_store.keys import response_key
from lengthwise_store.redis.errors import read
from lengthwise_store.responses.record import ResponseRecord
from lengthwise_store.storage_scripts import Confirm, StorageScript, without_confirmation


class ResponseStore:
    """The responses of one Redis. Methods raise `StoreUnavailable` when Redis does not answer."""

    def __init__(self, client: Any, confirm: Confirm = without_confirmation) -> None:
        """Connect on first use.

        Args:
            client: An asyncio client of redis-py, with bytes for replies.
            confirm: Awaited before `put` returns.
        """
        self._confirm = confirm
        self._redis = client
        self._clock = StorageScript(client, "clock")

    async def now_ms(self, response_id: str) -> int:
        """Return the time, ms since the epoch, of the Redis that has this response."""
        return int(await self._clock([response_key(response_id)], []))

    async def put(self, record: ResponseRecord, ttl_ms: int) -> None:
        """Store a record for `ttl_ms`."""
        text = json.dumps(record.as_json(), separators=(",", ":"))
        await read(self._redis.set(response_key(record.id), text, px=ttl_ms))
        await self._confirm(response_key(record.id))

    async def get(self, tenant: str, response_id: str) -> ResponseRecord | None:
        """Return a tenant's record; None: it has none of that id."""
        raw = await read(self._redis.get(response_key(response_id)))
        record = None if raw is None else ResponseRecord(**json.loads(raw))
        return record if record is not None and record.tenant == tenant else None

    async def drop(self, response_id: str) -> None:
        """Delete a record."""
        await read(self._redis.unlink(response_key(response_id)))
