"""Claims jobs as the engine has room for them: slot by slot, or in whole batches.

One `Claimer` for each set of connections, like `Heartbeat`; worker.py starts its loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Claim
from lengthwise_store.store import JobStore
from lengthwise_worker.backoff import Backoff, StoreLink
from lengthwise_worker.batching import Batching, BatchingMode
from lengthwise_worker.settings import Settings
from lengthwise_worker.tasks import unless_set

#: How long one wait for work lasts, s. Then the worker claims anyway, in case a wake-up was lost.
_WAIT_S = 2.0


class StartJobs(Protocol):
    """Starts claimed jobs; those with a `gate` wait until it is set."""

    def __call__(self, claims: Sequence[Claim], gate: asyncio.Event | None = None) -> None:
        """Start the jobs."""


class Claimer:
    """Claims jobs of one queue on one set of connections.

    Args:
        store: Where to claim.
        settings: The worker's.
        batching: How many jobs may run.
        link: Gets the state of the store.
        stopping: Set when the worker stops.
        changed: Set when there may be room for more jobs.
        room: How many more jobs the engine may get now.
        running: How many jobs are claimed and not finished.
        start: Starts claimed jobs.
    """

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        *,
        batching: Batching,
        link: StoreLink,
        stopping: asyncio.Event,
        changed: asyncio.Event,
        room: Callable[[], int],
        running: Callable[[], int],
        start: StartJobs,
    ) -> None:
        self._store, self._settings, self._batching, self._link = store, settings, batching, link
        self._stopping, self._changed = stopping, changed
        self._engine_room, self._running, self._start = room, running, start

    async def run(self) -> None:
        """Claim jobs until the worker stops."""
        backoff, empty = Backoff(), False
        while not self._stopping.is_set():
            if self._room() <= 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                if empty:
                    await unless_set(self._stopping, self._wait_for_work(_WAIT_S))
                empty = await self._fill_slots() if self._engine_room() > 0 else False
            except StoreUnavailable as exc:
                self._link.failed(exc)
                await unless_set(self._stopping, asyncio.sleep(backoff.next_s()))
            else:
                backoff.reset()

    async def _wait_for_work(self, timeout_s: float) -> None:
        # At least 10 ms, because a timeout of 0 means "for ever" to Redis.
        await self._store.wait_for_work(self._settings.queue, max(0.01, timeout_s))

    async def _fill_slots(self) -> bool:
        """Fill the free slots, and return whether the queue was empty afterwards."""
        if self._batching.mode is BatchingMode.STATIC:
            return await self._fill_batch()
        room = self._room()
        claims = await self._claim(room)
        self._start(claims)
        return len(claims) < room

    def _room(self) -> int:
        return min(self._batching.room(self._running()), self._engine_room())

    async def _claim(self, count: int) -> list[Claim]:
        if count <= 0:
            return []
        claims = await self._store.claim(
            self._settings.queue, worker_id=self._settings.worker_id, count=count
        )
        self._link.worked()
        return claims

    async def _fill_batch(self) -> bool:
        """Gather a batch for at most `wait_ms` from its first job, then start it as a whole.

        Returns:
            Whether the queue was empty.
        """
        gate, started, ends = asyncio.Event(), 0, 0.0
        try:
            while not self._stopping.is_set():
                room = min(self._batching.room(started, filling=True), self._engine_room())
                claims = await self._claim(room)
                self._start(claims, gate)
                if not started:
                    ends = time.monotonic() + self._batching.wait_ms / 1000
                started += len(claims)
                left = ends - time.monotonic()
                if not started or started >= self._batching.capacity or left <= 0:
                    return not started
                if room <= 0:
                    return False  # the engine is in trouble, or may get only a few jobs
                if len(claims) < room:
                    await unless_set(self._stopping, self._wait_for_work(left))
            return False
        finally:
            if not self._stopping.is_set():
                gate.set()
