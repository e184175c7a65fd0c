"""Tick the queues that no worker serves.

The workers of a queue tick it while there are any. Without a tick a delay never ends, so an
autoscaler at zero replicas would see no work; a deadline never passes, so a client would wait for
ever; and workers that have ended would still be counted. Every replica of the queue service runs
this; the store accepts one tick at a time.
"""

from __future__ import annotations

import logging

from lengthwise_contract.defaults import BEAT_MS
from lengthwise_queue.background.each import EachItem
from lengthwise_queue.background.periodic import repeat
from lengthwise_store.queues import QueueStats
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: The pause between two checks, s; a delay or a deadline of such a queue may end this much later.
EVERY_S = 5.0

#: A worker that was silent for two heartbeats does not tick either, ms.
SILENT_MS = 2.0 * BEAT_MS


class IdleQueueTicker:
    """Ticks the queues without a worker. Errors are logged and do not end the loop."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._each = EachItem("idle queues")

    async def run(self) -> None:
        """Check every `EVERY_S`, until cancelled."""
        await repeat(self.check, every_s=EVERY_S, what="idle queues")

    async def check(self) -> None:
        """Check every queue once.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        names = [queue.name for queue in await self._store.queues()]
        await self._each.do(names, self._check_one)

    async def _check_one(self, queue: str) -> None:
        if _has_worker(await self._store.stats(queue)):
            return
        report = await self._store.tick(queue)
        if report is not None and (moved := {k: v for k, v in vars(report).items() if v}):
            log.info("tick without a worker", extra={"queue": queue} | moved)


def _has_worker(stats: QueueStats) -> bool:
    return any(stats.now_ms - worker.seen_ms < SILENT_MS for worker in stats.workers)
