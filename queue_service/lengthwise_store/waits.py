"""Blocking waits: for work, for cancellations, for output."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio as redis

from lengthwise_store.jobs import OutputEntry
from lengthwise_store.keys import QueueKeys
from lengthwise_store.output_hub import OutputHub
from lengthwise_store.reads import JobReads
from lengthwise_store.redis.errors import is_outage, unavailable
from lengthwise_store.redis.settings import RedisAddress
from lengthwise_store.settings import StoreSettings


class JobWaits(JobReads):
    """The methods of `JobStore` that block. Each kind has connections of its own."""

    def __init__(
        self, address: RedisAddress, settings: StoreSettings, now_ms: float | None
    ) -> None:
        """Open nothing yet; see `JobStore` for the arguments."""
        super().__init__(address, settings, now_ms)
        self._work_clients: dict[str, redis.Redis] = {}
        self._pubsub: dict[str, Any] = {}
        self._hubs: dict[str, OutputHub] = {}

    async def wait_for_work(self, queue: str, timeout_s: float) -> bool:
        """Block until a job may be waiting, or the timeout passes.

        Holds a connection per queue; at most one wait per queue and store object at a time.
        """
        client = self._work_clients.get(queue)
        if client is None:
            # A connection of its own: a blocking command that is cancelled leaves its reply
            # unread, and another caller must never read that (redis-py #2624).
            key = QueueKeys(queue).wake
            client = self._work_clients[queue] = self._connections.own(key, timeout_s + 5)
        # In a task of its own, because redis-py can swallow a cancellation that arrives together
        # with the reply; so a cancelled caller returns at once. If a marker was popped at that very
        # moment, the next tick puts it back.
        popped = asyncio.ensure_future(client.bzpopmin(QueueKeys(queue).wake, timeout_s))
        try:
            return await asyncio.shield(popped) is not None
        except BaseException as exc:
            self._work_clients.pop(queue, None)
            popped.add_done_callback(lambda task: task.cancelled() or task.exception())
            # End the command before the client is closed: otherwise it would connect once more and
            # never close that connection.
            while not popped.done():
                popped.cancel()
                await asyncio.wait({popped}, timeout=0.5)
            await client.aclose()
            if is_outage(exc):
                raise unavailable(exc) from exc
            raise

    async def cancellations(self, queue: str, timeout_s: float) -> list[str]:
        """Return ids of jobs whose cancellation was requested since the last call.

        A hint only: `beat` has the truth. Waits up to `timeout_s` for the first, on a connection of
        its own.
        """
        pubsub = self._pubsub.get(queue)
        try:
            if pubsub is None:
                pubsub = self._pubsub[queue] = self._at(queue).pubsub(
                    ignore_subscribe_messages=True
                )
                await pubsub.subscribe(QueueKeys(queue).control)
            first = await pubsub.get_message(timeout=timeout_s)
            ids: list[str] = []
            while first is not None:
                ids.append(first["data"].decode())
                first = await pubsub.get_message(timeout=0)
        except BaseException as exc:
            if self._pubsub.pop(queue, None) is not None and pubsub is not None:
                await pubsub.aclose()
            if is_outage(exc):
                raise unavailable(exc) from exc
            raise
        return ids

    async def wait_output(
        self, queue: str, job_id: str, *, after: str = "0-0", timeout_s: float
    ) -> list[OutputEntry]:
        """Like `read_output`, but wait up to `timeout_s` for the first entry.

        All waits of a store object share one blocking connection per queue.
        """
        hub = self._hubs.get(queue)
        if hub is None:
            k = QueueKeys(queue)
            hub = self._hubs[queue] = OutputHub(
                self._connections.own(k.prefix, OutputHub.BLOCK_S + 5),
                self._at(queue),
                k,
            )
        out = QueueKeys(queue).out(job_id)
        if hub.is_behind(out, after):
            found = await self.read_output(queue, job_id, after=after)
            if found:
                return found

        async def read_again() -> list[OutputEntry]:
            return await self.read_output(queue, job_id, after=after)

        return await hub.wait(out, after, timeout_s, read_now=read_again) or await read_again()

    async def aclose(self) -> None:
        """Close every connection."""
        for hub in self._hubs.values():
            await hub.aclose()
        for pubsub in self._pubsub.values():
            await pubsub.aclose()
        for client in self._work_clients.values():
            await client.aclose()
        await super().aclose()
