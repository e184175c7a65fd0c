"""Stores the records of responses, and the turns of their conversations. Called by their routes.

A conversation is stored as one turn for each response that was continued: the messages that it
adds. A record names the turns before it, so that the size of a conversation is the sum of its
turns. A turn lives as long as the last response that continues it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lengthwise_store.keys import response_key, turn_key
from lengthwise_store.redis.errors import read
from lengthwise_store.responses.record import JsonObject, ResponseRecord, read_record
from lengthwise_store.storage_scripts import Confirm, StorageScript, without_confirmation

#: A turn is kept for this much longer than the record that names it, ms, which is written later.
_SPARE_MS = 60_000


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
        await read(self._redis.set(response_key(record.id), _text(record.as_json()), px=ttl_ms))
        await self._confirm(response_key(record.id))

    async def get(self, tenant: str, response_id: str) -> ResponseRecord | None:
        """Return a tenant's record; None: it has none of that id."""
        raw = await read(self._redis.get(response_key(response_id)))
        record = None if raw is None else read_record(json.loads(raw))
        return record if record is not None and record.tenant == tenant else None

    async def drop(self, response_id: str) -> None:
        """Delete a record. Its turn stays, for the responses that continue it."""
        await read(self._redis.unlink(response_key(response_id)))

    async def put_turn(
        self, record: ResponseRecord, messages: Sequence[JsonObject], ttl_ms: int
    ) -> None:
        """Store the messages of a response that is continued; repeating it changes nothing.

        This turn and those before it are kept for `ttl_ms` from now, or longer.
        """
        pipe = self._redis.pipeline(transaction=False)
        pipe.set(turn_key(record.id), _text(messages), nx=True, px=ttl_ms + _SPARE_MS)
        for one in (*record.earlier, record.id):
            pipe.pexpire(turn_key(one), ttl_ms + _SPARE_MS, gt=True)
        await read(pipe.execute())

    async def turns(self, response_ids: Sequence[str]) -> list[JsonObject] | None:
        """Return the messages of these turns, in order; None: one of them has expired."""
        pipe = self._redis.pipeline(transaction=False)
        for one in response_ids:
            pipe.get(turn_key(one))
        stored = await read(pipe.execute()) if response_ids else []
        if None in stored:
            return None
        return [message for raw in stored for message in json.loads(raw)]


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
