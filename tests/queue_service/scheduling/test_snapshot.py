"""The snapshots of all queues, on a real Valkey."""

from __future__ import annotations

import asyncio

import redis.asyncio as redis

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.scheduling.snapshot import QueueCache
from lengthwise_store.keys import QueueKeys
from lengthwise_store.store import JobStore


def test_a_queue_that_cannot_be_read_hides_no_other(redis_url: str) -> None:
    async def body() -> list[list[str]]:
        store = JobStore(redis_url)
        client = redis.from_url(redis_url)
        cache, lengths = QueueCache(store), QueueKeys("b").lengths
        found = []
        try:
            for name in ("a", "b", "c"):
                await store.put_queue(name, QueueSettings())
            for damage in (True, False):
                if damage:
                    await client.set(lengths, "no list")
                else:
                    await client.delete(lengths)
                found.append([snapshot.queue.name for snapshot in await cache.read_all()])
        finally:
            await client.aclose()
            await store.aclose()
        return found

    assert asyncio.run(body()) == [["a", "c"], ["a", "b", "c"]]
