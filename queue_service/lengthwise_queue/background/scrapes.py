"""Computes the text of `/metrics`, at most once in a while, whoever asks and however often.

A scrape reads every queue and computes statistics of their answers on the event loop, beside the
requests. Sixteen scrapers without a pause once made a submit take a hundred times as long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from lengthwise_queue.scheduling.snapshot import QueueCache, QueueSnapshot
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.store import JobStore

#: Makes the text, of the queues (None: Redis does not answer) and a sample of each one's lengths.
Expose = Callable[[Iterable[QueueSnapshot] | None, Mapping[str, Sequence[float]]], bytes]


class Scrapes:
    """The last scrape, and the one that is being computed.

    Args:
        store: Where the queues are.
        queue_cache: Reads their figures.
        expose: Makes the text.
        age_s: How old a scrape may be that is returned again, s; 0: each is computed anew.
    """

    def __init__(
        self, store: JobStore, queue_cache: QueueCache, expose: Expose, *, age_s: float
    ) -> None:
        self._store, self._queue_cache, self._expose = store, queue_cache, expose
        self._age_s = age_s
        self._last: tuple[float, bytes] | None = None
        self._computing: asyncio.Task[bytes] | None = None

    async def text(self) -> bytes:
        """Return a scrape that is at most `age_s` old; callers at the same time share one."""
        if self._last is not None and time.monotonic() - self._last[0] < self._age_s:
            return self._last[1]
        if self._computing is None or self._computing.done():
            self._computing = asyncio.create_task(self._compute())
        return await asyncio.shield(self._computing)

    async def _compute(self) -> bytes:
        try:
            snapshots = await self._queue_cache.read_all()
            names = [snapshot.queue.name for snapshot in snapshots if snapshot.stats.depth]
            waiting = {name: await self._store.waiting_lengths(name) for name in names}
        except StoreUnavailable:
            snapshots, waiting = None, {}
        text = self._expose(snapshots, waiting)
        self._last = (time.monotonic(), text)
        return text
